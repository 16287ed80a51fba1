"""The order of one attempt's writes where batches go side by side."""

from __future__ import annotations

from collections.abc import Sequence

from task_queue_engine.actors.messages import Attempt, Outcome, Progressed


class AttemptOrder:
    """A part of the status writer. Only a progress is followed by anything of its attempt: what
    comes while it is on its way waits here.
    """

    def __init__(self) -> None:
        self._behind: dict[Attempt, list[Outcome]] = {}

    def of(self, batch: Sequence[Outcome]) -> list[Outcome]:
        """What of a batch may set out; nothing else of its attempts does until `behind`."""
        ready: list[Outcome] = []
        for outcome in batch:
            behind = self._behind.get(outcome.attempt) if self._behind else None
            if behind is None:
                ready.append(outcome)
            elif behind and isinstance(behind[-1], Progressed) and isinstance(outcome, Progressed):
                behind[-1] = outcome  # only the latest is worth a write
            else:
                behind.append(outcome)
        for outcome in ready:
            if isinstance(outcome, Progressed):
                self._behind.setdefault(outcome.attempt, [])
        return ready

    def behind(self, batch: Sequence[Outcome], left: Sequence[Outcome]) -> list[Outcome]:
        """What may set out now that these have been recorded, but for what is left of them."""
        if not self._behind:
            return []
        stuck = {outcome.attempt for outcome in left}
        waited: list[Outcome] = []
        for outcome in batch:
            if isinstance(outcome, Progressed) and outcome.attempt not in stuck:
                waited += self._behind.pop(outcome.attempt, ())
        return self.of(waited)
