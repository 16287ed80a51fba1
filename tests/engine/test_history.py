"""A task's history: what its attempts came to, and what their handlers logged."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import (
    AttemptOutcome,
    AttemptRecord,
    Discard,
    Engine,
    Snooze,
    SyncTaskContext,
    TaskContext,
    TaskFailed,
    TaskHandle,
    TaskRegistry,
    TaskStatus,
    __version__,
)
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.errors import TaskNotFound
from tests.engine.engines import (
    EVERY_SECOND,
    LEASE,
    claim_and_die,
    ended,
    process,
    reaches,
    running,
    settings,
)

logger = logging.getLogger("shop.mails")

NO_TASK = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def at_info() -> Iterator[None]:
    before = logging.root.level
    logging.root.setLevel(logging.INFO)
    yield
    logging.root.setLevel(before)


def outcomes(attempts: tuple[AttemptRecord, ...]) -> list[str]:
    return [one.outcome.value for one in attempts]


def messages(attempt: AttemptRecord) -> list[str]:
    return [line.message for line in attempt.logs]


async def history(handle: TaskHandle[Any]) -> tuple[AttemptRecord, ...]:
    found = await handle.history()
    assert found.omitted == 0
    return found.attempts


async def test_retries_that_lead_to_a_success(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    @tasks.task("mail", backoff=EVERY_SECOND)
    async def mail(payload: Any, context: TaskContext) -> str:
        logger.info("attempt %d", context.attempt)
        await context.progress({"tried": context.attempt})
        await trio.sleep(1)
        if context.attempt < 3:
            raise ConnectionError(f"no {context.attempt}")
        logger.warning("sent at last")
        return "sent"

    async with running(tasks, backend) as engine:
        handle = await engine.submit(mail)
        await handle.result(timeout=30)
        one, two, three = await history(handle)

    assert [one.number, two.number, three.number] == [1, 2, 3]
    assert outcomes((one, two, three)) == ["retried", "retried", "succeeded"]
    assert one.error is not None
    assert (one.error.type, one.error.message) == ("ConnectionError", "no 1")
    assert "raise ConnectionError" in (one.error.traceback or "")
    assert two.error is not None
    assert two.error.message == "no 2"
    assert three.error is None
    assert [each.progress for each in (one, two, three)] == [{"tried": n} for n in (1, 2, 3)]
    assert [messages(each) for each in (one, two, three)] == [
        ["attempt 1"],
        ["attempt 2"],
        ["attempt 3", "sent at last"],
    ]
    for before, after in ((one, two), (two, three)):
        assert before.ended_at is not None
        assert before.started_at < before.ended_at < after.started_at
    assert {each.version for each in (one, two, three)} == {__version__}
    assert all(each.worker for each in (one, two, three))


@pytest.mark.parametrize("where", ["on trio", "in a thread", "in a process"])
async def test_what_a_handler_logs_wherever_it_runs(
    tasks: TaskRegistry, tmp_path: Path, where: str
) -> None:
    """Of a real engine, in real time."""
    if where == "on trio":
        tasks.task("says")(says_on_trio)
    else:
        tasks.task("says", process=where == "in a process")(says)
    backend = SqliteBackend(tmp_path / "tasks.db")
    engine = Engine(tasks, settings(processes=1), backend=backend)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            handle = await engine.submit("says", "a@b")
            with pytest.raises(TaskFailed):
                await handle.result()
            (attempt,) = await history(handle)
            await engine.stop()
    assert outcomes((attempt,)) == ["failed"]
    assert messages(attempt) == ["to a@b"]
    assert attempt.logs[0].logger == "shop.mails"
    assert attempt.error is not None
    assert attempt.error.message == "no"


def says(payload: str, context: SyncTaskContext) -> None:
    logger.info("to %s", payload)
    raise Discard("no")


async def says_on_trio(payload: str) -> None:
    logger.info("to %s", payload)
    raise Discard("no")


async def test_a_timeout_keeps_what_was_logged_before_it(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("slow", timeout=5, max_attempts=1)
    async def slow(payload: Any) -> None:
        logger.info("looking")
        await trio.sleep(60)

    async with running(tasks, backend) as engine:
        handle = await engine.submit(slow)
        await ended(engine, handle.id)
        (attempt,) = await history(handle)
    assert outcomes((attempt,)) == ["failed"]
    assert messages(attempt) == ["looking"]


async def test_snoozed_and_cancelled(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    @tasks.task("patient")
    async def patient(payload: Any, context: TaskContext) -> None:
        logger.info("attempt %d", context.attempt)
        if context.attempt == 1:
            raise Snooze(1)
        await trio.sleep(60)

    async with running(tasks, backend) as engine:
        handle = await engine.submit(patient)
        await trio.sleep(5)
        one, two = await history(handle)
        assert outcomes((one, two)) == ["snoozed", "running"]
        assert (messages(one), one.error) == (["attempt 1"], None)
        await handle.cancel()
        await ended(engine, handle.id)
        one, two = await history(handle)
        assert outcomes((one, two)) == ["snoozed", "cancelled"]
        assert messages(two) == ["attempt 2"]


async def test_interrupted_by_a_shutdown(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    @tasks.task("long")
    async def long(payload: Any) -> None:
        logger.info("begun")
        await trio.sleep(1000)

    async with running(tasks, backend, consume=False) as watching:
        async with running(tasks, backend, shutdown_grace=1):
            handle = await watching.submit(long)
            await reaches(watching, handle.id, TaskStatus.PROCESSING)
        (attempt,) = await history(handle)
    assert outcomes((attempt,)) == ["interrupted"]
    assert messages(attempt) == ["begun"]


async def test_a_crash_is_recorded_by_who_takes_over(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("mail")
    async def mail(payload: Any) -> None: ...

    async with running(tasks, backend, consume=False) as watching:
        handle = await watching.submit(mail)
        await claim_and_die(backend)
        async with running(tasks, backend):
            await ended(watching, handle.id, timeout=LEASE + 10)
        one, two = await history(handle)
    assert outcomes((one, two)) == ["crashed", "succeeded"]
    assert one.worker == "one that dies"
    assert one.error is not None
    assert one.error.type.endswith("AttemptCrashed")


async def test_a_lost_lease_keeps_what_was_logged(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("long")
    async def long(payload: Any, context: TaskContext) -> int:
        logger.info("attempt %d", context.attempt)
        await trio.sleep(60)
        return context.attempt

    async with process(tasks, backend, worker_count=1) as one:
        handle = await one.engine.submit(long)
        await reaches(one.engine, handle.id, TaskStatus.PROCESSING)
        one.engine.stop_taking_work()
        async with running(tasks, backend):
            with one.link.faults.outage("extend"):
                assert await handle.result() == 2
        first, second = await history(handle)
    assert outcomes((first, second)) == ["lost_lease", "succeeded"]
    assert (messages(first), messages(second)) == (["attempt 1"], ["attempt 2"])
    assert first.worker != second.worker


async def test_retried_by_an_operator_it_keeps_its_first_round(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("mail")
    async def mail(payload: Any, context: TaskContext) -> None:
        if context.attempt == 1:
            logger.info("the address is wrong")
            raise Discard("no")

    async with running(tasks, backend) as engine:
        handle = await engine.submit(mail)
        await ended(engine, handle.id)
        await engine.retry(handle.id)
        await handle.result(timeout=10)
        one, two = await history(handle)
    assert outcomes((one, two)) == ["failed", "succeeded"]
    assert messages(one) == ["the address is wrong"]


async def test_with_no_lines_to_keep_nothing_is_captured(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    factories = []

    @tasks.task("mail")
    async def mail(payload: Any) -> None:
        factories.append(logging.getLogRecordFactory())
        logger.info("nobody keeps this")

    before = logging.getLogRecordFactory()
    async with running(tasks, backend, task_log_lines=0) as engine:
        handle = await engine.submit(mail)
        await handle.result(timeout=10)
        (attempt,) = await history(handle)
    assert (attempt.logs, attempt.logs_omitted) == ((), 0)
    assert factories == [before]


async def test_only_the_last_lines_are_kept(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    @tasks.task("chatty")
    async def chatty(payload: Any) -> None:
        for number in range(12):
            logger.info("%d", number)

    async with running(tasks, backend, task_log_lines=5) as engine:
        handle = await engine.submit(chatty)
        await handle.result(timeout=10)
        (attempt,) = await history(handle)
    assert messages(attempt) == ["7", "8", "9", "10", "11"]
    assert attempt.logs_omitted == 7


async def test_what_is_said_after_the_end_is_not_kept(
    tasks: TaskRegistry, autojump_clock: MockClock
) -> None:
    """Though the end could not be recorded yet, as the writer was busy with another's."""
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=True)
    async with trio.open_nursery() as others:

        async def later() -> None:
            await trio.sleep(2)
            logger.info("too late")

        @tasks.task("leaves")
        async def leaves(seconds: float) -> None:
            await trio.sleep(seconds)
            others.start_soon(later)
            logger.info("in time")

        async with running(tasks, backend) as engine:
            handles = [await engine.submit(leaves, seconds) for seconds in (0.5, 1)]
            await trio.sleep(0.2)
            with backend.faults.outage("finish"):
                await trio.sleep(10)
            for handle in handles:
                await handle.result(timeout=60)
                (attempt,) = await history(handle)
                assert messages(attempt) == ["in time"]


