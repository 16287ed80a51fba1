"""How long to pause between tries while a trouble lasts that nothing here can end."""

from __future__ import annotations

import random
from collections.abc import Callable

from task_queue_engine.errors import BackendUnavailable

# Seconds between two tries while trouble lasts: a tenth of what it has lasted, so that a short one
# is over at once and a long one costs little.
_SHORTEST_TRY = 0.25
_LONGEST_TRY = 5.0


class Patience:
    """Of one wait.

    Args:
        now: seconds, on the clock that the pauses are slept by.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: float | None = None

    @property
    def tried(self) -> bool:
        """Whether the trouble is known already."""
        return self._since is not None

    def pause(self, error: BackendUnavailable) -> float:
        """Seconds until the next try, after `error`."""
        now = self._now()
        if self._since is None:
            self._since = now
        pause = min(_LONGEST_TRY, max(_SHORTEST_TRY, (now - self._since) / 10))
        if error.retry_after > 1:  # it was said, and is not what an error says by itself
            pause = max(pause, min(_LONGEST_TRY, error.retry_after))
        # Many wait for the same: not all of them in the same moment.
        return random.uniform(0.75, 1) * pause  # noqa: S311 - no secret

    def over(self) -> None:
        """The trouble has passed."""
        self._since = None
