"""A defect ends the engine loudly, with everything settled that can be, or restarts its actor."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio

from task_queue_engine import Engine, TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.errors import BackendRefused, BackendUnavailable, EngineNotRunning
from tests.engine.engines import FLUSH, GRACE, LEASE, depth, reaches, row, running, settings, until

DEFECT = "a defect in the backend"


@pytest.fixture(autouse=True)
def naps(tasks: TaskRegistry) -> Any:
    @tasks.task("nap")
    async def nap(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    return nap


def defects(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in defects(member)]
    return [error]


class Host:
    """A program that embeds an engine, and survives it."""

    def __init__(self, tasks: TaskRegistry, backend: MemoryBackend, **values: Any) -> None:
        self.engine = Engine(tasks, settings(**values), backend=backend, clock=backend.clock)
        self.defects: list[BaseException] = []
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def run(self, *, task_status: trio.TaskStatus[Engine]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(await nursery.start(self.engine.run))
        except ExceptionGroup as group:
            self.defects = defects(group)
        self.ended_at = trio.current_time()
        self.ended.set()


async def submitted(engine: Engine, seconds: float) -> str:
    return (await engine.submit("nap", seconds)).id


@pytest.mark.parametrize(
    ("operation", "actor"),
    [
        ("receive", "poller"),
        ("claim", "claimer"),
        ("record", "status_writer"),
        ("delete", "acker"),
        ("create", "submitter"),
        ("send", "submitter"),
        ("extend", "lease_keeper"),
        ("cancel_requested", "lease_keeper"),
    ],
)
async def test_a_defect_on_the_line_reaches_the_host_as_a_group(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    operation: str,
    actor: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(host.run)
        backend.faults.defect(operation, RuntimeError(DEFECT))
        with suppress(BackendUnavailable, EngineNotRunning):
            await submitted(engine, 15)
        await host.ended.wait()
        with pytest.raises(EngineNotRunning):
            await submitted(engine, 1)
    (defect,) = host.defects
    assert isinstance(defect, RuntimeError)
    assert str(defect) == DEFECT
    assert defect.__notes__ == [f"in actor {actor}"]
    (line,) = [line for line in caplog.messages if DEFECT in line]
    assert line.startswith(f"{actor} failed, the engine ends")


@pytest.mark.parametrize("operation", ["receive", "claim", "create", "send"])
async def test_at_a_defect_in_front_running_handlers_finish_and_are_settled(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(host.run)
        running_one = await submitted(engine, GRACE - 5)
        await reaches(engine, running_one, TaskStatus.PROCESSING)
        backend.faults.defect(operation, RuntimeError(DEFECT))
        with suppress(BackendUnavailable, EngineNotRunning):
            await submitted(engine, 0)
        await host.ended.wait()
    assert len(host.defects) == 1
    assert row(backend, running_one).task.result == "slept"
    assert (await depth(backend)).in_flight == 0


async def test_at_a_defect_of_the_lease_keeper_nothing_runs_on_without_a_lease(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(host.run)
        ids = [await submitted(engine, 1000) for _ in range(5)]
        await reaches(engine, ids[1], TaskStatus.PROCESSING)
        backend.faults.defect("extend", RuntimeError(DEFECT))
        failed_at = trio.current_time() + LEASE / 2
        await host.ended.wait()
    assert host.ended_at <= failed_at + 1
    tasks_then = [row(backend, task_id).task for task_id in ids]
    assert all(task.status is TaskStatus.PENDING for task in tasks_then)
    assert all(task.retry_count == 0 for task in tasks_then)
    assert (await depth(backend)).waiting == 5


async def test_what_a_failed_poller_had_received_is_given_back(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(host.run)
        backend.faults.defect("claim", RuntimeError(DEFECT))
        task_id = await submitted(engine, 1)
        await host.ended.wait()
    assert (await depth(backend)).waiting == 1
    async with running(tasks, backend) as engine:
        task = await engine.wait(task_id, timeout=5)
    assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)


async def test_of_a_defect_and_what_it_broke_only_the_defect_is_told(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Workers whose channel to the failed writer is gone have no story of their own."""
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(host.run)
        for seconds in (1, 10):
            await submitted(engine, seconds)
        backend.faults.defect("record", RuntimeError(DEFECT))
        await host.ended.wait()
    assert [str(defect) for defect in host.defects] == [DEFECT]


