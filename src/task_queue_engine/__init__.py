"""Task Queue Engine: submit work, have it run, retried, dead-lettered, and look its life up."""

from task_queue_engine._version import __version__
from task_queue_engine.config import Settings
from task_queue_engine.context import SyncTaskContext, TaskContext
from task_queue_engine.engine.api import Accepted, Refused, Submission
from task_queue_engine.engine.engine import Engine
from task_queue_engine.engine.handle import TaskHandle
from task_queue_engine.errors import (
    ConfigurationError,
    InvalidTask,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TaskQueueError,
)
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Backoff, Discard, Retry, Snooze
from task_queue_engine.task import Task, TaskError, TaskStatus

__all__ = [
    "Accepted",
    "Backoff",
    "ConfigurationError",
    "Discard",
    "Engine",
    "InvalidTask",
    "Refused",
    "ResultTimeout",
    "Retry",
    "Settings",
    "Snooze",
    "Submission",
    "SyncTaskContext",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskError",
    "TaskFailed",
    "TaskHandle",
    "TaskNotFound",
    "TaskQueueError",
    "TaskRegistry",
    "TaskStatus",
    "__version__",
]
