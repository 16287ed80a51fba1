"""The workers: who runs, as each process says of itself."""

from __future__ import annotations

from typing import Protocol

from task_queue_engine.worker import Worker, WorkerList


class WorkerStore(Protocol):
    """A row for each process, beside the tasks and never mistaken for one.

    A row is a sign of life. It is good for `worker.LIVING_FOR` seconds by the store's own clock, so
    that hosts whose clocks differ do not take each other for dead; where the backend can tell by
    itself whether a process lives, that counts instead. Rows of the dead are kept for
    `worker.LOST_FOR` seconds.
    """

    async def put(self, worker: Worker) -> None:
        """Write the row, or leave it where it says the same and the backend knows by itself that
        the process lives. `last_seen` is set here."""
        ...

    async def remove(self, worker_id: str) -> None:
        """It ends. No error where there is no such row."""
        ...

    async def look(self) -> WorkerList:
        """Those that live, by host and start, with `last_seen` by the store's clock, and how many
        are lost."""
        ...

    async def forget_lost(self) -> None:
        """Delete the rows of those that have been lost for long. Writes nothing where there are
        none."""
        ...
