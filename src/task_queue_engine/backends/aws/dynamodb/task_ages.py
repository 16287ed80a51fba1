"""How far back the tasks were created that this process works on: what its mark says of that, and
which changes that does not cover."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from task_queue_engine.backends.aws.dynamodb.process_marks import FOUND_UP_TO_AGE

# Tasks that run here whose creation is remembered; of others a change counts as one of an old task.
_REMEMBERED = 10_000
# What is started next is taken to be up to so many times as old as what was started just now.
_OLDER = 2
# What is kept of that from one announcement to the next, where younger ones follow.
_FADING = 0.9
# As old as any task is taken to be: those that come soon are not worth a flush at once.
_LEAST_AGE = timedelta(seconds=30)


class TaskAges:
    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._running: OrderedDict[str, datetime] = OrderedDict()
        # Of what was started since the last announcement, and of what is to be expected.
        self._started = self._usual = timedelta()
        self._found_since = datetime.min.replace(tzinfo=UTC)
        """By the mark that is there, and by one that is on its way."""

    def started(self, task_id: str, created_at: datetime | None) -> None:
        """It runs here from now on."""
        if created_at is None:
            return
        self._running[task_id] = created_at
        while len(self._running) > _REMEMBERED:
            self._running.popitem(last=False)
        age = self._now() - created_at
        if age < FOUND_UP_TO_AGE:
            self._started = max(self._started, age)

    def ended(self, task_id: str) -> datetime | None:
        """When it was created, where that is remembered."""
        return self._running.pop(task_id, None)

    def is_found(self, created_at: datetime) -> bool:
        """Whether another process would come by this task, were this one killed now."""
        return created_at >= max(self._found_since, self._now() - FOUND_UP_TO_AGE)

    def announce(self, in_hand: Iterable[datetime | None]) -> datetime:
        """For a mark: where others have to look from.

        Args:
            in_hand: when tasks were created besides those that run, that the process has written
                and not counted.
        """
        now = self._now()
        self._usual = max(_OLDER * self._started, _FADING * self._usual)
        self._started = timedelta()
        # What is older than that is flushed at once.
        oldest = now - FOUND_UP_TO_AGE
        known = [at for at in (*self._running.values(), *in_hand) if at is not None]
        at_most = now - max(_LEAST_AGE, self._usual)
        since = max(oldest, min([at_most, *(at for at in known if at >= oldest)]))
        self._found_since = max(self._found_since, since)
        return since

    def announced(self, since: datetime) -> None:
        """The mark says so."""
        self._found_since = since
