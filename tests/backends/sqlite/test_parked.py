"""A receiver that waits takes what is sent in the very transaction that sends it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing

from task_queue_engine.backends.base import Created, Delivery, Message, NewTask, Taken, TakePlan
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.clock import TrioClock
from task_queue_engine.errors import BackendUnavailable
from tests.backends.sqlite.child import new_task
from tests.backends.sqlite.sqlite_file import check

FREE = TakePlan(worker="w", free=5, types={"demo": "trio"})


class Commits:
    """Counts those of the writer."""

    def __init__(self, backend: SqliteBackend) -> None:
        self._backend = backend
        self.number = 0

    async def watch(self) -> None:
        writer = self._backend._file.writer
        assert writer is not None
        await writer.run(lambda t: t.connection.set_commit_hook(self._count))

    def _count(self) -> bool:
        self.number += 1
        return False


async def parked(backend: SqliteBackend) -> None:
    writer = backend._file.writer
    assert writer is not None
    while not any(writer._parked.values()):
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_submitted_and_started_in_one_commit(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    taken: list[Taken] = []

    async def take() -> None:
        taken.extend(await backend.steps("default").take(FREE, wait=60, visibility=30))

    async with backend.open(), trio.open_nursery() as nursery:
        commits = Commits(backend)
        await commits.watch()
        nursery.start_soon(take)
        await parked(backend)
        before = commits.number
        task = new_task()
        assert await backend.submit([NewTask(task=task)]) == [Created()]
        await trio.testing.wait_all_tasks_blocked()
        assert commits.number == before + 1
        (one,) = taken
        assert one.started is not None
        assert one.started.task.id == task.id
    check(tmp_path / "tasks.db")


async def test_what_is_given_back_is_taken_too(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    again: list[Delivery] = []
    async with backend.open(), trio.open_nursery() as nursery:
        queue = backend.queue("default")
        task = new_task()
        await backend.submit([NewTask(task=task)])
        (first,) = await queue.receive(1, wait=0, visibility=30)

        async def receive() -> None:
            again.extend(await queue.receive(1, wait=60, visibility=30))

        nursery.start_soon(receive)
        await parked(backend)
        await queue.release([(first, 0.0)])
        await trio.testing.wait_all_tasks_blocked()
        assert [one.receive_count for one in again] == [2]
    check(tmp_path / "tasks.db")


async def test_what_is_not_visible_yet_is_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    # The threads are real, and may take longer than any threshold: time passes when it is told to.
    autojump_clock.autojump_threshold = math.inf
    backend = SqliteBackend(tmp_path / "tasks.db", clock=TrioClock())
    received: list[float] = []
    async with backend.open(), trio.open_nursery() as nursery:
        queue = backend.queue("default")

        async def receive() -> None:
            (_,) = await queue.receive(1, wait=60, visibility=30)
            received.append(trio.current_time())

        nursery.start_soon(receive)
        await parked(backend)
        sent_at = trio.current_time()
        await queue.send([Message(task=new_task(), delay=5)])
        for seconds in (4.5, 1):
            assert not received
            await trio.testing.wait_all_tasks_blocked(0.1)
            autojump_clock.jump(seconds)
    assert received == [sent_at + 5.5]


async def test_who_is_cancelled_while_it_waits_takes_nothing(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        queue = backend.queue("default")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: queue.receive(1, wait=60, visibility=30))
            await parked(backend)
            nursery.cancel_scope.cancel()
        await queue.send([Message(task=new_task())])
        depth = await queue.depth()
        assert (depth.waiting, depth.in_flight) == (1, 0)


async def test_closing_ends_the_wait(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with trio.open_nursery() as nursery, backend.open():

        async def receive() -> None:
            with pytest.raises(BackendUnavailable):
                await backend.queue("default").receive(1, wait=60, visibility=30)

        nursery.start_soon(receive)
        await parked(backend)


async def test_a_take_that_fails_does_not_fail_who_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    failed = 0

    def broken(self: Any, transaction: Transaction, *args: Any) -> list[Delivery]:
        nonlocal failed
        failed += 1
        raise apsw.FullError("no room")

    async with backend.open(), trio.open_nursery() as nursery:
        queue = backend.queue("default")

        async def receive() -> None:
            with pytest.raises(BackendUnavailable):
                await queue.receive(1, wait=60, visibility=30)

        nursery.start_soon(receive)
        await parked(backend)
        monkeypatch.setattr(type(queue.messages), "take", broken)
        task = new_task()
        assert await backend.submit([NewTask(task=task)]) == [Created()]
    assert failed == 2  # in that transaction, and when the receiver looked for itself
    check(tmp_path / "tasks.db")


async def test_two_that_wait_do_not_get_the_same(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    received: list[Delivery] = []
    async with backend.open(), trio.open_nursery() as nursery:
        queue = backend.queue("default")

        async def receive() -> None:
            received.extend(await queue.receive(1, wait=60, visibility=30))

        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await parked(backend)
        await trio.testing.wait_all_tasks_blocked()
        await backend.submit([NewTask(task=new_task()) for _ in range(2)])
    assert len({one.message_id for one in received}) == 2
    check(tmp_path / "tasks.db")
