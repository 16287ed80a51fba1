"""Actions on many tasks by the pages, on a real engine: what is asked, begun, shown and undone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from quart_trio.testing import TrioClient
from trio.testing import MockClock

from task_queue_engine import (
    ActionProgress,
    ActionRequest,
    Engine,
    Task,
    TaskAction,
    TaskFilter,
    TaskStatus,
)
from task_queue_engine.attempt_record import AttemptHistory, AttemptOutcome, AttemptRecord
from task_queue_engine.backends.base import BackendInfo, ListQuery
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.http import create_app
from task_queue_engine.http.principal import Role
from task_queue_engine.task_actions import ACTION_TYPE, Refusal
from tests.engine.engines import running
from tests.engine.test_actions import failed, quiet_types, statuses, submitted
from tests.http.browser import Browser, Page
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys


@pytest.fixture
async def real(autojump_clock: MockClock) -> AsyncIterator[Engine]:
    async with running(quiet_types(), MemoryBackend(clock=TrioClock())) as engine:
        yield engine


@pytest.fixture
def client(real: Engine) -> TrioClient:
    return create_app(real, make_settings()).test_client()


def hidden(page: Page) -> dict[str, str]:
    """The form's own members, without what is on every page."""
    a_form = page.text[page.text.index("<h1>") :]
    tags = Page(page.path, _Answer(page), a_form).tags()  # type: ignore[arg-type]
    return {
        str(each["name"]): str(each["value"])
        for tag, each in tags
        if tag == "input" and each.get("type") == "hidden" and each["name"] != "form_token"
    }


class _Answer:
    def __init__(self, page: Page) -> None:
        self.status_code, self.headers = page.status, page.headers


async def press(browser: Browser, asked: Page, action: str, **more: Any) -> Page:
    await trio.sleep(0.01)
    return await browser.send(f"/dashboard/actions/{action}", on=asked, **hidden(asked), **more)


async def begun(browser: Browser, real: Engine, path: str) -> tuple[Page, str]:
    """The page of an action that was confirmed, when it has ended; and its task's id."""
    action = path.partition("?")[0].rpartition("/")[2]
    page = await press(browser, await browser.get(path), action)
    task_id = page.path.rpartition("/")[2]
    await real.result(task_id, timeout=600)
    return await browser.get(page.path), task_id


async def actions_of(engine: Engine) -> list[Task]:
    page = await engine.list_tasks(ListQuery(type=ACTION_TYPE))
    return list(page.tasks)


async def test_asked_with_the_number_then_begun_then_undone(browser: Browser, real: Engine) -> None:
    ids = await submitted(real, 3)
    others = await submitted(real, 2, "other")
    listed = await browser.get("/dashboard/tasks?status=PENDING&type=later")
    assert "/dashboard/actions/cancel?status=PENDING&type=later" in listed.links()

    asked = await browser.get("/dashboard/actions/cancel?status=PENDING&type=later")
    assert "This will cancel 3 tasks" in asked.shown
    assert "all pending tasks of the type “later”" in asked.shown
    assert "what comes to match later is left alone" in asked.shown
    assert "/dashboard/tasks?status=PENDING&type=later" in asked.links()  # Keep
    assert await actions_of(real) == []

    page = await press(browser, asked, "cancel")
    (action,) = await actions_of(real)
    assert page.path == f"/dashboard/tasks/{action.id}"
    assert "It has begun." in page.shown
    await real.result(action.id, timeout=600)
    page = await browser.get(page.path)
    assert "Cancel many tasks" in page.shown
    assert "Done: 3 tasks cancelled." in page.shown
    assert "Attempt 1" in page.shown
    assert "&#34;" not in page.text  # no JSON
    assert await statuses(real, ids) == [TaskStatus.CANCELLED] * 3
    assert await statuses(real, others) == [TaskStatus.PENDING] * 2

    undone = await browser.send("/dashboard/actions/undo", on=page, id=action.id, back=page.path)
    again = await browser.send("/dashboard/actions/undo", on=page, id=action.id, back=page.path)
    assert "The undo has begun" in undone.shown
    assert again.path == undone.path  # who presses second is led to the same
    await real.result(undone.path.rpartition("/")[2], timeout=600)
    assert "3 tasks, by their ids" in (await browser.get(undone.path)).shown
    assert TaskStatus.CANCELLED not in await statuses(real, ids)


