"""What was claimed together with its receive, until it starts."""

from __future__ import annotations

import trio

from task_queue_engine.actors.messages import Lease, Leased, Reply


class AlreadyClaimed:
    """A part of the claimer, and no actor of its own.

    A cancel of such a task finds no lease of it: the lease keeper remembers it until it has seen
    the lease. So nothing starts before that.
    """

    def __init__(self) -> None:
        self._leases: list[Lease] = []
        self._to_be_noted: list[Reply[tuple[Lease, ...]]] = []

    def add(self, event: Leased) -> bool:
        """Keeps what has started of these; True: that was all."""
        claimed = [lease for lease in event.leases if lease.started is not None]
        self._leases += claimed
        if claimed and event.noted is not None:
            self._to_be_noted.append(event.noted)
        return len(claimed) == len(event.leases)

    def take(self) -> list[Lease]:
        leases, self._leases = self._leases, []
        return leases

    async def are_noted(self) -> bool:
        """Wait until the lease keeper has seen all that was added. False: it has ended, and so does
        the engine."""
        waiting, self._to_be_noted = self._to_be_noted, []
        try:
            for noted in waiting:
                if not noted.is_given:
                    await noted.get()
        except trio.BrokenResourceError:
            return False
        return True
