"""A failed task and its dead letter: what there is after a retry, a redrive and a crash between.

On one file a dead letter goes with the reopening; on two services (SQS) it stays, and is shown to
no operator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import (
    ActionRequest,
    Engine,
    TaskAction,
    TaskFilter,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.backends.base import DeadLetter
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.engine.api import RedriveReport
from task_queue_engine.errors import BackendUnavailable, WrongState
from tests.engine.engines import ended, running

Retry = Callable[[Engine, Sequence[str]], Awaitable[None]]


class Work:
    """Fails until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.runs = 0


@pytest.fixture
def work(tasks: TaskRegistry) -> Work:
    found = Work()

    @tasks.task("work", max_attempts=1)
    async def work(payload: Any) -> None:
        found.runs += 1
        if not found.is_mended:
            raise ConnectionError("down")

    return found


@pytest.fixture
def together(autojump_clock: MockClock) -> MemoryBackend:
    return MemoryBackend(clock=TrioClock(), is_one_transaction=True)


async def failed(engine: Engine, number: int) -> list[str]:
    ids = [(await engine.submit("work", n)).id for n in range(number)]
    for task_id in ids:
        assert (await ended(engine, task_id)).status is TaskStatus.FAILED
    await trio.sleep(1)
    return ids


async def one_by_one(engine: Engine, ids: Sequence[str]) -> None:
    for task_id in ids:
        await engine.retry(task_id)


async def by_action(engine: Engine, ids: Sequence[str]) -> None:
    which = TaskFilter(status=TaskStatus.FAILED)
    task = await engine.start_action(ActionRequest(action=TaskAction.RETRY, which=which))
    assert task is not None
    assert (await ended(engine, task.id)).status is TaskStatus.COMPLETED


async def dead(engine: Engine) -> int:
    """As the metrics say, and as it is listed."""
    number = (await engine.metrics()).depth.dead
    assert number == len((await engine.list_dead()).dead_letters)
    return number


@pytest.mark.parametrize("retry", [one_by_one, by_action])
async def test_a_retry_takes_the_dead_letters_along(
    tasks: TaskRegistry, together: MemoryBackend, work: Work, retry: Retry
) -> None:
    async with running(tasks, together) as engine:
        ids = await failed(engine, 3)
        assert await dead(engine) == 3
        await retry(engine, ids)
        await trio.sleep(10)
        assert (await engine.metrics()).counts.failed == await dead(engine) == 3, "failed again"
        work.is_mended = True
        await retry(engine, ids[:1] if retry is one_by_one else ids)
        await trio.sleep(10)
        assert (await engine.metrics()).counts.failed == await dead(engine)
        assert await dead(engine) == (2 if retry is one_by_one else 0)


async def test_an_undo_takes_along_what_an_older_version_has_left(
    tasks: TaskRegistry, together: MemoryBackend, work: Work
) -> None:
    async with running(tasks, together) as engine:
        waiting = await engine.submit("work", 1, delay=100)
        request = ActionRequest(action=TaskAction.CANCEL, ids=(waiting.id,))
        action = await engine.start_action(request)
        assert action is not None
        await ended(engine, action.id)
        together.state.queue("default").dead_letters["7"] = DeadLetter(
            id="7", task_id=waiting.id, task_type="work", reason="", error=None, attempts=1,
            at=together.clock.now(),
        )  # fmt: skip
        work.is_mended = True
        undo = await engine.undo_action(action.id)
        assert undo is not None
        await ended(engine, undo.id)
        assert (await ended(engine, waiting.id)).status is TaskStatus.COMPLETED
        assert await dead(engine) == 0


async def test_a_redrive_counts_what_it_has_reopened(
    tasks: TaskRegistry, together: MemoryBackend, work: Work
) -> None:
    async with running(tasks, together) as engine:
        await failed(engine, 3)
        letters = [each.id for each in (await engine.list_dead()).dead_letters]
        work.is_mended = True
        assert await engine.redrive(letters[:1]) == RedriveReport(redriven=1)
        assert await engine.redrive(letters[:1]) == RedriveReport(not_found=1)
        assert await engine.redrive() == RedriveReport(redriven=2)
        await trio.sleep(10)
        assert await dead(engine) == 0
        assert work.runs == 6


async def test_a_redrive_by_an_action_counts_them_too(
    tasks: TaskRegistry, together: MemoryBackend, work: Work
) -> None:
    async with running(tasks, together) as engine:
        await failed(engine, 3)
        work.is_mended = True
        action = await engine.start_action(ActionRequest(action=TaskAction.REDRIVE))
        assert action is not None
        result: Any = (await ended(engine, action.id)).result
        assert (result["done"], result["skipped"], result["failed"]) == (3, 0, 0)
        assert await dead(engine) == 0


