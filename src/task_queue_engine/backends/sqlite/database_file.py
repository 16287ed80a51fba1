"""The one handle by which a backend's queues and store reach their file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from task_queue_engine.backends.sqlite.threads import ReaderThread
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.backends.sqlite.writer_thread import Parking, WriterThread
from task_queue_engine.errors import BackendUnavailable

T = TypeVar("T")


class DatabaseFile:
    """Runs pieces of work in the writer's or the reader's thread, while the backend is open."""

    def __init__(self) -> None:
        self.writer: WriterThread | None = None
        """None while the backend is closed; so is `reader`."""
        self.reader: ReaderThread | None = None

    async def write(
        self,
        work: Callable[[Transaction], T],
        *,
        spare: Callable[[Transaction], T | None] | None = None,
    ) -> T:
        """Run `work` in a transaction and return once that is durable. Raises BackendUnavailable
        where the backend is closed. `spare`: see `WriterThread.run`."""
        if self.writer is None:
            raise BackendUnavailable("the backend is not open")
        return await self.writer.run(work, spare=spare)

    async def park(self, topic: str, work: Callable[[Transaction], T], until: Parking) -> T | None:
        """See `WriterThread.park`. Raises BackendUnavailable where the backend is closed."""
        if self.writer is None:
            raise BackendUnavailable("the backend is not open")
        return await self.writer.park(topic, work, until)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, which only reads. Raises BackendUnavailable where the backend is closed."""
        if self.reader is None:
            raise BackendUnavailable("the backend is not open")
        return await self.reader.run(work)
