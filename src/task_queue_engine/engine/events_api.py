"""Events as a task queue offers them: a part of `TaskApi` and of `EngineApi`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task_events import EventStream


class EventsApi(ABC):
    @abstractmethod
    def events(
        self,
        task_id: str | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        after: str | None = None,
    ) -> EventStream:
        """What happens, as it happens: ``async for event in engine.events()``.

        Of one task it begins with the present state and what its history says of lines and
        progress, and ends with an EndEvent once the task is terminal; states, progress and lines of
        an attempt keep their order. Of all tasks it begins with what happens next, and never ends.

        One that is too slow gets a GapEvent in place of what it missed, and after that the present
        state of the task, or the states of tasks that run. No task waits for it.

        Args:
            task_id: of this task; None: of all tasks.
            type, queue: of all tasks those of this type and queue only.
            after: the `id` of an event: go on behind it. Where what came since then is no longer
                kept, a GapEvent says so.

        Raises:
            InvalidQuery: a task's id together with a type or queue.
            TaskNotFound: at the first event.
            BackendUnavailable: at the first event; later trouble is waited out.
        """


class EngineEventsApi(EventsApi):
    @abstractmethod
    def events(
        self,
        task_id: str | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        after: str | None = None,
        of_type: Callable[[str], bool] | None = None,
    ) -> EventStream:
        """As `EventsApi.events`.

        Args:
            of_type: of all tasks those of types for which this is true.
        """


def check_event_query(task_id: str | None, task_type: str | None, queue: str | None) -> None:
    """Raises InvalidQuery."""
    if task_id is not None and (task_type, queue) != (None, None):
        raise InvalidQuery(
            "is for the events of all tasks, and those of one task were asked for",
            field="queue" if task_type is None else "type",
        )
