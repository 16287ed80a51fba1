"""Acting on tasks in a real browser, on a real engine with one slot and several keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from task_queue_engine.http.principal import Role
from tests.http.chromium import Chromium, Site, check, serve_site
from tests.http.keys import Keys


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("actions")
    keys = Keys(path / "keys.toml")
    keys.add("admin", Role.ADMIN)
    keys.add("reader", Role.READ)
    keys.add("mailer", Role.READ, Role.OPERATE, types=("mail",))
    yield from serve_site(path, keys, WORKER_COUNT="1")


def test_filter_then_cancel_all_that_match_then_undo(chrome: Chromium, site: Site) -> None:
    """As someone who has read nothing, and takes up a telephone."""
    ids = site.waiting(12, "mail")
    page = chrome.open("/dashboard/tasks")
    page.get_by_text("Queue, id, time").click()
    page.set_viewport_size({"width": 375, "height": 800})
    page.get_by_label("Type").fill("mail")
    page.get_by_label("Created from (UTC)").fill("2020-01-31T10:30")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**created_after=2020-01-31T10%3A30*")
    page.get_by_role("link", name="Pending").click()
    assert page.get_by_label("Created from (UTC)").input_value() == "2020-01-31T10:30"
    assert page.get_by_role("button", name="Retry").count() == 0
    check(page, is_dense=True)
    page.get_by_role("link", name="Cancel all…").click()
    page.get_by_text("This will cancel 12 tasks").wait_for()
    check(page)
    page.get_by_role("button", name="Cancel 12 tasks").dblclick()

    page.get_by_text("Done: 12 tasks cancelled.").wait_for()  # by itself: nothing is reloaded
    assert len(site.ask("GET", "/tasks?type=tqe.bulk")["tasks"]) == 1
    assert {site.status(each) for each in ids[:3]} == {"CANCELLED"}
    check(page, is_dense=True)  # a success on the ground is on no other dense page
    page.get_by_role("button", name="Retry 12 tasks").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 12 tasks").click()
    page.get_by_text("The undo has begun").wait_for()
    page.get_by_text("Done: 12 tasks put back to work.").wait_for()
    page.goto("/dashboard/tasks?id=nonsense!&created_before=never&queue=nope")
    assert page.get_by_label("Id", exact=True).get_attribute("aria-invalid") == "true"
    check(page)
    chrome.let_loads_be_refused()


def test_an_action_that_waits_is_stopped_and_goes_on_live(chrome: Chromium, site: Site) -> None:
    holds_the_slot = site.running()
    site.waiting(5, "echo")
    page = chrome.open("/dashboard/actions/cancel?type=echo&status=PENDING")
    page.get_by_role("button", name="Cancel 5 tasks").click()
    page.get_by_text("It waits for a worker.").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped: 0 tasks cancelled before that.").wait_for()
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("It waits for a worker.").wait_for()
    shown = "window.notReloaded = true"
    page.evaluate(shown)

    site.ask("DELETE", f"/tasks/{holds_the_slot}")

    page.get_by_text("Done: 5 tasks cancelled.").wait_for()
    assert page.evaluate("window.notReloaded")
    assert page.get_by_role("progressbar").get_attribute("value") == "100"


def test_redrive_and_delete_from_a_tasks_own_page(chrome: Chromium, site: Site) -> None:
    task_id = site.failed()
    page = chrome.open(f"/dashboard/tasks/{task_id}")
    page.get_by_role("button", name="Redrive").click()
    page.get_by_text("1 dead letter put back to work.").wait_for()
    page.wait_for_selector(".status.failed")  # again
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    assert "Delete this task" in dialog.inner_text()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_text("1 task deleted.").wait_for()
    page.goto(f"/dashboard/tasks/{task_id}")
    page.get_by_text("There is no task with this id").wait_for()
    chrome.let_loads_be_refused()


def test_delete_of_a_selection_by_the_keyboard(chrome: Chromium, site: Site) -> None:
    ids = [site.failed() for _ in range(2)]
    page = chrome.open("/dashboard/tasks?status=FAILED&type=hostile")
    page.keyboard.type("jxjx")
    assert page.locator("#selected").inner_text() == "2 selected"
    delete = page.get_by_role("group", name="With the selected tasks").get_by_role(
        "button", name="Delete"
    )
    delete.focus()
    page.keyboard.press("Enter")
    ids.append(site.failed())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("2 tasks deleted.").wait_for()
    page.get_by_role("link", name=ids[2]).or_(page.get_by_text(ids[2][-12:])).first.wait_for()


def test_a_question_stays_while_its_task_begins(chrome: Chromium, site: Site) -> None:
    holds_the_slot, waits = site.running(), site.submit("steps", {})
    page = chrome.open(f"/dashboard/tasks/{waits}")
    page.get_by_role("button", name="Cancel").click()
    looked: list[str] = []
    page.on("response", lambda one: looked.append(one.url))
    site.ask("DELETE", f"/tasks/{holds_the_slot}")
    while site.status(waits) != "PROCESSING":
        page.wait_for_timeout(50)
    looked.clear()
    while len(looked) < 2:  # one may have been under way
        page.wait_for_timeout(50)
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.wait_for_selector(".status.cancelled")


def test_without_the_script(chrome: Chromium, site: Site) -> None:
    first, second, *_ = site.waiting(3, "echo")
    page = chrome.open("/dashboard/tasks?type=echo&status=PENDING", java_script_enabled=False)
    for each in (first, second):
        page.locator(f'input[value="{each}"]').check()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancel the 2 selected tasks?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("2 tasks cancelled.").wait_for()
    page.get_by_role("link", name="Cancel all…").click()
    page.get_by_role("button", name="Cancel 1 task").click()
    page.get_by_text("It has begun.").wait_for()
    assert "all pending tasks of the type “echo”" in page.locator("main").inner_text().lower()


def test_two_people_press_retry_at_once(chrome: Chromium, site: Site) -> None:
    task_id = site.failed()
    holds_the_slot = site.running()
    one, other = (chrome.open(f"/dashboard/tasks/{task_id}") for _ in range(2))
    for page in (one, other):
        page.keyboard.press("p")  # neither looks before it presses
    one.get_by_role("button", name="Retry").click()
    one.get_by_text("1 task put back to work.").wait_for()
    other.get_by_role("button", name="Retry").click()
    other.get_by_text("Another person or a worker was faster.").wait_for()
    other.wait_for_selector(".status.pending")
    site.ask("DELETE", f"/tasks/{holds_the_slot}")


def test_a_logout_ends_what_other_pages_listen_to(chrome: Chromium) -> None:
    page = chrome.open("/dashboard/workers", apart=True)
    second = page.context.new_page()
    second.goto("/dashboard/tasks")
    second.wait_for_selector("#list")
    second.keyboard.press("p")  # it does not look by itself
    form = page.context.new_page()
    form.goto("/dashboard/submit")
    form.get_by_role("heading", name="Submit").wait_for()

    page.get_by_role("button", name="Log out").click()

    page.get_by_text("Logged out.").wait_for()
    second.wait_for_url("**/dashboard/login?next=/dashboard/tasks")
    # What is being typed stays.
    assert form.evaluate("fetch('/dashboard/tasks').then(() => location.pathname)") == (
        "/dashboard/submit"
    )


@pytest.mark.parametrize("key", ["mailer", "reader"])
def test_live_for_keys_that_may_not_do_all(chrome: Chromium, site: Site, key: str) -> None:
    page = chrome.open("/", key=key)
    with page.expect_response("**/events") as streaming:
        page.goto("/dashboard/tasks?type=mail&status=PENDING")
    assert streaming.value.status == 200
    (new,) = site.waiting(1, "mail")
    page.get_by_text(new[-12:]).first.wait_for()  # without a reload
    assert page.get_by_role("checkbox", name="Select all").count() == (key == "mailer")
    assert (page.get_by_role("link", name="Cancel all…").count() > 0) is (key == "mailer")
    if key == "mailer":
        holds_the_slot = site.running()
        page.get_by_role("link", name="Cancel all…").click()
        with page.expect_response("**/tasks/*/events") as streaming:
            page.get_by_role("button", name="Cancel").click()
        assert streaming.value.status == 200
        site.ask("DELETE", f"/tasks/{holds_the_slot}")
        page.get_by_text("cancelled.").first.wait_for()
