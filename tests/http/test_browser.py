"""The pages in a real browser: what a person does, and that every person can."""

from __future__ import annotations

import pytest

from tests.http.chromium import Chromium, Site, check, look
from tests.http.pages_shop import EVIL

PAGES = ("/", "/dashboard/tasks", "/dashboard/workers", "/dashboard/dead-letters")


@pytest.fixture(scope="module")
def hostile(site: Site) -> str:
    """The id of a task that is hostile wherever it is shown."""
    task_id = site.submit("hostile", {EVIL: [EVIL], "password": "hunter2hunter2"})
    site.ended(task_id)
    for status in ("", "x"):
        site.ended(site.submit("echo", {"text": EVIL + status}))
    # A name that no registry takes.
    site.execute("UPDATE tasks SET type = ? WHERE type = 'hostile'", EVIL)
    return task_id


# --- what a person does ---------------------------------------------------------------------


def test_submit_watch_cancel_retry(chrome: Chromium, site: Site) -> None:
    """As someone who has read nothing."""
    page = chrome.open("/dashboard/submit")
    page.get_by_role("link", name="steps").click()
    page.get_by_label("Payload").fill("{}")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_selector(".status.processing")  # by itself: nothing is reloaded
    first = page.get_by_role("progressbar").get_attribute("value")
    page.wait_for_function(
        "before => document.querySelector('progress').getAttribute('value') !== before", arg=first
    )
    page.wait_for_selector(".running .logs .warning:has-text('WARNING shop: step')")
    page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    assert "Cancel this task?" in dialog.inner_text()
    dialog.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(".status.cancelled")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_selector("text=1 task put back to work.")
    page.wait_for_selector(".running .logs")
    assert page.locator("details[open] .logs").count() == 0, "those of the attempt before"
    site.ask("DELETE", "/tasks/" + page.url.rpartition("/")[2])
    page.wait_for_selector("details[open] .logs")  # what is watched stays in sight at the end


def test_a_notice_goes_when_it_has_been_read(chrome: Chromium) -> None:
    page = chrome.open("/dashboard/submit?type=mail")
    page.get_by_label("to").fill("x")
    page.get_by_label("Start in").fill("3600")
    # The next page's clock stands still, however long the test takes on a busy machine.
    page.add_init_script("window.passed = 0; Date.now = () => window.passed;")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_selector("text=Submitted.")
    notice = page.locator("#notice")
    notice.evaluate("each => each.append(document.createElement('button'))")  # as an undo is one
    page.evaluate("window.passed = 5000")
    look(page)
    assert notice.is_visible()
    notice.evaluate("each => each.lastChild.remove()")
    look(page)
    assert notice.count() == 0


def test_redrive(chrome: Chromium, site: Site, hostile: str) -> None:
    bad = site.failed()
    page = chrome.open("/dashboard/dead-letters")
    row = page.locator("tbody tr", has_text=bad)
    row.get_by_role("checkbox").check()
    assert page.locator("#selected").inner_text() == "1 selected"
    page.get_by_role("button", name="Redrive", exact=True).click()
    page.wait_for_selector("text=1 dead letter put back to work.")


def test_select_all_and_cancel_with_undo(chrome: Chromium, site: Site) -> None:
    site.waiting(3, "echo")
    page = chrome.open("/dashboard/tasks?status=PENDING&type=echo")
    assert page.get_by_role("button", name="Cancel").is_disabled()
    page.get_by_label("Select all on this page").check()
    assert page.locator("#selected").inner_text() == "3 selected"
    page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    assert "Cancel the 3 selected tasks?" in dialog.inner_text()
    dialog.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("text=3 tasks cancelled.")
    page.wait_for_selector("text=No task matches this filter")


def test_what_is_selected_stays_so_while_the_list_changes(chrome: Chromium, site: Site) -> None:
    kept = site.submit("mail", {"to": "kept"}, delay_seconds=3600)
    page = chrome.open("/dashboard/tasks?type=mail")
    page.locator("tbody tr", has_text=kept[-12:]).get_by_role("checkbox").check()
    new = site.submit("mail", {"to": "new"}, delay_seconds=3600)
    page.wait_for_selector(f"text={new[-12:]}")  # without a reload

    assert page.locator("tbody tr", has_text=kept[-12:]).get_by_role("checkbox").is_checked()
    assert page.locator("#selected").inner_text() == "1 selected"


