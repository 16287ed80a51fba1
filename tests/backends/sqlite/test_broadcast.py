"""Processes on one file tell those that listen what happens, and no others."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from task_queue_engine.backends.base import BroadcastingBackend, NewTask, TaskChange
from task_queue_engine.backends.sqlite import SqliteBackend, bells, broadcast
from task_queue_engine.backends.sqlite.broadcast import _LONGEST, Reading
from task_queue_engine.lifecycle import ClaimRequest
from tests.backends.sqlite.child import new_task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


class Listener:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.missed = 0
        self.hears = False
        self._changed = trio.Event()

    def heard(self, messages: Sequence[bytes]) -> None:
        self.messages += messages
        self._change()

    def has_missed(self, count: int | None) -> None:
        self.missed += count or 0
        self._change()

    def set_hears(self, hears: bool) -> None:
        self.hears = hears
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, count: int = 0) -> None:
        with trio.fail_after(20):
            while not self.hears or len(self.messages) + self.missed < count:
                await self._changed.wait()


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Listener]:
    """Another process, by a backend of its own."""
    listener, backend = Listener(), SqliteBackend(path)
    async with backend.open(), trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                backend.hear_broadcasts,
                listener.heard,
                missed=listener.has_missed,
                hears=listener.set_hears,
            )
        )
        await listener.until()
        yield listener
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def at_work(path: Path) -> AsyncIterator[tuple[SqliteBackend, Told]]:
    """A process that runs tasks: it hears of cancels, and so of listeners."""
    backend = SqliteBackend(path)
    assert isinstance(backend, BroadcastingBackend)
    async with backend.open(), trio.open_nursery() as nursery:
        told = Told()
        forget = backend.on_listening(told)
        nursery.start_soon(
            partial(
                backend.hear_tasks, TaskChange.CANCEL_ASKED, lambda _: None, hears=told.set_hears
            )
        )
        await told.until_hears()
        yield backend, told
        forget()
        nursery.cancel_scope.cancel()


class Told:
    """Whether another process listens."""

    def __init__(self) -> None:
        self.now = False
        self.said: list[bool] = []
        self._hears = trio.Event()
        self._changed = trio.Event()

    def __call__(self, is_listened_to: bool) -> None:
        self.now = is_listened_to
        self.said.append(is_listened_to)
        self._changed.set()
        self._changed = trio.Event()

    def set_hears(self, hears: bool) -> None:
        if hears:
            self._hears.set()

    async def until_hears(self) -> None:
        with trio.fail_after(20):
            await self._hears.wait()

    async def until(self, is_listened_to: bool) -> None:
        with trio.fail_after(20):
            while self.now is not is_listened_to:
                await self._changed.wait()


async def test_messages_of_any_length_come_in_order(path: Path) -> None:
    async with at_work(path) as (backend, told):
        assert not told.now
        async with listening(path) as listener:
            await told.until(True)
            sizes = [1, bells.ATOMIC - 60, bells.ATOMIC, 3 * bells.ATOMIC + 1, 0, _LONGEST]
            sent = [bytes([65 + n]) * size for n, size in enumerate(sizes)]
            for message in sent:
                backend.broadcast(message)
            await listener.until(len(sent))
            assert listener.messages == sent
            assert listener.missed == 0
        # The last has gone: whoever finds that first, here the writer itself.
        backend.broadcast(b"to no one")
        assert not told.now
    assert sorted(each.name for each in path.parent.iterdir()) == ["tasks.db"]


async def test_a_process_that_only_submits_learns_of_it_with_its_next_commit(path: Path) -> None:
    backend = SqliteBackend(path)
    async with backend.open():
        told = Told()
        backend.on_listening(told)
        async with listening(path) as listener:
            await backend.submit([NewTask(task=new_task())])
            await told.until(True)
            backend.broadcast(b"submitted")
            await listener.until(1)
        await backend.submit([NewTask(task=new_task())])
        await told.until(False)


async def test_who_listens_is_known_before_what_is_claimed_can_start(path: Path) -> None:
    """No matter how long this process takes to look for listeners by itself."""
    backend = SqliteBackend(path)
    async with backend.open():
        told = Told()
        backend.on_listening(told)
        queue = backend.queue("default")
        await backend.submit([NewTask(task=new_task()) for _ in range(2)])
        for _ in range(2):
            async with listening(path):
                assert not told.now
                (delivery,) = await queue.receive(1, wait=0, visibility=600)
                claim = ClaimRequest(
                    task_id=delivery.task_id,
                    message_id=delivery.message_id,
                    receive_count=1,
                    worker="w",
                )
                await backend.store.claim([claim])
                assert told.now
            await backend.submit([NewTask(task=new_task())])
            await told.until(False)


async def test_a_look_that_took_long_forgets_no_listener(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, may_go_on = threading.Semaphore(0), threading.Event()
    find = broadcast._find

    def find_slowly(database: str, topic: str) -> frozenset[str]:
        found = find(database, topic)
        if topic == bells.BROADCASTS:
            looks.release()
            may_go_on.wait(20)
        return found

    monkeypatch.setattr(broadcast, "_find", find_slowly)
    try:
        async with at_work(path) as (backend, told):
            assert await trio.to_thread.run_sync(looks.acquire, True, 20)
            async with listening(path):  # which that look has not seen
                await backend.submit([NewTask(task=new_task())])
                await told.until(True)
                may_go_on.set()
                assert await trio.to_thread.run_sync(looks.acquire, True, 20)
                assert told.said[:2] == [False, True]
                assert all(told.said[1:])
    finally:
        may_go_on.set()


async def test_what_found_no_room_is_counted(path: Path) -> None:
    async with at_work(path) as (backend, told), listening(path) as listener:
        await told.until(True)
        sent = 2 * 2**20 // 1000  # twice what fits, without a turn for the listener
        for number in range(sent):
            backend.broadcast(b"%d " % number + b"x" * 1000)
        backend.broadcast(b"y" * (_LONGEST + 1))
        await trio.lowlevel.checkpoint()
        while listener.messages[-1:] != [b"last"]:
            backend.broadcast(b"last")
            await trio.lowlevel.checkpoint()
        whole = [message for message in listener.messages if message != b"last"]
        assert whole == [b"%d " % number + b"x" * 1000 for number in range(len(whole))]
        assert 0 < len(whole) < sent
        lasts = len(listener.messages) - len(whole)
        assert listener.missed + len(whole) >= sent + 1
        assert listener.missed + len(whole) <= sent + 1 + lasts


def test_pieces_of_two_writers_that_come_mixed() -> None:
    reading = Reading()
    assert reading.take([b"a 7 +on", b"b 1 .whole", b"a 7 .e"]) == ([b"whole", b"one"], 0)
    # Its second half had no room; and of another two nothing.
    assert reading.take([b"a 8 +lost", b"a 11 .next"]) == ([b"next"], 3)
    assert reading.take([b"nonsense", b"", b"a x .y", b"a 12 ?y"]) == ([], 0)
    assert reading.take([b"a 12 ."]) == ([b""], 0)


async def test_a_listener_that_was_killed_harms_no_program(path: Path) -> None:
    """Not even one that dies of SIGPIPE."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        async with at_work(path) as (backend, told):
            bell = bells.make(str(path), bells.BROADCASTS)
            await backend.submit([NewTask(task=new_task())])
            await told.until(True)
            os.close(bell.reader)
            backend.broadcast(b"to no one")
            assert not told.now
            assert signal.SIGPIPE not in signal.sigpending()
            os.close(bell.writer)
    finally:
        signal.signal(signal.SIGPIPE, before)


async def test_engines_in_one_process_hear_each_other(path: Path) -> None:
    backend = SqliteBackend(path)
    async with backend.open(), backend.open(), trio.open_nursery() as nursery:
        listener, told = Listener(), Told()
        backend.on_listening(told)
        nursery.start_soon(
            partial(
                backend.hear_broadcasts,
                listener.heard,
                missed=listener.has_missed,
                hears=listener.set_hears,
            )
        )
        await listener.until()
        await backend.submit([NewTask(task=new_task())])
        await told.until(True)
        backend.broadcast(b"hello")
        await listener.until(1)
        nursery.cancel_scope.cancel()
