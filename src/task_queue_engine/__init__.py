"""Task Queue Engine: submit work, have it run, retried, dead-lettered, and look its life up.

The names below are imported when they are first used: worker processes import this package too,
and should not pay for an engine they do not run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from task_queue_engine._version import __version__

if TYPE_CHECKING:
    from task_queue_engine.attempt_record import (
        AttemptHistory,
        AttemptOutcome,
        AttemptRecord,
        LogLine,
    )
    from task_queue_engine.config import Settings
    from task_queue_engine.context import SyncTaskContext, TaskContext
    from task_queue_engine.engine.api import Accepted, Refused, Submission, TaskHandle
    from task_queue_engine.engine.engine import Engine
    from task_queue_engine.errors import (
        ConfigurationError,
        InvalidTask,
        ResultTimeout,
        TaskCancelled,
        TaskFailed,
        TaskNotFound,
        TaskQueueError,
    )
    from task_queue_engine.execution.attempt_logs import AttemptLogFilter
    from task_queue_engine.registry import TaskRegistry
    from task_queue_engine.retry import Backoff, Discard, Retry, Snooze
    from task_queue_engine.task import Task, TaskError, TaskStatus
    from task_queue_engine.task_actions import (
        ActionProgress,
        ActionRequest,
        Matching,
        TaskAction,
    )
    from task_queue_engine.task_events import (
        EndEvent,
        GapEvent,
        LogEvent,
        ProgressEvent,
        StateEvent,
        TaskEvent,
    )
    from task_queue_engine.task_filter import TaskFilter
    from task_queue_engine.trace_context import TraceContext
    from task_queue_engine.worker import RunningTask, Worker, WorkerList

_WHERE = {
    "Accepted": "engine.api",
    "ActionProgress": "task_actions",
    "ActionRequest": "task_actions",
    "AttemptHistory": "attempt_record",
    "AttemptLogFilter": "execution.attempt_logs",
    "AttemptOutcome": "attempt_record",
    "AttemptRecord": "attempt_record",
    "Backoff": "retry",
    "ConfigurationError": "errors",
    "Discard": "retry",
    "EndEvent": "task_events",
    "Engine": "engine.engine",
    "GapEvent": "task_events",
    "InvalidTask": "errors",
    "LogEvent": "task_events",
    "LogLine": "attempt_record",
    "Matching": "task_actions",
    "ProgressEvent": "task_events",
    "Refused": "engine.api",
    "ResultTimeout": "errors",
    "Retry": "retry",
    "RunningTask": "worker",
    "Settings": "config",
    "Snooze": "retry",
    "StateEvent": "task_events",
    "Submission": "engine.api",
    "SyncTaskContext": "context",
    "Task": "task",
    "TaskAction": "task_actions",
    "TaskCancelled": "errors",
    "TaskContext": "context",
    "TaskError": "task",
    "TaskEvent": "task_events",
    "TaskFailed": "errors",
    "TaskFilter": "task_filter",
    "TaskHandle": "engine.api",
    "TaskNotFound": "errors",
    "TaskQueueError": "errors",
    "TaskRegistry": "registry",
    "TaskStatus": "task",
    "TraceContext": "trace_context",
    "Worker": "worker",
    "WorkerList": "worker",
}

__all__ = [
    "Accepted",
    "ActionProgress",
    "ActionRequest",
    "AttemptHistory",
    "AttemptLogFilter",
    "AttemptOutcome",
    "AttemptRecord",
    "Backoff",
    "ConfigurationError",
    "Discard",
    "EndEvent",
    "Engine",
    "GapEvent",
    "InvalidTask",
    "LogEvent",
    "LogLine",
    "Matching",
    "ProgressEvent",
    "Refused",
    "ResultTimeout",
    "Retry",
    "RunningTask",
    "Settings",
    "Snooze",
    "StateEvent",
    "Submission",
    "SyncTaskContext",
    "Task",
    "TaskAction",
    "TaskCancelled",
    "TaskContext",
    "TaskError",
    "TaskEvent",
    "TaskFailed",
    "TaskFilter",
    "TaskHandle",
    "TaskNotFound",
    "TaskQueueError",
    "TaskRegistry",
    "TaskStatus",
    "TraceContext",
    "Worker",
    "WorkerList",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = f"{__name__}.{_WHERE[name]}"
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name != where:
            raise
        raise ImportError(
            f"{name} is not in task-queue-engine-client, which is for programs that run no tasks: "
            "install task-queue-engine in its place"
        ) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
