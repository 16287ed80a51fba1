"""The table of workers, and how a process shows that it lives without writing to the disk.

Each keeps a named pipe in the folder of the doorbell (`bells.py`). The kernel closes it when the
process ends, however it ends: so a death is known at once, and a row that says nothing new is not
written again. Where no pipe can be made the row is written at each beat, and its age counts.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
import trio

from task_queue_engine.backends.sqlite import bells
from task_queue_engine.backends.sqlite.bells import Bell
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.rows import from_us, to_us
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.clock import Clock
from task_queue_engine.worker import LIVING_FOR, LOST_FOR, Worker, WorkerList, in_order

_PUT = (
    "INSERT INTO workers (id, last_seen, pipe, worker) VALUES (?, ?, ?, ?) ON CONFLICT (id) "
    "DO UPDATE SET last_seen = excluded.last_seen, pipe = excluded.pipe, worker = excluded.worker"
)
_LOOK = "SELECT last_seen, pipe, worker FROM workers"
_LOST = "SELECT id, pipe FROM workers WHERE last_seen < ?"
_REMOVE = "DELETE FROM workers WHERE id = ?"

_decode = msgspec.json.Decoder(Worker).decode

_open: weakref.WeakSet[SqliteWorkers] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A child that a handler forks must not seem to be its parent, should that be killed."""
    for workers in list(_open):
        workers.silence()


os.register_at_fork(after_in_child=_let_go_in_child)


class SqliteWorkers:
    def __init__(self, *, file: DatabaseFile, database: str, clock: Clock) -> None:
        self._file = file
        self._database = database
        self._clock = clock
        self._bells: dict[str, Bell] = {}
        """Of the workers of this backend, by id."""
        self._written: dict[str, Worker] = {}
        _open.add(self)

    async def put(self, worker: Worker) -> None:
        bell = self._bells.get(worker.id)
        if bell is not None and not bell.is_there:  # a cleanup has removed it
            self._let_go(worker.id)
            bell = None
        written = self._written.get(worker.id)
        if bell is not None and written is not None and worker.says_the_same(written):
            await trio.lowlevel.checkpoint()
            return
        if bell is None:
            # No doorbell works there either, and that is told: doorbell.py.
            with suppress(OSError):
                bell = await trio.to_thread.run_sync(bells.make, self._database, bells.LIVES)
                self._bells[worker.id] = bell
        now = self._clock.now()
        seen = msgspec.structs.replace(worker, last_seen=now)
        row = (
            worker.id,
            to_us(now),
            None if bell is None else bell.path.name,
            msgspec.json.encode(seen),
        )

        def put(transaction: Transaction) -> None:
            transaction.execute(_PUT, row)

        await self._file.write(put)
        self._written[worker.id] = seen

    async def remove(self, worker_id: str) -> None:
        self._let_go(worker_id)

        def remove(transaction: Transaction) -> None:
            transaction.execute(_REMOVE, (worker_id,))

        await self._file.write(remove)

    def _let_go(self, worker_id: str) -> None:
        self._written.pop(worker_id, None)
        bell = self._bells.pop(worker_id, None)
        if bell is not None:
            bell.remove()

    def close(self) -> None:
        """The backend closes: nothing of it lives any more."""
        for worker_id in list(self._bells):
            self._let_go(worker_id)

    def silence(self) -> None:
        """Stop reading the pipes, and leave them where they are."""
        for bell in self._bells.values():
            # Not closed: the number might come to stand for another file in these hands.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, bell.reader, inheritable=False)
            os.close(nowhere)

    async def look(self) -> WorkerList:
        now = self._clock.now()
        lost_since = now - timedelta(seconds=LOST_FOR)

        def look(transaction: Transaction) -> WorkerList:
            living: list[Worker] = []
            lost = 0
            for last_seen, pipe, encoded in transaction.execute(_LOOK).fetchall():
                worker, at = _decode(encoded), from_us(last_seen)
                if self._lives(at, pipe, now):
                    living.append(_as_seen(worker, at if worker.busy or pipe is None else now))
                elif worker.slots and at >= lost_since:
                    lost += 1
            return WorkerList(workers=in_order(living), lost=lost)

        return await self._file.read(look)

    def _lives(self, last_seen: datetime, pipe: str | None, now: datetime) -> bool:
        if pipe is None:
            return now - last_seen <= timedelta(seconds=LIVING_FOR)
        return bells.is_heard(self._database, pipe)

    async def forget_lost(self) -> None:
        now = self._clock.now()
        before = (to_us(now - timedelta(seconds=LOST_FOR)),)

        def find(transaction: Transaction) -> list[str]:
            return [
                worker_id
                for worker_id, pipe in transaction.execute(_LOST, before).fetchall()
                if pipe is None or not bells.is_heard(self._database, pipe)
            ]

        def forget(transaction: Transaction) -> None:
            for worker_id in forgotten:
                transaction.execute(_REMOVE, (worker_id,))

        forgotten = await self._file.read(find)
        if forgotten:
            await self._file.write(forget)


def _as_seen(worker: Worker, at: datetime) -> Worker:
    return msgspec.structs.replace(worker, last_seen=at)