async def test_a_form_that_is_sent_twice_begins_one_action(
    browser: Browser, client: TrioClient, real: Engine
) -> None:
    """One after the other and at once: another tab of a person in a hurry."""
    await submitted(real, 3)
    asked = await browser.get("/dashboard/actions/cancel?type=later")
    paths: list[str] = []

    async def send() -> None:
        paths.append((await press(Browser(client), asked, "cancel")).path)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(send)
    await real.result(paths[0].rpartition("/")[2], timeout=600)
    await send()

    assert len(set(paths)) == 1
    assert len(await actions_of(real)) == 1


async def test_where_nothing_matches(browser: Browser, real: Engine) -> None:
    await submitted(real, 1)
    asked = await browser.get("/dashboard/actions/retry?type=later")
    assert "There are none now." in asked.shown
    assert "<button>" not in asked.text
    page = await browser.get("/dashboard/actions/cancel?type=later")
    (task,) = (await real.list_tasks(ListQuery())).tasks
    await real.cancel(task.id)
    after = await press(browser, page, "cancel")
    assert "no task matches any more" in after.shown
    assert after.path == "/dashboard/tasks?type=later"


async def test_a_filter_with_something_wrong_is_no_filter_to_act_by(
    browser: Browser, real: Engine
) -> None:
    await submitted(real, 1)
    page = await browser.get("/dashboard/actions/cancel?type=later&created_after=yesterday")
    assert page.path == "/dashboard/tasks?type=later&created_after=yesterday"
    assert "is no time" in page.shown
    after = await browser.send(
        "/dashboard/actions/cancel", on=page, type="later", created_after="yesterday"
    )
    assert after.status == 400
    assert await actions_of(real) == []
    assert (await browser.get("/dashboard/actions/explode")).status == 404
    assert (await browser.send("/dashboard/actions/explode", on=page)).status == 404


async def test_the_filter_in_words(browser: Browser, real: Engine) -> None:
    await failed(real, 1)
    page = await browser.get(
        "/dashboard/actions/retry?type=fails&queue=default&error=no+route&id=0"
        "&created_after=2020-01-01&created_before=2199-01-01T10:00"
    )
    assert (
        "all failed and cancelled tasks of the type “fails” in the queue “default” whose id begins "
        "with 0 with “no route” in their error created from 2020-01-01 00:00:00 UTC on created "
        "before 2199-01-01 10:00:00 UTC"
    ) in page.shown


async def test_a_dead_letter_from_its_tasks_page(browser: Browser, real: Engine) -> None:
    (task_id,) = await failed(real, 1)
    here = f"/dashboard/tasks/{task_id}"
    page = await browser.get(here)
    form = hidden(page) | {"back": here}

    done = await browser.send("/dashboard/tasks/redrive", on=page, **form)

    assert done.path == here
    assert "1 dead letter put back to work." in done.shown
    await real.wait(task_id, timeout=60)
    again = await browser.send("/dashboard/tasks/redrive", on=page, **form)
    assert again.path == here  # the same form: what it came to
    assert len(await actions_of(real)) == 1
    (waiting,) = await submitted(real, 1)
    nothing = await browser.send(
        "/dashboard/tasks/redrive", on=page, id=waiting, back=here, idempotency_key="new"
    )
    assert nothing.status == 200
    assert "Nothing was done" in nothing.shown


async def test_dead_letters_of_what_was_selected(browser: Browser, real: Engine) -> None:
    ids = await failed(real, 3)
    page = await browser.get("/dashboard/tasks?status=FAILED")
    asked = await browser.send("/dashboard/tasks/redrive", on=page, id=ids[:2], idempotency_key="a")
    assert "Put the dead letters of the 2 selected tasks back to work?" in asked.shown
    await trio.sleep(0.01)

    done = await browser.send(
        "/dashboard/tasks/redrive", on=asked, id=ids[:2], idempotency_key="a", confirmed=1
    )

    assert "2 dead letters put back to work." in done.shown


