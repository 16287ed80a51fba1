"""How processes that share a backend tell each other what has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import Protocol, runtime_checkable


class TaskChange(Enum):
    """What can happen to a task in another process that this one waits for."""

    ENDED = "ended"
    """It is COMPLETED, FAILED or CANCELLED."""
    CANCEL_ASKED = "cancels"
    """It runs, and is to be stopped."""


Heard = Callable[[Collection[str] | None], None]
"""Called with the ids of tasks that have changed. None: which ones is not known, so look at all
that are waited for."""


@runtime_checkable
class NotifyingBackend(Protocol):
    """What a backend offers besides whose processes can tell each other; others have no such
    members, and their changes are found by looking, or by a long poll.

    It spares looks and replaces none: what is told may be lost, come late or come twice.
    """

    async def hear_messages(self, queue: str) -> None:
        """Until cancelled, let `receive` on this queue know at once of messages that other
        processes make visible."""
        ...

    async def hear_tasks(
        self, change: TaskChange, heard: Heard, *, hears: Callable[[bool], object]
    ) -> None:
        """Until cancelled, call `heard` for what other processes change.

        Args:
            hears: told whether they can be heard, whenever that changes: where they cannot, it is
                to be looked for more often.
        """
        ...

    def notes(self) -> tuple[str, ...]:
        """What an operator should know: why something is slower than it could be."""
        ...


@runtime_checkable
class BroadcastingBackend(Protocol):
    """What a backend offers besides whose processes can tell each other what happens, while one of
    them listens. As with `NotifyingBackend` it may be lost: then `missed` says so."""

    def on_listening(self, tell: Callable[[bool], object]) -> Callable[[], None]:
        """Have `tell` called, in trio's thread, whenever another one begins to listen, and when
        none does any more. What is returned ends that."""
        ...

    def broadcast(self, message: bytes) -> None:
        """To those that listen, whatever becomes of it: it never waits. No byte of it is 0."""
        ...

    async def hear_broadcasts(
        self,
        heard: Callable[[Sequence[bytes]], object],
        *,
        missed: Callable[[int | None], object],
        hears: Callable[[bool], object],
    ) -> None:
        """Until cancelled, call `heard` with what others broadcast, in the order of each.

        Args:
            missed: called where messages were lost, with their number where that is known.
            hears: told whether they can be heard, whenever that changes.
        """
        ...
