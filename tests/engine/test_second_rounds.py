"""What operators do with failed tasks: retry, redrive, purge."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import trio

from task_queue_engine import Engine, TaskNotFound, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import Message, QueueVerdict, Rejected
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from task_queue_engine.engine.api import RedriveReport
from task_queue_engine.errors import BackendUnavailable, InvalidQuery, MessageRefused, WrongState
from task_queue_engine.task import new_task_id
from tests.engine.engines import EVERY_SECOND, Runs, depth, ended, row, running


class Switch:
    """Handlers fail until it is on."""

    on = False


@pytest.fixture
def mended() -> Switch:
    return Switch()


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def work(tasks: TaskRegistry, runs: Runs, mended: Switch) -> Any:
    @tasks.task("work", max_attempts=2, backoff=EVERY_SECOND)
    async def work(payload: Any, context: Any) -> int:
        runs(context)
        if not mended.on:
            raise ConnectionError("down")
        return context.retry_count

    return work


async def failed(engine: Engine, number: int = 1) -> list[str]:
    """Tasks that have failed, with their dead letters."""
    handles = [await engine.submit("work", n) for n in range(number)]
    for handle in handles:
        assert (await ended(engine, handle.id)).status is TaskStatus.FAILED
    await trio.sleep(1)
    return [handle.id for handle in handles]


# --- retry ----------------------------------------------------------------------------------


async def test_a_failed_task_runs_again_as_a_new_round(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        (task_id,) = await failed(engine)
        mended.on = True
        task = await engine.retry(task_id)
        assert (task.status, task.retry_count, task.error) == (TaskStatus.PENDING, 0, None)
        task = await ended(engine, task_id)
        assert (task.status, task.result) == (TaskStatus.COMPLETED, 0)
        assert runs.attempts == [1, 2, 3], "attempts go on counting"


@pytest.mark.usefixtures("short_delays")
async def test_a_cancelled_task_runs_again(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    mended.on = True
    async with running(tasks, backend) as engine:
        for delay in (10, 300):
            handle = await engine.submit("work", 1, delay=delay)
            await handle.cancel()
            await handle_runs_again(engine, handle.id)
        await trio.sleep(600)
        assert (await engine.metrics()).depth.waiting == 0
        assert (await engine.metrics()).counts.completed == 2


async def handle_runs_again(engine: Engine, task_id: str) -> None:
    await engine.retry(task_id)
    task = await ended(engine, task_id, timeout=5)
    assert task.status is TaskStatus.COMPLETED


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.PROCESSING, "COMPLETED"])
async def test_only_what_failed_or_was_cancelled_can_be_retried(
    tasks: TaskRegistry, backend: MemoryBackend, status: str
) -> None:
    @tasks.task("nap")
    async def nap(seconds: float) -> None:
        await trio.sleep(seconds)

    async with running(tasks, backend) as engine:
        handle = await engine.submit(nap, 100, delay=100 if status == "PENDING" else 0)
        await trio.sleep(150 if status == "COMPLETED" else 10)
        assert await handle.status() == status
        with pytest.raises(WrongState):
            await engine.retry(handle.id)
        with pytest.raises(TaskNotFound):
            await engine.retry(new_task_id())
        await handle.result()


@pytest.mark.parametrize("trouble", ["down", "try again", "lost answer", "caller gone"])
async def test_a_retry_that_could_not_send_is_sent_soon(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch, trouble: str
) -> None:
    async with running(tasks, backend) as engine:
        (task_id,) = await failed(engine)
        mended.on = True
        if trouble == "down":
            with backend.faults.outage("send"):
                await engine.retry(task_id)
        elif trouble == "try again":
            backend.faults.try_again("send")
            await engine.retry(task_id)
        elif trouble == "lost answer":
            backend.faults.lose_answer("send")
            await engine.retry(task_id)
        else:
            with trio.CancelScope() as caller, backend.faults.block("send") as gate:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(engine.retry, task_id)
                    await gate.arrived.wait()
                    caller.cancel()
                    gate.open()
        task = await ended(engine, task_id, timeout=15)
        assert task.status is TaskStatus.COMPLETED


async def test_a_retry_that_hangs_is_given_up_and_its_task_found_later(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        (task_id,) = await failed(engine)
        mended.on = True
        with backend.faults.block("send"):
            before = trio.current_time()
            with pytest.raises(BackendUnavailable):
                await engine.retry(task_id)
            assert round(trio.current_time() - before, 6) <= 10
        assert (await ended(engine, task_id, timeout=600)).status is TaskStatus.COMPLETED


# --- dead letters ---------------------------------------------------------------------------


async def test_dead_letters_are_listed_page_by_page(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 5)
        seen: list[str] = []
        cursor = None
        for _ in range(3):
            page = await engine.list_dead(limit=2, cursor=cursor)
            seen += [dead_letter.task_id for dead_letter in page.dead_letters]
            cursor = page.next_cursor
        assert cursor is None
        assert sorted(seen) == sorted(ids)
        with pytest.raises(InvalidQuery):
            await engine.list_dead(cursor="no cursor")
        with pytest.raises(InvalidQuery):
            await engine.list_dead(limit=0)


async def test_all_are_redriven(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    number = backend.queue("default").max_batch + 5
    async with running(tasks, backend, worker_count=10) as engine:
        ids = await failed(engine, number)
        mended.on = True
        assert await engine.redrive() == RedriveReport(redriven=number)
        for task_id in ids:
            assert (await ended(engine, task_id)).status is TaskStatus.COMPLETED
        assert (await engine.metrics()).depth.dead == 0
        assert await engine.redrive() == RedriveReport()


async def test_some_are_redriven(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 3)
        ids_of = {
            dead_letter.task_id: dead_letter.id
            for dead_letter in (await engine.list_dead()).dead_letters
        }
        mended.on = True
        report = await engine.redrive([ids_of[ids[1]], "no such dead letter"])
        assert report == RedriveReport(redriven=1, not_found=1)
        assert (await ended(engine, ids[1])).status is TaskStatus.COMPLETED
        left = [dead_letter.task_id for dead_letter in (await engine.list_dead()).dead_letters]
        assert sorted(left) == sorted([ids[0], ids[2]])


async def test_those_of_other_types_are_not_found(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        await failed(engine, 2)
        dead_letters = (await engine.list_dead()).dead_letters
        ids = [dead_letter.id for dead_letter in dead_letters]
        asked: list[str] = []

        def none(task_type: str) -> bool:
            asked.append(task_type)
            return False

        mended.on = True
        report = await engine.redrive(ids, of_type=none)
        assert report == RedriveReport(not_found=2)
        assert asked == [dead_letter.task_type for dead_letter in dead_letters]
        assert (await engine.list_dead()).dead_letters == dead_letters
        assert (await engine.redrive(ids, of_type=lambda _: True)).redriven == 2


async def test_those_that_fail_again_come_back_and_are_not_redriven_for_ever(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        (task_id,) = await failed(engine)
        assert await engine.redrive() == RedriveReport(redriven=1)
        assert (await ended(engine, task_id)).status is TaskStatus.FAILED
        await trio.sleep(1)
        assert (await engine.metrics()).depth.dead == 1


async def test_dead_letters_that_come_in_meanwhile_are_not_redriven_too(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Else a redrive of what fails at once would never end."""
    queue = backend.queue("default")
    delete_dead = queue.dead_letters.delete

    async def and_one_comes_in(dead_letters: Any) -> Any:
        verdicts = await delete_dead(dead_letters)
        (back,) = await queue.dead_letters.take(limit=1) or [dead_letters[0]]
        backend.state.queue("default").dead_letters[f"{len(calls)}00"] = back
        calls.append(len(dead_letters))
        assert len(calls) < 10
        return verdicts

    calls: list[int] = []
    queue.dead_letters.delete = and_one_comes_in  # type: ignore[method-assign]
    async with running(tasks, backend) as engine:
        await failed(engine, 2)
        engine.stop_taking_work()
        assert await engine.redrive() == RedriveReport(redriven=2)
    assert calls == [2]


