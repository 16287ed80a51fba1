"""A client does what the engine it talks to does, and raises what it raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pydantic
import pytest
import trio

from task_queue_engine import (
    ActionRequest,
    Engine,
    InvalidTask,
    Matching,
    ResultTimeout,
    Submission,
    TaskAction,
    TaskCancelled,
    TaskFailed,
    TaskFilter,
    TaskNotFound,
    TaskQueueError,
    TaskStatus,
)
from task_queue_engine.backends.base import ListQuery
from task_queue_engine.client import AsyncClient
from task_queue_engine.engine.api import Accepted, Refused
from task_queue_engine.errors import ApiError, BackendUnavailable
from tests.client.conftest import MAX_BODY, MAX_ITEM, World

NO_TASK = "00000000-0000-7000-8000-000000000000"

Operation = Callable[[Engine | AsyncClient], Awaitable[object]]


def submission(**values: Any) -> Submission:
    return Submission(**({"task": "echo", "payload": 1} | values))


# --- what comes back ------------------------------------------------------------------------


async def test_submit_and_wait_for_the_result(world: World) -> None:
    handle = await world.client.submit("ship", {"number": 7}, timeout=5)
    assert handle.created
    assert await handle.result(timeout=10) == "PKG-7"
    assert await handle.status() is TaskStatus.COMPLETED
    assert await world.client.get(handle.id) == await world.engine.get(handle.id)
    assert (await world.client.get(handle.id.upper())).id == handle.id


async def test_results_that_are_none(world: World) -> None:
    failed = await world.client.submit("fail", "no stock")
    with pytest.raises(TaskFailed, match="no stock"):
        await failed.result(timeout=10)
    waiting = await world.client.submit("echo", 1, delay=timedelta(hours=1))
    with pytest.raises(ResultTimeout):
        await waiting.result(timeout=10)
    assert (await waiting.cancel()).status is TaskStatus.CANCELLED
    with pytest.raises(TaskCancelled):
        await waiting.result(timeout=10)


async def test_every_argument_of_a_submission_arrives(idle_world: World) -> None:
    run_at = datetime(2031, 1, 1, tzinfo=UTC)
    accepted = await idle_world.client.submit_task(
        submission(
            payload={"ü": [None, 1.0]},
            run_at=run_at,
            max_attempts=2,
            timeout=timedelta(minutes=1),
            idempotency_key='a "key" \\ ',
        )
    )
    task = accepted.task
    assert task.payload == {"ü": [None, 1.0]}
    assert (task.run_at, task.max_attempts, task.timeout_seconds) == (run_at, 2, 60.0)

    again = submission(payload={"ü": [None, 1.0]}, idempotency_key='a "key" \\ ')
    assert await idle_world.client.submit_task(again) == Accepted(task, created=False)
    assert await idle_world.engine.submit_task(again) == Accepted(task, created=False)


@dataclass
class AsDataclass:
    number: int = 7


class AsStruct(msgspec.Struct):
    number: int = 7


class AsModel(pydantic.BaseModel):
    number: int = 7


@pytest.mark.parametrize("order", [AsDataclass(), AsStruct(), AsModel()])
async def test_typed_payloads(world: World, order: object) -> None:
    assert await (await world.client.submit("ship", order)).result(timeout=10) == "PKG-7"


async def test_listing(idle_world: World) -> None:
    for number in range(5):
        await idle_world.client.submit("echo", number)
        await trio.sleep(0.001)  # newest first
    await idle_world.client.submit("ship", {"number": 1})
    query = ListQuery(type="echo", status=TaskStatus.PENDING, limit=3)
    page = await idle_world.client.list_tasks(query)
    assert [task.payload for task in page.tasks] == [4, 3, 2]
    assert page == await idle_world.engine.list_tasks(query)
    rest = await idle_world.client.list_tasks(ListQuery(type="echo", cursor=page.next_cursor))
    assert [task.payload for task in rest.tasks] == [1, 0]
    assert len((await idle_world.client.list_tasks()).tasks) == 6


async def test_every_filter_arrives(world: World) -> None:
    failed = await world.client.submit("fail", "no Ümlaut & more")
    await world.client.wait(failed.id, timeout=10)
    task = await failed.task()
    moment = task.created_at
    passing = {
        "status": TaskStatus.FAILED,
        "type": "fail",
        "queue": "default",
        "created_after": moment,
        "created_before": moment + timedelta(microseconds=1),
        "id": failed.id,
        "error": "ümlaut & MORE",
    }
    assert [each async for each in world.client.list(**passing)] == [task]
    failing = {
        "status": TaskStatus.COMPLETED,
        "type": "echo",
        "queue": "other",
        "created_after": moment + timedelta(microseconds=1),
        "created_before": moment,
        "id": NO_TASK,
        "error": "umlaut",
    }
    for name, value in failing.items():
        page = await world.client.list_tasks(ListQuery(**(passing | {name: value})))
        assert page.tasks == (), name


async def test_actions_on_many(world: World) -> None:
    handles = [await world.client.submit("echo", n, delay=3600) for n in range(3)]
    await trio.sleep(0.01)
    which = TaskFilter(type="echo", created_before=datetime.now(UTC) + timedelta(days=36_500))
    request = ActionRequest(action=TaskAction.CANCEL, which=which)
    matching = Matching(matching=3)
    assert await world.client.preview_action(request) == matching
    assert await world.engine.preview_action(request) == matching

    task = await world.client.start_action(request)
    assert task is not None
    said = await world.client.result(task.id, timeout=60)
    assert said["done"] == 3
    assert await world.client.start_action(request) is None, "nothing passes any more"

    undo = await world.client.undo_action(task.id)
    assert undo is not None
    assert (await world.client.result(undo.id, timeout=60))["done"] == 3
    for handle in handles:
        await handle.result(timeout=60)
    await world.client.delete(handles[0].id)
    with pytest.raises(TaskNotFound):
        await world.client.get(handles[0].id)


async def test_cancel_and_retry(world: World) -> None:
    handle = await world.client.submit("echo", 1, delay=3600)
    assert (await world.client.cancel(handle.id)).status is TaskStatus.CANCELLED
    assert (await world.client.retry(handle.id)).status is TaskStatus.PENDING
    assert await handle.result(timeout=7200) == 1


async def test_attempts(world: World) -> None:
    handle = await world.client.submit("fail", "no stock")
    await world.client.wait(handle.id, timeout=10)
    history = await handle.history()
    assert history == await world.engine.history(handle.id)
    assert [one.outcome.value for one in history.attempts] == ["failed"]
    assert await world.client.history(handle.id.upper()) == history
    for way in (world.client, world.engine):
        with pytest.raises(TaskNotFound):
            await way.history(NO_TASK)


async def test_what_a_server_does_not_have_is_no_task_that_is_not_there(world: World) -> None:
    """As the attempts of a server that is older than they."""
    steps = world.client._calls._ask("GET", f"/tasks/{NO_TASK}/attempts-to-come")
    with pytest.raises(ApiError) as caught:
        await world.client._carry_out(steps)
    assert caught.value.status == 404


async def test_dead_letters(world: World) -> None:
    for number in range(3):
        handle = await world.client.submit("fail", f"no {number}")
        await world.client.wait(handle.id, timeout=10)
    page = await world.client.list_dead(limit=2)
    assert page == await world.engine.list_dead(limit=2)
    assert page.dead_letters[0].reason
    rest = await world.client.list_dead(cursor=page.next_cursor)
    assert len(rest.dead_letters) == 1

    report = await world.client.redrive([page.dead_letters[0].id, "no-such-dead-letter"])
    assert (report.redriven, report.skipped) == (1, 0)
    await trio.sleep(5)
    assert (await world.client.redrive()).redriven == 3
    await trio.sleep(5)
    assert await world.client.purge_dead() == 3
    assert (await world.engine.metrics()).depth.dead == 0


async def test_metrics(world: World) -> None:
    await (await world.client.submit("echo", 1)).result(timeout=10)
    ours, theirs = await world.client.metrics(), await world.engine.metrics()
    assert ours.counts == theirs.counts
    assert ours.depth == theirs.depth
    assert ours.workers == theirs.workers == 2
    assert ours.counters["tasks_submitted"] == 1


async def test_workers(world: World) -> None:
    await trio.sleep(1)
    ours, theirs = await world.client.workers(), await world.engine.workers()
    assert [worker.id for worker in ours.workers] == [worker.id for worker in theirs.workers]
    assert ours.workers[0].slots == 2
    assert ours.workers[0].types == theirs.workers[0].types != ()


# --- what is raised -------------------------------------------------------------------------


def said(error: TaskQueueError) -> dict[str, object]:
    """Its attributes, but for what only a server's error has: the problem it was made of."""
    return {name: value for name, value in vars(error).items() if name != "problem"}