async def test_what_an_abandoned_thread_says_is_not_its_next_attempts(
    tasks: TaskRegistry, tmp_path: Path
) -> None:
    is_over, has_said = threading.Event(), threading.Event()

    @tasks.task("stuck", timeout=1, max_attempts=1)
    def stuck(payload: Any) -> None:
        logger.info("in time")
        is_over.wait(30)
        logger.info("too late")
        has_said.set()

    @tasks.task("other")
    async def other(payload: Any) -> None:
        await trio.to_thread.run_sync(has_said.wait, 30)
        logger.info("of my own")

    engine = Engine(tasks, settings(), backend=SqliteBackend(tmp_path / "tasks.db"))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            handle = await engine.submit(stuck)
            second = await engine.submit(other)
            with pytest.raises(TaskFailed):
                await handle.result()
            is_over.set()
            await second.result()
            (of_stuck,), (of_other,) = await history(handle), await history(second)
            await engine.stop()
    assert messages(of_stuck)[0] == "in time"
    assert "too late" not in messages(of_stuck)
    assert messages(of_other) == ["of my own"]


async def test_a_task_that_succeeds_at_once_and_says_nothing_writes_nothing_more(
    tasks: TaskRegistry, tmp_path: Path
) -> None:
    @tasks.task("quiet")
    async def quiet(payload: Any) -> None: ...

    @tasks.task("says")
    async def says_something(payload: Any) -> None:
        logger.info("done")

    path = tmp_path / "tasks.db"
    engine = Engine(tasks, settings(), backend=SqliteBackend(path))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            handles = [await engine.submit(each) for each in (quiet, says_something)]
            for handle in handles:
                await handle.result()
            found = [await history(handle) for handle in handles]
            await engine.stop()
    assert [outcomes(each) for each in found] == [["succeeded"], ["succeeded"]]
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT task_id FROM attempts").fetchall() == [(handles[1].id,)]
    connection.close()


async def test_of_a_task_that_is_not_there(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        for task_id in (NO_TASK, "no id", "\udcff"):
            with pytest.raises(TaskNotFound):
                await engine.history(task_id)


async def test_of_one_that_waits(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    @tasks.task("later")
    async def later(payload: Any) -> None: ...

    async with running(tasks, backend) as engine:
        handle = await engine.submit(later, delay=100)
        assert await history(handle) == ()


def test_outcomes_are_spelled_as_the_document_has_them() -> None:
    assert [outcome.value for outcome in AttemptOutcome] == [
        "running",
        "succeeded",
        "failed",
        "retried",
        "snoozed",
        "interrupted",
        "lost_lease",
        "crashed",
        "cancelled",
    ]
