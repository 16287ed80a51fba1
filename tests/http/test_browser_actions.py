"""Acting on tasks in a real browser, on a real engine with one slot: one of each for all tests."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api

from local_aws.downloads import NotAvailable, axe, chromium
from task_queue_engine.http.principal import Role
from tests.cli.runner import Shop
from tests.http import pages_shop
from tests.http.keys import Keys

WAIT = 20_000
"""Milliseconds that a busy machine may take."""


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

    def __init__(self, url: str, keys: Keys) -> None:
        self.url = url
        self.keys = keys

    def submit(self, task_type: str, payload: Any, **more: Any) -> str:
        return str(
            self.ask("POST", "/tasks", {"type": task_type, "payload": payload, **more})["id"]
        )

    def waiting(self, number: int, task_type: str = "mail") -> list[str]:
        """Tasks that stay PENDING."""
        one = {"type": task_type, "payload": {"to": "x"}, "delay_seconds": 7200}
        answer = self.ask("POST", "/tasks/batch", {"tasks": [one] * number})
        return [each["task"]["id"] for each in answer["results"]]

    def failed(self) -> str:
        task_id = self.submit("hostile", 1)
        assert self.ask("GET", f"/tasks/{task_id}?wait=20")["status"] == "FAILED"
        return task_id

    def status(self, task_id: str) -> str:
        return str(self.ask("GET", f"/tasks/{task_id}")["status"])

    def actions(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "/tasks?type=tqe.bulk")["tasks"])

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = self.keys.headers("admin")
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def site(programs: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("actions")
    keys = Keys(path / "keys.toml")
    keys.add("admin", Role.ADMIN)
    keys.add("reader", Role.READ)
    keys.add("mailer", Role.READ, Role.OPERATE, types=("mail",))
    shop = Shop(path)
    (path / "shop.py").write_text(Path(pages_shop.__file__).read_text())
    with shop.serve(
        TQE_KEYS_FILE=str(keys.path), TQE_DATABASE=str(path / "tasks.db"), WORKER_COUNT="1"
    ) as server:
        yield Site(server.url, keys)


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

    def open_one(path: str, *, key: str = "admin", **options: Any) -> Any:
        context = chrome.new_context(base_url=site.url, **options)
        contexts.append(context)
        context.set_default_timeout(WAIT)
        context.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
        context.on("weberror", lambda error: said.append(str(error.error)))
        page = context.new_page()
        page.goto(path)
        page.get_by_label("API key").fill(site.keys.secrets[key])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("text=Log out")
        return page

    open_one.said = said  # type: ignore[attr-defined] # for a test that provokes it
    yield open_one
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def check(programs: tuple[Path, str]) -> Callable[[Any], None]:
    """Nothing that axe finds, and nothing wider than the window."""

    def look(page: Any) -> None:
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{page.url} is {over} px wider than the window"
        page.evaluate(programs[1])
        report = page.evaluate("axe.run()")
        found = [
            (one["id"], [node["html"] for node in one["nodes"]]) for one in report["violations"]
        ]
        assert found == [], page.url

    return look


# Colours do not depend on the width, nor what is there on the scheme.
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_filter_then_cancel_all_that_match_then_undo(
    open_page: Open, site: Site, check: Callable[[Any], None], scheme: str, width: int
) -> None:
    """As someone who has read nothing."""
    ids = site.waiting(12)
    page = open_page(
        "/dashboard/tasks", color_scheme=scheme, viewport={"width": width, "height": 800}
    )
    page.get_by_label("Type").fill("mail")
    page.get_by_text("Queue, id, time").click()
    page.get_by_label("Created from (UTC)").fill("2020-01-31T10:30")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**created_after=2020-01-31T10%3A30*")
    page.get_by_role("link", name="Pending").click()
    assert page.get_by_label("Created from (UTC)").input_value() == "2020-01-31T10:30"
    assert page.get_by_role("button", name="Retry").count() == 0
    check(page)
    page.get_by_role("link", name="Cancel all…").click()
    page.get_by_text("This will cancel 12 tasks").wait_for()
    check(page)
    before = len(site.actions())
    page.get_by_role("button", name="Cancel 12 tasks").dblclick()

    page.get_by_text("Done: 12 tasks cancelled.").wait_for()  # by itself: nothing is reloaded
    assert len(site.actions()) == before + 1
    assert {site.status(each) for each in ids[:3]} == {"CANCELLED"}
    check(page)
    page.get_by_role("button", name="Retry 12 tasks").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 12 tasks").click()
    page.get_by_text("The undo has begun").wait_for()
    page.get_by_text("Done: 12 tasks put back to work.").wait_for()
    page.goto("/dashboard/tasks?id=nonsense!&created_before=never&queue=nope")
    assert page.get_by_label("Id", exact=True).get_attribute("aria-invalid") == "true"
    check(page)
    open_page.said.clear()  # type: ignore[attr-defined] # Chromium says that a page answered 422


def test_an_action_that_waits_is_stopped_and_goes_on_live(open_page: Open, site: Site) -> None:
    holds_the_slot = site.submit("steps", {})
    site.waiting(5, "echo")
    page = open_page("/dashboard/actions/cancel?type=echo&status=PENDING")
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


def test_redrive_and_delete_from_a_tasks_own_page(open_page: Open, site: Site) -> None:
    task_id = site.failed()
    page = open_page(f"/dashboard/tasks/{task_id}")
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
    open_page.said.clear()  # type: ignore[attr-defined] # Chromium says that it answered 404


def test_delete_of_a_selection_by_the_keyboard(open_page: Open, site: Site) -> None:
    ids = [site.failed() for _ in range(2)]
    page = open_page("/dashboard/tasks?status=FAILED&type=hostile")
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


def test_a_question_stays_while_its_task_begins(open_page: Open, site: Site) -> None:
    holds_the_slot, waits = site.submit("steps", {}), site.submit("steps", {})
    page = open_page(f"/dashboard/tasks/{waits}")
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


def test_without_the_script(open_page: Open, site: Site) -> None:
    first, second, *_ = site.waiting(3, "echo")
    page = open_page("/dashboard/tasks?type=echo&status=PENDING", java_script_enabled=False)
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


def test_two_people_press_retry_at_once(open_page: Open, site: Site) -> None:
    task_id = site.failed()
    holds_the_slot = site.submit("steps", {})
    one, other = (open_page(f"/dashboard/tasks/{task_id}") for _ in range(2))
    for page in (one, other):
        page.keyboard.press("p")  # neither looks before it presses
    one.get_by_role("button", name="Retry").click()
    one.get_by_text("1 task put back to work.").wait_for()
    other.get_by_role("button", name="Retry").click()
    other.get_by_text("Another person or a worker was faster.").wait_for()
    other.wait_for_selector(".status.pending")
    site.ask("DELETE", f"/tasks/{holds_the_slot}")


def test_a_logout_ends_what_other_pages_listen_to(open_page: Open) -> None:
    page = open_page("/dashboard/workers")
    with page.context.expect_page() as opening:
        page.evaluate("window.open('/dashboard/tasks')")
    second = opening.value
    second.wait_for_selector("#list")
    second.keyboard.press("p")  # it does not look by itself
    with page.context.expect_page() as opening:
        page.evaluate("window.open('/dashboard/submit')")
    form = opening.value
    form.get_by_role("heading", name="Submit").wait_for()

    page.get_by_role("button", name="Log out").click()

    page.get_by_text("Logged out.").wait_for()
    second.wait_for_url("**/dashboard/login?next=/dashboard/tasks")
    # What is being typed stays.
    assert form.evaluate("fetch('/dashboard/tasks').then(() => location.pathname)") == (
        "/dashboard/submit"
    )


@pytest.mark.parametrize("key", ["mailer", "reader"])
def test_live_for_keys_that_may_not_do_all(open_page: Open, site: Site, key: str) -> None:
    page = open_page("/", key=key)
    with page.expect_response("**/events") as streaming:
        page.goto("/dashboard/tasks?type=mail&status=PENDING")
    assert streaming.value.status == 200
    (new,) = site.waiting(1)
    page.get_by_text(new[-12:]).first.wait_for()  # without a reload
    assert page.get_by_role("checkbox", name="Select all").count() == (key == "mailer")
    assert (page.get_by_role("link", name="Cancel all…").count() > 0) is (key == "mailer")
    if key == "mailer":
        holds_the_slot = site.submit("steps", {})
        page.get_by_role("link", name="Cancel all…").click()
        with page.expect_response("**/tasks/*/events") as streaming:
            page.get_by_role("button", name="Cancel").click()
        assert streaming.value.status == 200
        site.ask("DELETE", f"/tasks/{holds_the_slot}")
        page.get_by_text("cancelled.").first.wait_for()