async def test_dead_letters_whose_tasks_went_on_are_removed_and_change_nothing(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        (task_id,) = await failed(engine)
        mended.on = True
        await engine.retry(task_id)
        await ended(engine, task_id)
        assert await engine.redrive() == RedriveReport(skipped=1)
        await trio.sleep(600)
        assert (await engine.get(task_id)).status is TaskStatus.COMPLETED
        assert len(runs) == 3
        assert (await engine.metrics()).depth.dead == 0


@pytest.mark.parametrize(
    ("operation", "trouble"),
    [
        *product(
            ("dead_letters.take", "reopen", "dead_letters.delete"),
            ("unavailable", "lose_answer"),
        ),
        # The others answer as a whole.
        ("dead_letters.delete", "try_again"),
    ],
)
async def test_a_redrive_that_broke_off_can_be_done_again(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    runs: Runs,
    mended: Switch,
    operation: str,
    trouble: str,
) -> None:
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 3)
        mended.on = True
        getattr(backend.faults, trouble)(operation)
        with pytest.raises(BackendUnavailable):
            await engine.redrive()
        await engine.redrive()
        for task_id in ids:
            task = await ended(engine, task_id, timeout=30)
            assert task.status is TaskStatus.COMPLETED
        await trio.sleep(600)
        metrics = await engine.metrics()
        assert (metrics.depth.dead, metrics.depth.waiting) == (0, 0)
    assert len(runs) == 9, "each ran twice and failed, and once more"