async def raised(operation: Operation, way: Engine | AsyncClient) -> TaskQueueError:
    with pytest.raises(TaskQueueError) as caught:
        await operation(way)
    return caught.value


@pytest.mark.parametrize(
    "operation",
    [
        lambda way: way.submit_task(submission(task="nothing")),
        lambda way: way.submit_task(submission(task='it\'s "odd"; registered: x')),
        lambda way: way.submit_task(submission(task="ship", payload={"number": "x"})),
        lambda way: way.submit_task(submission(payload="x" * (MAX_ITEM + 1))),
        lambda way: way.submit_task(submission(payload=float("nan"))),
        lambda way: way.submit_task(submission(payload=[["\ud800"]])),
        lambda way: way.submit_task(submission(payload=object())),
        lambda way: way.submit_task(submission(idempotency_key="used")),
        lambda way: way.get(NO_TASK),
        lambda way: way.wait(NO_TASK, timeout=10),
        lambda way: way.cancel(NO_TASK),
        lambda way: way.retry(NO_TASK),
        lambda way: way.list_tasks(ListQuery(cursor="nonsense")),
        lambda way: way.list_dead(cursor="nonsense"),
    ],
)
async def test_errors_are_the_engine_s_own(idle_world: World, operation: Operation) -> None:
    await idle_world.engine.submit("echo", "before", idempotency_key="used")
    expected = await raised(operation, idle_world.engine)
    got = await raised(operation, idle_world.client)
    assert type(got) is type(expected)
    assert str(got) == str(expected)
    assert said(got) == vars(expected)


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_the_wrong_state_is_named(world: World, action: str) -> None:
    handle = await world.engine.submit("echo", 1)
    await handle.result(timeout=10)
    expected = await raised(lambda way: getattr(way, action)(handle.id), world.engine)
    got = await raised(lambda way: getattr(way, action)(handle.id), world.client)
    assert said(got) == vars(expected) == {"task_id": handle.id, "status": TaskStatus.COMPLETED}
    assert str(got) == str(expected)


