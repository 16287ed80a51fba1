"""Task Queue Engine: submit work, have it run, retried, dead-lettered, and look its life up."""

from task_queue_engine._version import __version__
from task_queue_engine.context import SyncTaskContext, TaskContext
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Backoff, Discard, Retry, Snooze
from task_queue_engine.task import Task, TaskError, TaskStatus

__all__ = [
    "Backoff",
    "Discard",
    "Retry",
    "Snooze",
    "SyncTaskContext",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskRegistry",
    "TaskStatus",
    "__version__",
]