@pytest.mark.parametrize("trouble", ["unavailable", "lose_answer", "try_again", "down"])
async def test_what_is_redriven_while_the_queue_is_down_is_sent_soon(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, mended: Switch, trouble: str
) -> None:
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 3)
        mended.on = True
        if trouble == "down":
            with backend.faults.outage("send"):
                assert await engine.redrive() == RedriveReport(redriven=3)
                assert (await engine.metrics()).depth.dead == 0
                await trio.sleep(60)
                statuses = {(await engine.get(task_id)).status for task_id in ids}
                assert statuses == {TaskStatus.PENDING}
        else:
            getattr(backend.faults, trouble)("send")
            assert await engine.redrive() == RedriveReport(redriven=3)
            assert (await engine.metrics()).depth.dead == 0
        for task_id in ids:
            task = await ended(engine, task_id, timeout=15)
            assert task.status is TaskStatus.COMPLETED
        await trio.sleep(600)
        assert (await engine.metrics()).depth.waiting == 0
    assert len(runs) == 9, "each ran twice and failed, and once more"


async def test_a_redrive_that_can_neither_send_nor_mark_as_due_leaves_the_dead_letters(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 3)
        mended.on = True
        with backend.faults.outage("send"), backend.faults.outage("schedule"):
            with pytest.raises(BackendUnavailable):
                await engine.redrive()
            page = await backend.queue("default").dead_letters.page(limit=10)
            assert sorted(each.task_id for each in page.dead_letters) == sorted(ids)
        assert await engine.redrive() == RedriveReport(redriven=3)
        for task_id in ids:
            task = await ended(engine, task_id, timeout=30)
            assert task.status is TaskStatus.COMPLETED
        await trio.sleep(600)
        metrics = await engine.metrics()
        assert (metrics.depth.dead, metrics.depth.waiting) == (0, 0)
    assert len(runs) == 9, "each ran twice and failed, and once more"


