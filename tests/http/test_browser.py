"""The pages in a real browser, on a real engine: one of each for all tests of this module."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from playwright import sync_api

from local_aws.downloads import NotAvailable, axe, chromium
from tests.cli.runner import Server, Shop
from tests.http import pages_shop
from tests.http.pages_shop import EVIL

KEY = "k" * 32
WAIT = 20_000
"""Milliseconds that a busy machine may take."""

PAGES = ("/", "/dashboard/tasks", "/dashboard/workers", "/dashboard/dead-letters")


@pytest.fixture(scope="module")
def programs() -> tuple[Path, str]:
    """The browser, and the source of axe."""
    try:
        return chromium(), axe().read_text()
    except NotAvailable as reason:
        if os.environ.get("TQE_TEST_SERVERS") == "all":
            pytest.fail(f"TQE_TEST_SERVERS=all, but {reason}", pytrace=False)
        pytest.skip(f"pages cannot be looked at here: {reason}")


class Site:
    """The engine, from outside."""

    def __init__(self, server: Server, database: Path) -> None:
        self.url = server.url
        self._database = database

    def submit(self, task_type: str, payload: Any, **more: Any) -> str:
        body = {"type": task_type, "payload": payload, **more}
        return str(self.ask("POST", "/tasks", body)["id"])

    def ended(self, task_id: str) -> dict[str, Any]:
        return self.ask("GET", f"/tasks/{task_id}?wait=20")

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def rename_types(self, old: str, new: str) -> None:
        """Types with names that no registry takes, as another program may have stored them."""
        connection = apsw.Connection(str(self._database))
        connection.set_busy_timeout(20_000)
        connection.execute("UPDATE tasks SET type = ? WHERE type = ?", (new, old))
        connection.close()


@pytest.fixture(scope="module")
def site(programs: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("pages")
    shop = Shop(path)
    (path / "shop.py").write_text(Path(pages_shop.__file__).read_text())
    with shop.serve(
        TQE_API_KEYS=KEY,
        TQE_REDACT="payload.password",
        TQE_DATABASE=str(path / "tasks.db"),
        TQE_METRICS_INTERVAL="0.2",
    ) as server:
        yield Site(server, path / "tasks.db")


@pytest.fixture(scope="module")
def chrome(programs: tuple[Path, str]) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(programs[0]), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(chrome: Any, site: Site) -> Iterator[Open]:
    """A page of a browser that is logged in. Whatever its console says against it, a refused script
    or an exception, fails the test."""
    contexts: list[Any] = []
    said: list[str] = []

    def open_one(path: str = "/", *, login: bool = True, **options: Any) -> Any:
        context = chrome.new_context(base_url=site.url, **options)
        contexts.append(context)
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss())
        )
        page.goto(path)
        if login:
            page.get_by_label("API key").fill(KEY)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_selector("text=Log out")
        return page

    open_one.said = said  # type: ignore[attr-defined] # for a test that provokes it
    yield open_one
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture(scope="module")
def hostile(site: Site) -> str:
    """The id of a task that is hostile wherever it is shown."""
    task_id = site.submit("hostile", {EVIL: [EVIL], "password": "hunter2hunter2"})
    site.ended(task_id)
    for status in ("", "x"):
        site.ended(site.submit("echo", {"text": EVIL + status}))
    site.rename_types("hostile", EVIL)
    return task_id


# --- what a person does ---------------------------------------------------------------------


def test_submit_watch_cancel_retry(open_page: Open, site: Site) -> None:
    """As someone who has read nothing."""
    page = open_page("/dashboard/submit")
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
    dialog.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(".status.cancelled")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_selector("text=1 task put back to work.")
    page.wait_for_selector(".running .logs")
    assert page.locator("details[open] .logs").count() == 0, "those of the attempt before"
    site.ask("DELETE", "/tasks/" + page.url.rpartition("/")[2])
    page.wait_for_selector("details[open] .logs")  # what is watched stays in sight at the end


def test_redrive(open_page: Open, site: Site, hostile: str) -> None:
    bad = site.submit("hostile", 1)
    site.ended(bad)
    page = open_page("/dashboard/dead-letters")
    row = page.locator("tbody tr", has_text=bad)
    row.get_by_role("checkbox").check()
    assert page.locator("#selected").inner_text() == "1 selected"
    page.get_by_role("button", name="Redrive", exact=True).click()
    page.wait_for_selector("text=1 dead letter put back to work.")


def test_select_all_and_cancel_with_undo(open_page: Open, site: Site) -> None:
    for _ in range(3):
        site.submit("echo", {"to": "x"}, delay_seconds=3600)
    page = open_page("/dashboard/tasks?status=PENDING&type=echo")
    assert page.get_by_role("button", name="Cancel").is_disabled()
    page.get_by_label("Select all on this page").check()
    assert page.locator("#selected").inner_text() == "3 selected"
    page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    assert "Cancel the 3 selected tasks?" in dialog.inner_text()
    dialog.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("text=3 tasks cancelled.")
    page.wait_for_selector("text=No task matches this filter")


def test_what_is_selected_stays_so_while_the_list_changes(open_page: Open, site: Site) -> None:
    kept = site.submit("mail", {"to": "kept"}, delay_seconds=3600)
    page = open_page("/dashboard/tasks?type=mail")
    page.locator("tbody tr", has_text=kept[-12:]).get_by_role("checkbox").check()
    new = site.submit("mail", {"to": "new"}, delay_seconds=3600)
    page.wait_for_selector(f"text={new[-12:]}")  # without a reload

    assert page.locator("tbody tr", has_text=kept[-12:]).get_by_role("checkbox").is_checked()
    assert page.locator("#selected").inner_text() == "1 selected"


def test_all_of_it_without_the_script(open_page: Open, site: Site) -> None:
    task_id = site.submit("mail", {"to": "x"}, delay_seconds=3600)
    page = open_page(f"/dashboard/tasks/{task_id}", java_script_enabled=False)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancel this task?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("1 task cancelled.").wait_for()
    page.goto("/")
    assert page.locator("svg polyline").count() > 0


# --- trouble --------------------------------------------------------------------------------


def test_the_server_gone_and_back(open_page: Open) -> None:
    page = open_page("/")
    banner = page.locator("#gone")
    assert banner.is_hidden()

    page.context.set_offline(True)
    banner.wait_for(state="visible")
    assert "Reconnecting" in banner.inner_text()
    page.context.set_offline(False)
    banner.wait_for(state="hidden")
    open_page.said.clear()  # type: ignore[attr-defined] # what Chromium says of failed requests


def test_an_expired_login_leads_to_the_login_and_back(open_page: Open) -> None:
    page = open_page("/dashboard/workers")
    page.context.clear_cookies()
    page.wait_for_selector("text=API key")  # a look of the script has found it

    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Log in").click()

    page.wait_for_url("**/dashboard/workers")


def test_hidden_it_asks_for_nothing(open_page: Open) -> None:
    page = open_page("/")
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


def test_nothing_hostile_comes_alive(open_page: Open, hostile: str) -> None:
    """`open_page` hears of a dialog, an error and of what the policy refused."""
    page = open_page("/")
    for path in (*PAGES, f"/dashboard/tasks/{hostile}", f"/dashboard/tasks?type={EVIL}"):
        page.goto(path)
        assert page.locator("img, iframe, main script").count() == 0
        page.evaluate("dispatchEvent(new Event('online'))")  # and by way of the script
        page.wait_for_timeout(300)
        assert page.locator("img, iframe, main script").count() == 0
    page.goto(f"/dashboard/tasks/{hostile}")
    text = page.locator("main").inner_text()
    assert text.count("<script>alert(1)</script>") >= 5  # type, payload, progress, error, log line
    assert "hunter2" not in page.content()
    assert page.locator(".logs").get_by_text("onerror").count() == 1


# --- for everyone ---------------------------------------------------------------------------


# Colours do not depend on the width, nor what is there on the scheme.
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_axe_finds_nothing(
    open_page: Open, programs: tuple[Path, str], hostile: str, scheme: str, width: int
) -> None:
    page = open_page("/", color_scheme=scheme, viewport={"width": width, "height": 800})
    found = []
    for path in (
        *PAGES,
        f"/dashboard/tasks/{hostile}",
        "/dashboard/submit",
        "/dashboard/submit?type=mail",
        "/dashboard/tasks?status=LOST",
        "/dashboard/tasks/none",
    ):
        page.goto(path)
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{path} is {over} px wider than the window"
        if scheme == "dark" and path not in (
            "/",
            "/dashboard/tasks",
            f"/dashboard/tasks/{hostile}",
        ):
            continue  # they have no colours besides
        page.evaluate(programs[1])
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        report = page.evaluate("tags => axe.run({runOnly: tags})", tags)
        found += [
            (path, each["id"], [node["html"][:150] for node in each["nodes"][:3]])
            for each in report["violations"]
        ]
    open_page.said.clear()  # type: ignore[attr-defined] # Chromium says that a page answered 404
    assert found == []


def test_axe_finds_nothing_in_what_opens(open_page: Open, programs: tuple[Path, str]) -> None:
    login = open_page("/", login=False)
    page = open_page("/")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    for one in (login, page):
        one.evaluate(programs[1])
        assert (
            one.evaluate("axe.run().then(report => report.violations.map(each => each.id))") == []
        )


def test_by_the_keyboard_alone(open_page: Open, site: Site) -> None:
    site.submit("mail", {"to": "x"}, delay_seconds=3600)
    page = open_page("/")
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


def test_the_chosen_colours_stay(open_page: Open) -> None:
    page = open_page("/", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)

    page.get_by_role("button", name="Colours").click()
    page.wait_for_selector("html[data-theme=dark]")

    assert page.evaluate(ground) != light
    page.goto("/dashboard/workers")
    assert page.evaluate(ground) != light
