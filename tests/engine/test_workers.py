"""Which processes there are, as any of them says, and which types none of them knows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from task_queue_engine import Engine, TaskRegistry, TaskStatus, Worker
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.worker import LIVING_FOR, MAX_TYPES, WorkerList, no_worker_knows
from tests.engine.engines import FLUSH, GRACE, process, reaches, running, settings


@pytest.fixture(autouse=True)
def nap(tasks: TaskRegistry) -> Any:
    @tasks.task("nap", aliases=["snooze"])
    async def nap(seconds: float) -> None:
        await trio.sleep(seconds)

    @tasks.task("mule", timeout=3600)
    async def mule(payload: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    return nap


def only(*names: str) -> TaskRegistry:
    made = TaskRegistry()
    for name in names:

        @made.task(name)
        async def handler(payload: Any) -> None: ...

    return made


async def settle() -> None:
    """What begins at a start has been written; an answer that is remembered is too old."""
    await trio.sleep(2)


async def test_what_runs_is_seen_from_another_process(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with (
        running(tasks, backend, queue="default", threads=7, processes=3) as working,
        running(tasks, backend, consume=False) as api,
    ):
        await settle()
        handle = await api.submit("nap", 100)
        task = await reaches(working, handle.id, TaskStatus.PROCESSING)
        assert task.worker in [one.id for one in (await api.workers()).workers if one.busy]
        await trio.sleep(20)
        found = await api.workers()
        assert [one.id for one in (await working.workers()).workers] == [
            one.id for one in found.workers
        ]
        assert found.lost == 0
        (worker,) = [one for one in found.workers if one.slots]
        assert worker.id == task.worker
        assert (worker.pid, worker.queues, worker.slots) == (os.getpid(), ("default",), 2)
        assert worker.types == ("mule", "nap", "snooze", "tqe.bulk")
        assert (worker.threads, worker.processes, worker.busy) == (7, 3, 1)
        (run,) = worker.running
        assert (run.task_id, run.type, run.attempt) == (task.id, "nap", 1)
        assert run.since == task.started_at
        (other,) = [one for one in found.workers if not one.slots]
        assert (other.types, other.busy, other.threads, other.processes) == ((), 0, 0, 0)
        await working.stop()
        await settle()
        assert [one.id for one in (await api.workers()).workers] == [other.id]


async def test_of_itself_a_process_knows_at_once(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        await settle()
        handle = await engine.submit("nap", 5)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        (worker,) = (await engine.workers()).workers
        assert [run.task_id for run in worker.running] == [handle.id]


async def test_one_that_is_killed_is_lost_after_a_minute(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as watching, process(tasks, backend) as victim:
        await settle()
        assert len((await watching.workers()).workers) == 2
        victim.kill()
        await trio.sleep(LIVING_FOR + 2)
        found = await watching.workers()
        assert (len(found.workers), found.lost) == (1, 1)


async def test_a_clock_that_is_wrong_makes_no_living_worker_look_dead(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    class Ahead:
        def now(self) -> Any:
            return backend.clock.now() + timedelta(hours=5)

    other = Engine(tasks, settings(), backend=backend, clock=Ahead())
    async with running(tasks, backend) as engine, trio.open_nursery() as nursery:
        await nursery.start(other.run)
        await trio.sleep(100)
        for one in (engine, other):
            found = await one.workers()
            assert (len(found.workers), found.lost) == (2, 0)
        await other.stop()


async def test_a_visit_leaves_no_trace(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    engine = Engine(tasks, settings(), backend=backend, consume=False, housekeeping=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await trio.sleep(100)
        assert await engine.workers() == WorkerList()
        await engine.stop()
    assert not {name for name in backend.faults.calls if "worker" in name} - {"look_at_workers"}


async def test_the_backend_is_asked_once_a_second(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(engine.workers)
        await trio.sleep(0.5)
        await engine.workers()
        assert backend.faults.calls["look_at_workers"] == 1
        await trio.sleep(0.6)
        await engine.workers()
        assert backend.faults.calls["look_at_workers"] == 2


async def test_while_it_drains_it_says_so(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as watching, running(tasks, backend) as engine:
        await watching.submit("nap", 10)
        await watching.submit("nap", 10)
        await watching.submit("nap", 10)
        await trio.sleep(3)
        engine.request_stop()
        await settle()
        states = sorted(one.state for one in (await watching.workers()).workers)
        assert states == ["draining", "ready"]
        await trio.sleep(GRACE)
        assert len((await watching.workers()).workers) == 1


@pytest.mark.parametrize("operation", ["put_worker", "remove_worker"])
async def test_a_row_that_hangs_holds_up_no_exit(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    async with running(tasks, backend) as engine:
        await settle()
        with backend.faults.block(operation) as gate:
            if operation == "put_worker":
                await gate.arrived.wait()
            began = trio.current_time()
            await engine.stop()
            assert round(trio.current_time() - began, 6) <= 1


async def test_nor_past_the_deadline(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit("mule", 1)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        with backend.faults.block("remove_worker"):
            began = trio.current_time()
            await engine.stop()
            # The handler's own shielded minute, and no second beyond it.
            assert GRACE + FLUSH < trio.current_time() - began <= 60.5


async def test_trouble_with_the_row_is_no_reason_not_to_serve(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    with backend.faults.outage("put_worker", "look_at_workers"):
        async with (
            running(tasks, backend) as engine,
            running(tasks, backend, consume=False) as api,
        ):
            await settle()
            for one in (engine, api):
                assert ((await one.ready()).ready, (await one.ready()).notes) == (True, ())


# --- types that none knows ------------------------------------------------------------------


async def notes(engine: Engine) -> Sequence[str]:
    await trio.sleep(11)  # what it knows of the workers is good for ten seconds
    return (await engine.ready()).notes


async def test_an_api_notes_the_types_that_no_living_worker_knows(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as api:
        assert await notes(api) == (), "older versions do not show"
        async with running(only("nap", "other"), backend):
            (note,) = await notes(api)
            assert note.startswith("no living worker knows the task type mule: ")
            async with running(only("mule"), backend):
                assert await notes(api) == ()
            assert len(await notes(api)) == 1
        assert await notes(api) == (), "all have gone in order: nothing is known again"


async def test_one_that_died_has_shown_that_workers_do_show_here(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as api, process(tasks, backend) as victim:
        await settle()
        victim.kill()
        assert await notes(api) == ()
        await trio.sleep(LIVING_FOR)
        (note,) = await notes(api)
        assert "task types mule, nap: " in note


async def test_a_worker_notes_nothing(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(only("other"), backend), running(tasks, backend) as engine:
        assert await notes(engine) == ()


def test_a_note_names_few_types_and_one_that_knows_too_many_to_tell_may_know_any() -> None:
    now = MemoryBackend().clock.now()
    worker = Worker(
        id="a", host="a", pid=1, version="1", slots=1, types=("x",), started_at=now, last_seen=now
    )
    found = WorkerList(workers=(worker,))
    (note,) = no_worker_knows(found, tuple(f"type-{n:02}" for n in range(30)))
    assert "type-09 and 20 more" in note
    assert "type-10" not in note
    many = msgspec.structs.replace(worker, types=tuple(f"t{n}" for n in range(MAX_TYPES)))
    assert no_worker_knows(WorkerList(workers=(many,)), ("type",)) == ()
    only_api = msgspec.structs.replace(worker, slots=0, types=())
    assert no_worker_knows(WorkerList(workers=(only_api,)), ("type",)) == ()