async def test_the_list_has_actions_in_words(browser: Browser, real: Engine) -> None:
    await submitted(real, 2)
    await begun(browser, real, "/dashboard/actions/cancel?type=later")
    shown = (await browser.get("/dashboard/tasks?type=tqe.bulk")).shown.replace("\xa0", " ")
    assert "Cancel many tasks" in shown
    assert "all pending and processing tasks of the type “later” 2 of 2 done" in shown


async def test_a_key_for_some_types_acts_on_those(real: Engine, keys: Keys) -> None:
    keys.add("narrow", Role.READ, Role.OPERATE, types=("later",))
    keys.add("other", Role.READ, Role.OPERATE, types=("other",))
    app = keys.app(real)  # type: ignore[arg-type]
    ids, others = await submitted(real, 2), await submitted(real, 2, "other")
    narrow, other = Browser(app.test_client()), Browser(app.test_client())  # type: ignore[arg-type]
    await narrow.log_in(keys.secrets["narrow"])
    await other.log_in(keys.secrets["other"])

    page, task_id = await begun(narrow, real, "/dashboard/actions/cancel")

    assert "Done: 2 tasks cancelled." in page.shown
    assert await statuses(real, ids + others) == [
        *[TaskStatus.CANCELLED] * 2,
        *[TaskStatus.PENDING] * 2,
    ]
    assert (await other.get(page.path)).status == 403
    mine = await other.get("/dashboard/tasks")
    for path in ("/dashboard/actions/undo", "/dashboard/tasks/delete"):
        after = await other.send(path, on=mine, follow=False, id=task_id, confirmed=1)
        assert after.status == 403
    undone = await narrow.send("/dashboard/actions/undo", on=page, id=task_id, back=page.path)
    assert "The undo has begun" in undone.shown
    # Its events are for them too: the page would not be live without.
    for name, status in (("narrow", 200), ("other", 403)):
        answer = await app.test_client().head(
            f"/tasks/{task_id}/events", headers=keys.headers(name)
        )
        assert answer.status_code == status


async def test_what_is_hidden_does_not_hide_an_action(real: Engine) -> None:
    app = create_app(real, make_settings(redact="payload,progress,result"))
    browser = Browser(app.test_client())  # type: ignore[arg-type]
    await submitted(real, 2)

    page, task_id = await begun(browser, real, "/dashboard/actions/cancel?type=later")

    assert "Done: 2 tasks cancelled." in page.shown
    undone = await browser.send("/dashboard/actions/undo", on=page, id=task_id, back=page.path)
    assert "The undo has begun" in undone.shown
    await failed(real, 1)
    asked = ActionRequest(action=TaskAction.RETRY, which=TaskFilter(type="fails", error="route"))
    started = await real.start_action(asked)
    assert started is not None
    assert "route" not in (await browser.get(f"/dashboard/tasks/{started.id}")).text


async def test_the_audit_log(real: Engine, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "task_queue_engine.audit")
    keys.add("ops", Role.READ, Role.OPERATE)
    browser = Browser(keys.app(real).test_client())  # type: ignore[arg-type]
    await submitted(real, 2)
    await browser.log_in(keys.secrets["ops"])
    caplog.clear()

    _, task_id = await begun(browser, real, "/dashboard/actions/cancel?type=later")

    (line,) = (one.getMessage() for one in caplog.records if "audit" in one.name)
    assert line.startswith("cancel-many done (303) key=ops ")
    assert f"task={task_id} type=later matching=2" in line


# --- the page of an action, at each moment -------------------------------------------------


def action_task(engine: FakeEngine, action: TaskAction, status: TaskStatus, **more: Any) -> Task:
    which = ActionRequest(action=action, which=TaskFilter(type="email"))
    return engine.add(ACTION_TYPE, which.encode(), status=status, attempt=1, **more)