async def test_the_redrive_of_a_dead_letter_that_went_with_a_retry(
    tasks: TaskRegistry, together: MemoryBackend, work: Work
) -> None:
    async with running(tasks, together) as engine:
        (task_id,) = await failed(engine, 1)
        (letter,) = (await engine.list_dead()).dead_letters
        work.is_mended = True
        await engine.retry(task_id)
        assert await engine.redrive([letter.id]) == RedriveReport(not_found=1)
        await trio.sleep(10)
        assert work.runs == 2


@pytest.mark.parametrize("first", ["retry", "redrive"])
@pytest.mark.parametrize("is_one_transaction", [True, False])
async def test_two_people_one_retries_and_one_redrives(
    tasks: TaskRegistry,
    autojump_clock: MockClock,
    work: Work,
    first: str,
    is_one_transaction: bool,
) -> None:
    """Exactly one new round, whoever comes first."""
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=is_one_transaction)
    answers: dict[str, Any] = {}
    async with running(tasks, backend) as engine:
        (task_id,) = await failed(engine, 1)
        work.is_mended = True

        async def retry() -> None:
            try:
                answers["retry"] = (await engine.retry(task_id)).status
            except WrongState as error:
                answers["retry"] = error.status

        async def redrive() -> None:
            answers["redrive"] = await engine.redrive()

        people = {"retry": retry, "redrive": redrive}
        # Both have looked before either reopens.
        with backend.faults.block("reopen") as gate:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(people.pop(first))
                await gate.arrived.wait()
                nursery.start_soon(*people.values())
                await trio.sleep(1)
                gate.open()
        await trio.sleep(600)
        assert (await engine.get(task_id)).status is TaskStatus.COMPLETED
        assert work.runs == 2, "the first round and one more"
        depth = (await engine.metrics()).depth
        assert (depth.dead, depth.waiting, depth.in_flight) == (0, 0, 0)
        assert answers["redrive"].redriven + answers["redrive"].skipped == 1


@pytest.mark.parametrize("what", ["retry", "redrive"])
async def test_a_process_that_dies_between_reopening_and_sending(
    tasks: TaskRegistry, together: MemoryBackend, work: Work, what: str
) -> None:
    """The dead letter is gone and the task is not lost: it is found without a message."""
    async with running(tasks, together) as engine:
        (task_id,) = await failed(engine, 1)
        work.is_mended = True
        with together.faults.outage("send"), together.faults.outage("schedule"):
            with pytest.raises(BackendUnavailable):
                await (engine.retry(task_id) if what == "retry" else engine.redrive())
            assert (await engine.get(task_id)).status is TaskStatus.PENDING
            assert await dead(engine) == 0
        assert (await ended(engine, task_id, timeout=600)).status is TaskStatus.COMPLETED
        assert work.runs == 2


# --- two services ---------------------------------------------------------------------------


async def test_what_was_retried_since_is_not_shown_as_waiting(
    tasks: TaskRegistry, backend: MemoryBackend, work: Work
) -> None:
    """There the dead letter of a retried task stays; the one of its second failure is shown."""
    letters = backend.queue("default").dead_letters

    async def shown(engine: Engine) -> list[str]:
        return [each.task_id for each in (await engine.list_dead()).dead_letters]

    async with running(tasks, backend) as engine:
        retried, other = await failed(engine, 2)
        await engine.retry(retried)
        assert await shown(engine) == [other]
        assert (await ended(engine, retried)).status is TaskStatus.FAILED
        await trio.sleep(1)
        assert sorted(await shown(engine)) == sorted([retried, other])
        assert len((await letters.page(limit=10)).dead_letters) == 3
        page = await engine.list_dead(limit=1)
        assert [each.attempts for each in page.dead_letters] == [2], "the newest"
        work.is_mended = True
        await one_by_one(engine, [retried, other])
        await trio.sleep(1)
        assert await shown(engine) == []
        assert await engine.redrive() == RedriveReport(skipped=3)
        assert (await letters.page(limit=10)).dead_letters == ()


async def test_what_the_broker_has_moved_is_shown_before_its_task_is_known_to_have_failed(
    tasks: TaskRegistry, backend: MemoryBackend, work: Work
) -> None:
    async with running(tasks, backend, consume=False) as engine:
        handle = await engine.submit("work", 1)
        backend.queue("default").dead_letter_by_broker()
        (letter,) = (await engine.list_dead()).dead_letters
        assert (letter.task_id, await handle.status()) == (handle.id, TaskStatus.PENDING)