async def test_a_backend_in_trouble(idle_world: World) -> None:
    idle_world.backend.faults.unavailable("get", times=2)
    expected = await raised(lambda way: way.get(NO_TASK), idle_world.engine)
    got = await raised(lambda way: way.get(NO_TASK), idle_world.client)
    assert type(got) is type(expected) is BackendUnavailable
    assert str(got) == str(expected)
    assert got.retry_after == 1, "a header of whole seconds"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"task": print}, "type"),
        ({"delay": float("nan")}, "delay_seconds"),
        ({"delay": -1}, "delay_seconds"),
        ({"timeout": float("inf")}, "timeout_seconds"),
        ({"run_at": datetime(2031, 1, 1)}, "run_at"),  # noqa: DTZ001 - the mistake itself
        ({"max_attempts": 0}, "max_attempts"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "schlüssel"}, "idempotency_key"),
        ({"idempotency_key": "a\r\nX-Injected: yes"}, "idempotency_key"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"payload": "x" * (2 * MAX_BODY)}, "body"),
    ],
)
async def test_what_http_cannot_say_names_its_field(
    idle_world: World, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidTask) as caught:
        await idle_world.client.submit_task(submission(**values))
    assert caught.value.field == field
    (verdict,) = await idle_world.client.submit_many([submission(**values)])
    assert isinstance(verdict, Refused)
    assert isinstance(verdict.error, InvalidTask)
    assert (await idle_world.engine.metrics()).counts.total == 0


# --- many at once ---------------------------------------------------------------------------


async def test_submit_many_gives_each_its_verdict_in_order(idle_world: World) -> None:
    await idle_world.engine.submit("echo", "before", idempotency_key="used")
    many = [
        submission(payload="one"),
        submission(task="nothing"),
        submission(payload="two", idempotency_key="two"),
        submission(payload="other", idempotency_key="used"),
        submission(payload=float("nan")),
        submission(payload="before", idempotency_key="used"),
        submission(task="ship", payload={"number": []}),
    ]
    expected = await idle_world.engine.submit_many(many)
    got = await idle_world.client.submit_many(many)
    for ours, theirs in zip(got, expected, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, Refused) and isinstance(theirs, Refused):
            assert (type(ours.error), str(ours.error)) == (type(theirs.error), str(theirs.error))
            assert said(ours.error) == vars(theirs.error)
    assert isinstance(got[0], Accepted)
    assert got[2] == Accepted(expected[2].task, created=False)  # type: ignore[union-attr] # Accepted


async def test_submit_many_takes_more_than_a_request_holds(idle_world: World) -> None:
    """By number (1,000 in a request) and by size: this server takes 4 KiB, less than usual."""
    many = [submission(payload=f"{number}" + "x" * 500) for number in range(50)]
    many.insert(20, submission(payload="y" * 2 * MAX_BODY))
    verdicts = await idle_world.client.submit_many(many)
    assert [isinstance(verdict, Accepted) for verdict in verdicts].count(False) == 1
    assert isinstance(verdicts[20], Refused)
    assert [
        verdict.task.payload[:2].rstrip("x")
        for verdict in verdicts
        if isinstance(verdict, Accepted)
    ] == [f"{number}" for number in range(50)]
    assert (await idle_world.engine.metrics()).counts.total == 50
    assert await idle_world.client.submit_many([]) == []
