"""What only the embedded queue and store promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    Delivery,
    Done,
    Finish,
    GiveBack,
    Message,
    NewTask,
    TakePlan,
)
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite import queue as sqlite_queue
from task_queue_engine.clock import TrioClock
from task_queue_engine.lifecycle import Complete, Interrupt, Started
from task_queue_engine.testing.conformance.harness import claim_request
from tests.backends.sqlite.child import new_task
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check


@pytest.mark.parametrize("size", [1, 2, 3, 64, 65, 255, 256, 257, 600])
async def test_batches_of_any_size(tmp_path: Path, size: int) -> None:
    """Statements come in a few sizes, padded; more than the largest are several."""
    harness = SqliteHarness(tmp_path / "tasks.db")
    backend = harness.backend
    async with backend.open():
        tasks = [harness.make_task(payload=i) for i in range(size)]
        created = await harness.store.create([NewTask(task=task) for task in tasks])
        assert created == [Created()] * size
        sent = await harness.queue.send([Message(task=task) for task in tasks])
        assert sent == [Done()] * size
        deliveries = await harness.queue.receive(size, wait=0, visibility=30)
        assert [delivery.task_id for delivery in deliveries] == [task.id for task in tasks]
        verdicts = await harness.store.claim([claim_request(delivery) for delivery in deliveries])
        assert [v.task.payload for v in verdicts if isinstance(v, Started)] == list(range(size))
        await harness.counts(processing=size)
        await harness.store.record(
            [Complete(task_id=task.id, attempt=1, result=None) for task in tasks]
        )
        await harness.counts(completed=size)
        assert await harness.queue.delete(deliveries) == [Done()] * size
        await harness.depth()
        assert len(await harness.store.get([task.id for task in tasks])) == size
    check(tmp_path / "tasks.db")


async def test_a_send_of_this_process_is_seen_without_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_queue, "LOOK_EVERY", 60.0)
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        queue = backend.queue("default")
        for _ in range(20):
            received: list[Delivery] = []

            async def wait(received: list[Delivery] = received) -> None:
                received += await queue.receive(1, wait=60, visibility=30)

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await trio.testing.wait_all_tasks_blocked()
                    await queue.send([Message(task=new_task())])
            assert len(received) == 1


async def test_a_delayed_message_wakes_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_queue, "LOOK_EVERY", 60.0)
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        queue = backend.queue("default")
        start = trio.current_time()  # before it is sent: that takes long on a busy machine
        await queue.send([Message(task=new_task(), delay=0.1)])
        with trio.fail_after(30):
            (delivery,) = await queue.receive(1, wait=60, visibility=0.1)
            assert trio.current_time() - start >= 0.09, "never early"
            (again,) = await queue.receive(1, wait=60, visibility=30)
    assert again.message_id == delivery.message_id


async def test_the_clock_is_asked_on_the_event_loop(tmp_path: Path) -> None:
    """One that follows trio's time can be asked nowhere else."""
    backend = SqliteBackend(tmp_path / "tasks.db", clock=TrioClock())
    async with backend.open():
        queue, store = backend.queue("default"), backend.store
        task = new_task()
        await store.create([NewTask(task=task)])
        await queue.send([Message(task=task)])
        (delivery,) = await queue.receive(1, wait=0, visibility=30)
        await store.claim([claim_request(delivery)])
        await store.record([Complete(task_id=task.id, attempt=1, result=None)])
        await store.cancel([task.id])
        await store.reopen([task.id])
        await store.reclaim([(task.id, 1)])
        await queue.extend([delivery], visibility=30)
        assert await queue.release([(delivery, 0.0)]) == [Done()]


async def test_the_clock_is_asked_on_the_event_loop_by_each_step(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db", clock=TrioClock())
    async with backend.open():
        steps, task = backend.steps("default"), new_task()
        plan = TakePlan(worker="here", free=1, types={task.type: "anywhere"})
        assert await backend.submit([NewTask(task=task)]) == [Created()]
        (taken,) = await steps.take(plan, wait=0, visibility=30)
        interrupt = Interrupt(task_id=task.id, attempt=1)
        (finished,) = await steps.finish([Finish(interrupt, taken.delivery, GiveBack())])
        assert finished.settled == Done()


@pytest.mark.parametrize("size", [10, 1_998, 1_999, 9_000])
async def test_a_payload_of_any_size_goes_and_leaves_nothing_behind(
    tmp_path: Path, size: int
) -> None:
    """Large ones are in a table of their own."""
    harness = SqliteHarness(tmp_path / "tasks.db")
    backend = harness.backend
    path = tmp_path / "tasks.db"
    async with backend.open():
        task, _ = await harness.start(payload="x" * size)
        assert task.payload == "x" * size
        verdicts = await harness.store.create(
            [
                NewTask(task=harness.make_task(id=task.id, payload="y" * size)),
                NewTask(task=harness.make_task()),
            ]
        )
        assert verdicts == [AlreadyExists(task), Created()]
        check(path)
        await harness.record(Complete(task_id=task.id, attempt=1, result="z" * size))
        ended = await harness.get(task.id)
        assert (ended.payload, ended.result) == ("x" * size, "z" * size)
        await harness.advance(1)
        assert await harness.store.expire(finished_before=harness.now(), limit=10) == 1
        check(path)
        await harness.create(id=task.id, payload="w" * size)
        check(path)


@pytest.mark.parametrize(
    "payload", [{"to": "Ada \u2028"}, None, "x" * 5000], ids=["small", "null", "large"]
)
async def test_a_delivery_tells_type_and_payload(tmp_path: Path, payload: Any) -> None:
    """By which a worker sees what it cannot run before it claims it."""
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        await harness.submit(type='an "odd" type', payload=payload)
        (delivery,) = await harness.queue.receive(1, wait=0, visibility=30)
        assert delivery.task_type == 'an "odd" type'
        assert msgspec.json.decode(delivery.payload_json) == payload


async def test_a_delivery_without_a_task_tells_nothing(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        await harness.queue.send([Message(task=harness.make_task())])
        (delivery,) = await harness.queue.receive(1, wait=0, visibility=30)
        assert delivery.task_type == ""
