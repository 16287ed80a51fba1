"""Which failures restart an actor, and which end the engine.

Expected trouble (BackendUnavailable) never gets here: actors wait it out where it happens. What
does is a defect, or a backend that refuses for good.

- Actors on the line (submitter, poller, workers, status writer, acker) and the lease keeper hold
  tasks or leases: their state cannot be made up again. A defect in one ends the engine: the rest of
  the line is run dry as at a shutdown, so that everything is settled that can be, and then the
  defect reaches the host's nursery in an ExceptionGroup.
- Scheduler, reconciler and metrics hold nothing that is not in the store: they are started again
  after a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import cast

import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.errors import BackendRefused
from task_queue_engine.execution.failures import unwrap_single

logger = logging.getLogger("task_queue_engine.supervisor")

Run = Callable[[], Awaitable[None]]

# Seconds: a defect that comes back at once must not fill the log.
_RESTART_PAUSE = 5.0


class Supervisor:
    """Runs actors, keeps what they died of, and has the engine end for it. `end` and `end_at_once`
    may be called more than once."""

    def __init__(
        self, *, health: ActorHealth, end: Callable[[], None], end_at_once: Callable[[], None]
    ) -> None:
        self._end = end
        self._end_at_once = end_at_once
        self._health = health
        self._defects: list[Exception] = []

    async def essential(self, name: str, run: Run, *, at_once: bool = False) -> None:
        """A defect ends the engine; `at_once`: without any grace."""
        try:
            await run()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The neighbour at the other end of a channel is gone. Its own defect is the story.
            if not self._defects:
                self._record(name, error)
        except Exception as error:  # noqa: BLE001 - any defect must run the line dry first
            self._record(name, cast("Exception", unwrap_single(error)))
            if at_once:
                self._end_at_once()

    def give_up(self, name: str, error: Exception) -> None:
        """End the engine gracefully for something that only a new process mends."""
        self._record(name, error)

    async def restartable(self, name: str, run: Run) -> None:
        """A defect is logged and the actor started again."""
        while True:
            try:
                await run()
            except BackendRefused as error:
                self._record(name, error)
                return
            except Exception as error:
                logger.exception("%s failed; starting it again in %g s", name, _RESTART_PAUSE)
                self._health.degraded(name, error)
                await trio.sleep(_RESTART_PAUSE)
                self._health.ok(name)
            else:
                return

    def _record(self, name: str, error: Exception) -> None:
        logger.error("%s failed, the engine ends: %r", name, error)
        self._health.ended(name, error)
        error.add_note(f"in actor {name}")
        self._defects.append(error)
        self._end()

    def raise_defects(self) -> None:
        """Raises ExceptionGroup where an actor had a defect."""
        if self._defects:
            raise ExceptionGroup("the engine failed", self._defects)