async def test_a_dead_letter_whose_message_the_queue_never_takes_stays(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    mended: Switch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its task says why, FAILED once more; the others of its batch, and of later ones, are on their
    way."""
    send = MemoryQueue.send

    async def refuse(queue: MemoryQueue, messages: Sequence[Message]) -> list[QueueVerdict]:
        verdicts = await send(queue, [each for each in messages if each.task.id != refused])
        return [
            Rejected("too large") if each.task.id == refused else verdicts.pop(0)
            for each in messages
        ]

    async with running(tasks, backend) as engine:
        monkeypatch.setattr(MemoryQueue, "max_batch", 2)
        refused, *others = await failed(engine, 5)
        mended.on = True
        monkeypatch.setattr(MemoryQueue, "send", refuse)
        assert await engine.redrive() == RedriveReport(redriven=4, refused=1)
        task = await engine.get(refused)
        assert task.status is TaskStatus.FAILED
        assert task.error is not None
        assert task.error.message == "too large"
        with pytest.raises(MessageRefused, match="too large") as caught:
            await engine.retry(refused)
        assert caught.value.task_id == refused
        assert (await engine.get(refused)).status is TaskStatus.FAILED
        (left,) = (await engine.list_dead()).dead_letters
        assert left.task_id == refused
        for task_id in others:
            assert (await ended(engine, task_id, timeout=30)).status is TaskStatus.COMPLETED
        monkeypatch.undo()
        assert await engine.redrive() == RedriveReport(redriven=1)
        assert (await ended(engine, refused, timeout=30)).status is TaskStatus.COMPLETED


async def test_redrives_that_overlap_share_the_work_and_say_so(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryQueue, "max_batch", 3)
    reports: list[RedriveReport] = []
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 10)
        dead_ids = [each.id for each in (await engine.list_dead()).dead_letters]
        mended.on = True
        sent = backend.faults.calls["send"]

        async def redrive(ids: list[str] | None) -> None:
            reports.append(await engine.redrive(ids))

        async with trio.open_nursery() as nursery:
            for wanted in (None, dead_ids, None, dead_ids):
                nursery.start_soon(redrive, wanted)
        assert sum(report.redriven for report in reports) == 10
        assert all(report.refused == report.remaining == 0 for report in reports)
        assert backend.faults.calls["send"] - sent == 4, "each was sent once"
        for task_id in ids:
            assert (await ended(engine, task_id)).status is TaskStatus.COMPLETED


async def test_of_two_engines_that_redrive_the_same_one_has_nothing_left_to_do(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    reports: list[RedriveReport] = []
    async with running(tasks, backend) as one, running(tasks, backend) as two:
        ids = await failed(one, 3)
        mended.on = True

        async def redrive(engine: Engine) -> None:
            reports.append(await engine.redrive())

        with backend.faults.block("reopen") as gate:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(redrive, one)
                await gate.arrived.wait()
                nursery.start_soon(redrive, two)
                await trio.sleep(1)
                gate.open()
        assert sorted((each.redriven, each.skipped) for each in reports) == [(0, 3), (3, 0)]
        for task_id in ids:
            assert (await ended(one, task_id)).status is TaskStatus.COMPLETED


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_redrive_with_a_time_limit_says_what_remains(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    mended: Switch,
    by_id: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryQueue, "max_batch", 2)
    reopen = backend.store.reopen

    async def slow(task_ids: Sequence[str]) -> Any:
        await trio.sleep(4)
        return await reopen(task_ids)

    async with running(tasks, backend) as engine:
        await failed(engine, 7)
        ids = [each.id for each in (await engine.list_dead()).dead_letters] if by_id else None
        mended.on = True
        monkeypatch.setattr(backend.store, "reopen", slow)
        first = await engine.redrive(ids, within=5)
        assert first == RedriveReport(redriven=4, remaining=3)
        second = await engine.redrive(ids, within=0)
        assert second == RedriveReport(redriven=2, remaining=1, not_found=4 if by_id else 0)
        third = await engine.redrive(ids, within=60)
        assert third == RedriveReport(redriven=1, not_found=6 if by_id else 0)


async def test_a_redrive_of_all_can_be_limited(
    tasks: TaskRegistry, backend: MemoryBackend, mended: Switch
) -> None:
    async with running(tasks, backend) as engine:
        await failed(engine, 3)
        mended.on = True
        assert await engine.redrive(limit=2) == RedriveReport(redriven=2)
        assert (await engine.metrics()).depth.dead == 1


async def test_purging_deletes_the_dead_letters_and_not_the_tasks(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        ids = await failed(engine, 3)
        assert await engine.purge_dead() == 3
        assert await engine.purge_dead() == 0
        assert (await engine.list_dead()).dead_letters == ()
        for task_id in ids:
            assert row(backend, task_id).task.status is TaskStatus.FAILED
    assert (await depth(backend)).dead == 0
