"""What actors tell those who watch, while one does."""

from __future__ import annotations

from typing import Any, Protocol

from task_queue_engine.actors.messages import Attempt
from task_queue_engine.attempt_record import LogLine
from task_queue_engine.task import Task


class Feed(Protocol):
    """Its methods return at once, whatever becomes of what they are told."""

    is_wanted: bool
    """False: nothing is to be told, and nothing is called. For what is on every task's way this is
    looked at first."""

    def changed(self, task: Task) -> None:
        """The store has it so from now on."""
        ...

    def progressed(self, attempt: Attempt, value: Any) -> None: ...

    def logged(self, task: Task, line: LogLine) -> None:
        """From any thread; also where nothing is wanted."""
        ...