async def test_who_waits_for_a_submission_is_told_when_the_submitter_fails(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(host.run)
        backend.faults.defect("create", RuntimeError(DEFECT))
        with pytest.raises(BackendUnavailable), trio.fail_after(GRACE + 10):
            await submitted(engine, 1)


async def test_a_backend_that_refuses_for_good_ends_the_engine(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    host = Host(tasks, backend)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        backend.faults.defect("due", BackendRefused("no permission"))
        await host.ended.wait()
    (defect,) = host.defects
    assert isinstance(defect, BackendRefused)


# --- restarted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "actor"),
    [
        ("due", "scheduler"),
        ("stranded", "reconciler"),
        ("counts", "metrics"),
    ],
)
async def test_a_defect_beside_the_line_restarts_its_actor_every_time(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    operation: str,
    actor: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(tasks, backend) as engine:
        for _ in range(3):
            backend.faults.defect(operation, RuntimeError(DEFECT))
            await trio.sleep(60)
            calls = backend.faults.calls[operation]
            await trio.sleep(60)
            assert backend.faults.calls[operation] > calls, "it works again"
            handle = await engine.submit("nap", 1)
            assert await handle.result(timeout=10) == "slept"
        assert (await engine.ready()).ready
    failures = [record for record in caplog.records if "starting it again" in record.message]
    assert [record.args[0] for record in failures] == [actor] * 3
    assert all(record.exc_info[1].args == (DEFECT,) for record in failures)


async def test_a_defect_beside_the_line_shows_in_readiness(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        await trio.sleep(1)
        backend.faults.defect("due", RuntimeError(DEFECT))
        before = backend.faults.calls["due"]
        await until(lambda: backend.faults.calls["due"] > before)
        await trio.sleep(0.1)
        assert (await engine.ready()).reasons == (f"scheduler: {DEFECT}",)


@pytest.mark.parametrize("operation", ["due", "stranded", "counts"])
async def test_a_stop_does_not_wait_for_an_actor_that_is_about_to_be_restarted(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    async with running(tasks, backend) as engine:
        await trio.sleep(1)
        backend.faults.defect(operation, RuntimeError(DEFECT))
        before = backend.faults.calls[operation]
        await until(lambda: backend.faults.calls[operation] > before)
        await trio.sleep(0.1)
        with trio.fail_after(1):
            await engine.stop()


# --- deadlines ------------------------------------------------------------------------------


async def test_what_could_not_be_settled_in_time_is_said(
    tasks: TaskRegistry, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tasks, backend) as engine:
        await engine.submit("nap", 2)
        await trio.sleep(1)
        with backend.faults.outage("record"):
            await trio.sleep(2)
            start = trio.current_time()
            engine.request_stop()
            await engine.stop()
            assert round(trio.current_time() - start, 6) <= FLUSH + 1
    assert "1 held message(s) that could not be settled" in caplog.text


async def test_nothing_is_said_where_all_was_settled(
    tasks: TaskRegistry, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tasks, backend) as engine:
        await engine.submit("nap", 2)
        await trio.sleep(1)
        await engine.stop()
    assert "settled" not in caplog.text


# --- hooks ----------------------------------------------------------------------------------


async def test_a_hook_that_raises_is_dropped_and_costs_no_task(
    tasks: TaskRegistry, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0
    seen: list[Any] = []

    def broken(event: Any) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("in the host's own code")

    async with running(tasks, backend, hooks=[broken, seen.append]) as engine:
        for _ in range(3):
            await (await engine.submit("nap", 1)).result(timeout=10)
    assert calls == 1
    assert len(seen) == 6
    assert "not called again" in caplog.text
