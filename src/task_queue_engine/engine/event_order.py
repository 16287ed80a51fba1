"""What is known of a task that is watched: whatever comes twice, late or from two places, a state
never goes back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import OfTask, ProgressEvent, StateEvent, state_of

# Seconds for which who submitted a task may not have come to say so.
_JUST_NOW = 5.0


def states_of(task: Task, now: datetime) -> tuple[StateEvent, ...]:
    """What is to be told of a task that is in the store so since now. A first claim may be told
    before the submission is: so it tells that too, and what comes twice is shown once."""
    state = state_of(task)
    if task.status is not TaskStatus.PROCESSING or task.attempt != 1:
        return (state,)
    if (now - task.created_at).total_seconds() > _JUST_NOW:
        return (state,)
    waited = replace(task, status=TaskStatus.PENDING, attempt=0, updated_at=task.created_at)
    return (state_of(waited), state)


class Seen:
    """Of one task."""

    __slots__ = (
        "_at",
        "_cancel_requested",
        "attempt",
        "begun",
        "direct",
        "doubted_since",
        "progress",
        "status",
    )

    def __init__(self) -> None:
        self.status: TaskStatus | None = None
        """None: nothing yet."""
        self.attempt = 0
        self.direct = 0
        """The attempt that its own process tells of."""
        self.begun = 0
        """The attempt whose start its own process told."""
        self.progress: Any = None
        """The latest of this attempt."""
        self.doubted_since: float | None = None
        """On trio's clock, the store has said something else than the task's own process."""
        self._at: datetime | None = None
        self._cancel_requested = False

    @classmethod
    def as_in(cls, task: Task) -> Seen:
        seen = cls()
        seen.note(state_of(task))
        seen.progress = task.progress
        return seen

    def is_news(self, event: OfTask) -> bool:
        """Whether it comes after what is known."""
        if isinstance(event, StateEvent):
            return self._is_news(event)
        if self.status is None or event.attempt != self.attempt:
            return event.attempt >= self.attempt
        # A line that was on its way when the end was found in the store is still a line.
        return self.status is TaskStatus.PROCESSING or not isinstance(event, ProgressEvent)

    def _is_news(self, event: StateEvent) -> bool:
        if self.status is None or event.attempt != self.attempt:
            return self.status is None or event.attempt > self.attempt
        if event.status is self.status:
            return event.cancel_requested and not self._cancel_requested
        if TaskStatus.PROCESSING in (event.status, self.status):
            return self.status is TaskStatus.PROCESSING
        # A round ends, and another begins with the same number of attempts.
        return self._at is None or event.at >= self._at

    def agrees_with(self, state: StateEvent) -> bool:
        """Whether it is what is known, or comes after it."""
        is_same = (state.attempt, state.status) == (self.attempt, self.status)
        return is_same or self._is_news(state)

    def note(self, event: OfTask) -> None:
        if isinstance(event, StateEvent):
            if event.attempt != self.attempt:
                self.progress = None
            self.status, self.attempt, self._at = event.status, event.attempt, event.at
            self._cancel_requested = event.cancel_requested
        elif isinstance(event, ProgressEvent):
            self.progress = event.progress