class TestMoments:
    @pytest.fixture
    def client(self, engine: FakeEngine) -> TrioClient:
        return create_app(engine, make_settings()).test_client()  # type: ignore[return-value]

    async def test_running(self, browser: Browser, engine: FakeEngine) -> None:
        said = ActionProgress(done=250, skipped=50, of=1200).encode()
        task = action_task(engine, TaskAction.DELETE, TaskStatus.PROCESSING, progress=said)

        page = await browser.get(f"/dashboard/tasks/{task.id}")

        (bar,) = (each for tag, each in page.tags() if tag == "progress")
        assert bar["value"] == "25.0"
        assert "300 of 1,200 tasks" in page.shown
        assert "It runs: 250 tasks deleted so far." in page.shown
        assert ">Stop<" in page.text
        assert 'data-confirm="Stop this action?' in page.text
        assert 'data-yes="Stop the action"' in page.text
        assert f'data-events="/tasks/{task.id}/events"' in page.text

    @pytest.mark.parametrize("first", [True, False])
    async def test_waiting_for_a_worker_or_for_its_turn(
        self,
        browser: Browser,
        engine: FakeEngine,
        monkeypatch: pytest.MonkeyPatch,
        first: bool,
    ) -> None:
        info = BackendInfo(name="fake", detail="", actions_first=first)
        monkeypatch.setattr(FakeEngine, "backend_info", info)
        task = action_task(engine, TaskAction.RETRY, TaskStatus.PENDING)

        shown = (await browser.get(f"/dashboard/tasks/{task.id}")).shown

        assert ("It waits for a worker." in shown) is first
        assert ("It waits its turn, behind what was queued before it." in shown) is not first

    async def test_one_that_was_claimed_and_given_back_has_not_begun(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = action_task(engine, TaskAction.RETRY, TaskStatus.PENDING)
        attempt = AttemptRecord(
            number=1,
            outcome=AttemptOutcome.INTERRUPTED,
            started_at=datetime.now(UTC),
            ended_at=datetime.now(UTC),
        )
        engine.histories[task.id] = AttemptHistory(attempts=(attempt,))

        shown = (await browser.get(f"/dashboard/tasks/{task.id}")).shown

        assert "It waits its turn, behind what was queued before it." in shown

    async def test_between_two_turns_it_is_as_far_as_the_last_one(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = action_task(engine, TaskAction.RETRY, TaskStatus.PENDING)
        attempt = AttemptRecord(
            number=1,
            outcome=AttemptOutcome.SNOOZED,
            started_at=datetime.now(UTC),
            ended_at=datetime.now(UTC),
            progress=ActionProgress(done=7, of=20).encode(),
        )
        engine.histories[task.id] = AttemptHistory(attempts=(attempt,))

        shown = (await browser.get(f"/dashboard/tasks/{task.id}")).shown

        assert "7 of 20 tasks" in shown
        assert "Other tasks have their turn." in shown

    async def test_why_some_were_skipped(self, browser: Browser, engine: FakeEngine) -> None:
        refusals = tuple(
            Refusal(task_id=engine.add().id, reason="it is COMPLETED already") for _ in range(2)
        )
        said = ActionProgress(done=1, skipped=3, of=4, refusals=refusals).encode()
        task = action_task(engine, TaskAction.RETRY, TaskStatus.COMPLETED, result=said)

        page = await browser.get(f"/dashboard/tasks/{task.id}")

        assert "Done: 1 task put back to work, 3 skipped." in page.shown
        assert "it is COMPLETED already 2 tasks" in page.shown
        assert f"/dashboard/tasks/{refusals[0].task_id}" in page.links()
        assert "1 task had changed before the action came to it" in page.shown
        assert "A retry cannot be undone" in page.shown

    async def test_more_cancelled_than_can_be_undone(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        said = ActionProgress(done=1001, of=1001, ids=("x",) * 1000).encode()
        task = action_task(engine, TaskAction.CANCEL, TaskStatus.COMPLETED, result=said)

        page = await browser.get(f"/dashboard/tasks/{task.id}")

        assert "/dashboard/actions/undo" not in page.text
        assert "it cannot be undone exactly" in page.shown
        assert "/dashboard/actions/retry?type=email&status=CANCELLED" in page.links()

    async def test_of_a_newer_version_it_is_a_task_as_any_other(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = engine.add(ACTION_TYPE, {"action": "pause"}, status=TaskStatus.PENDING)
        for path in (f"/dashboard/tasks/{task.id}", "/dashboard/tasks"):
            page = await browser.get(path)
            assert page.status == 200
            assert "pause" in page.shown
