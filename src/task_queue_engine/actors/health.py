"""Which actors are degraded at the moment, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.health")


class ActorHealth:
    """A board of current troubles, one line per actor; /ready and /health read it.

    Actors do not write on it by hand, since a forgotten `ok` would leave /ready red: `attempt` and
    `backend_retry.BackendRetry` own both ends. The supervisor does, for what restarts or ends.
    """

    def __init__(self) -> None:
        self._troubles: dict[str, str] = {}

    @contextmanager
    def attempt(self, actor: str) -> Iterator[None]:
        """One attempt of an actor that comes back by itself: BackendUnavailable ends here and
        shows, until an attempt succeeds."""
        try:
            yield
        except BackendUnavailable as error:
            self.degraded(actor, error)
        else:
            self.ok(actor)

    def degraded(self, actor: str, error: Exception) -> None:
        """`actor` cannot do its work at the moment and keeps trying."""
        reason = str(error) or type(error).__name__
        if self._troubles.get(actor) != reason:
            logger.warning("%s: %s; trying again", actor, reason)
        self._troubles[actor] = reason

    def ended(self, actor: str, error: Exception) -> None:
        """`actor` does not come back, as the log of its caller says."""
        self._troubles[actor] = str(error) or type(error).__name__

    def ok(self, actor: str) -> None:
        if self._troubles and self._troubles.pop(actor, None) is not None:
            logger.info("%s: works again", actor)

    @property
    def troubles(self) -> tuple[str, ...]:
        return tuple(f"{actor}: {reason}" for actor, reason in sorted(self._troubles.items()))