def test_all_of_it_without_the_script(chrome: Chromium, site: Site) -> None:
    task_id = site.submit("mail", {"to": "x"}, delay_seconds=3600)
    page = chrome.open(f"/dashboard/tasks/{task_id}", java_script_enabled=False)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancel this task?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("1 task cancelled.").wait_for()
    page.goto("/")
    assert page.locator("svg polyline").count() > 0


# --- trouble --------------------------------------------------------------------------------


def test_the_server_gone_and_back(chrome: Chromium, site: Site) -> None:
    page = chrome.open("/")
    page.evaluate("window.same = true")
    banner = page.locator("#gone")
    assert banner.is_hidden()

    site.kill()
    banner.wait_for(state="visible")
    assert "Reconnecting" in banner.inner_text()
    site.start()
    banner.wait_for(state="hidden")
    assert page.evaluate("window.same")  # it was not loaded anew
    chrome.let_loads_be_refused()


def test_an_expired_login_leads_to_the_login_and_back(chrome: Chromium) -> None:
    page = chrome.open("/dashboard/tasks?status=FAILED", apart=True)
    page.context.clear_cookies()
    page.evaluate("dispatchEvent(new Event('online'))")  # a look of the script finds it
    page.wait_for_selector("text=API key")

    page.get_by_label("API key").fill("k" * 32)
    page.get_by_role("button", name="Log in").click()

    page.wait_for_url("**/dashboard/tasks?status=FAILED")
    chrome.let_loads_be_refused()  # the events of one who is not logged in


def test_hidden_it_asks_for_nothing(chrome: Chromium) -> None:
    page = chrome.open("/")
    page.clock.install()  # the browser's time is the test's
    page.reload()
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.clock.run_for(60_000)
    assert asked == []

    page.evaluate(hide, False)
    page.clock.run_for(10_000)

    assert asked != []


def test_nothing_hostile_comes_alive(chrome: Chromium, hostile: str) -> None:
    """`chrome` hears of a dialog, an error and of what the policy refused."""
    page = chrome.open("/")
    for path in (*PAGES, f"/dashboard/tasks?type={EVIL}", f"/dashboard/tasks/{hostile}"):
        page.goto(path)
        assert page.locator("img, iframe, main script").count() == 0
        look(page)
        assert page.locator("img, iframe, main script").count() == 0
    text = page.locator("main").inner_text()
    assert text.count("<script>alert(1)</script>") >= 5  # type, payload, progress, error, log line
    assert "hunter2" not in page.content()
    assert page.locator(".logs").get_by_text("onerror").count() == 1


# --- for everyone ---------------------------------------------------------------------------


def test_axe_finds_nothing(chrome: Chromium, hostile: str) -> None:
    page = chrome.open("/")
    # What is there depends on the width, and all colours are on them.
    dense = ("/", "/dashboard/tasks", f"/dashboard/tasks/{hostile}")
    for path in (
        *dense,
        "/dashboard/workers",
        "/dashboard/dead-letters",
        "/dashboard/submit",
        "/dashboard/submit?type=mail",
        "/dashboard/tasks?status=LOST",
        "/dashboard/tasks/none",
    ):
        page.goto(path)
        check(page, is_dense=path in dense)
        if path == "/":
            page.get_by_role("button", name="Keyboard shortcuts").click()
            check(page)
    check(chrome.open("/", key=None))
    chrome.let_loads_be_refused()


def test_by_the_keyboard_alone(chrome: Chromium, site: Site) -> None:
    site.submit("mail", {"to": "x"}, delay_seconds=3600)
    page = chrome.open("/", apart=True)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.type("gt")
    page.wait_for_url("**/dashboard/tasks")
    page.keyboard.type("jx")
    assert page.locator("#selected").inner_text() == "1 selected"
    page.keyboard.press("/")
    page.keyboard.type("mail")
    page.keyboard.press("Enter")
    page.wait_for_url("**type=mail**")
    page.keyboard.press("?")
    page.get_by_role("dialog").get_by_label("Shortcuts are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.type("gw")
    page.get_by_role("heading", name="Tasks").wait_for()
    assert "/dashboard/tasks" in page.url


def test_the_chosen_colours_stay(chrome: Chromium) -> None:
    page = chrome.open("/", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)

    page.get_by_role("button", name="Colours").click()
    page.wait_for_selector("html[data-theme=dark]")

    assert page.evaluate(ground) != light
    page.goto("/dashboard/workers")
    assert page.evaluate(ground) != light
