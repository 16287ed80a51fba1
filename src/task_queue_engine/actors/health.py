"""Where actors say that they are in trouble, and that it is over."""

from __future__ import annotations

import logging

logger = logging.getLogger("task_queue_engine.health")


class Health:
    """A board of current troubles, one line per actor; /ready and /health read it."""

    def __init__(self) -> None:
        self._troubles: dict[str, str] = {}

    def trouble(self, actor: str, error: Exception) -> None:
        """`actor` cannot do its work at the moment and keeps trying."""
        said = str(error) or type(error).__name__
        if self._troubles.get(actor) != said:
            logger.warning("%s: %s; trying again", actor, said)
        self._troubles[actor] = said

    def well(self, actor: str) -> None:
        if self._troubles and self._troubles.pop(actor, None) is not None:
            logger.info("%s: works again", actor)

    @property
    def troubles(self) -> tuple[str, ...]:
        return tuple(f"{actor}: {said}" for actor, said in sorted(self._troubles.items()))
