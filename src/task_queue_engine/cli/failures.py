"""From an error to a line for the operator and an exit code for scripts.

The codes are part of the command line's interface: they are documented and stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from task_queue_engine.errors import (
    ApiError,
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
    EngineNotRunning,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidQuery,
    InvalidTask,
    MessageRefused,
    RegistryError,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TaskQueueError,
    TooManyAbandonedThreads,
    WrongState,
)


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    TIMEOUT = 4
    UNAVAILABLE = 5
    WRONG_STATE = 6
    OVERRUN = 7
    WORN_OUT = 8
    INTERRUPTED = 130
    """128 + SIGINT, as shells have it."""
    BROKEN_PIPE = 141
    """128 + SIGPIPE."""


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the task waited for FAILED or was CANCELLED; or a defect",
    ExitCode.USAGE: "wrong usage, setting, payload or key; unusable database; port in use",
    ExitCode.NOT_FOUND: "no such task or dead letter",
    ExitCode.TIMEOUT: "--wait is over, the task has not ended; it goes on",
    ExitCode.UNAVAILABLE: "backend or server unreachable or in trouble: try again",
    ExitCode.WRONG_STATE: "the task's status does not allow it",
    ExitCode.OVERRUN: "a server could not end in time: a handler blocked it; 137 likewise",
    ExitCode.WORN_OUT: "a server ended to be started anew: too many handlers outlived their time",
    ExitCode.INTERRUPTED: "Ctrl-C",
    ExitCode.BROKEN_PIPE: "whatever read the output closed it",
}


class NothingFound(TaskQueueError):
    """What was asked for by id does not exist."""


class ServiceEnded(TaskQueueError):
    """One of the processes of a service could not do its work, and said so in this line."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def exit_code_of(error: TaskQueueError) -> int:
    match error:
        case ServiceEnded(code=code):
            return code
        case TaskFailed() | TaskCancelled():
            return ExitCode.FAILED
        case TaskNotFound() | NothingFound():
            return ExitCode.NOT_FOUND
        case ResultTimeout():
            return ExitCode.TIMEOUT
        case WrongState():
            return ExitCode.WRONG_STATE
        case TooManyAbandonedThreads():
            return ExitCode.WORN_OUT
        case BackendUnavailable() | EngineNotRunning() | IdempotencyKeyInFlight():
            return ExitCode.UNAVAILABLE
        case ApiError(status=status) if status >= 500:
            return ExitCode.UNAVAILABLE
        case (
            ApiError()
            | BackendRefused()
            | ConfigurationError()
            | IdempotencyKeyReused()
            | InvalidQuery()
            | InvalidTask()
            | MessageRefused()
            | RegistryError()
        ):
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def expected_error(error: BaseException) -> TaskQueueError | None:
    """The error to report in one line; None where this is a defect, which deserves its traceback.

    Nurseries raise groups: one of nothing but our own errors is reported by its first.
    """
    leaves = list(_leaves(error))
    ours = [leaf for leaf in leaves if isinstance(leaf, TaskQueueError)]
    return ours[0] if ours and len(ours) == len(leaves) else None


def first_of(error: BaseException) -> BaseException:
    """The error itself; of a group the first in it."""
    return next(_leaves(error))


def is_interrupt(error: BaseException) -> bool:
    """Ctrl-C, wherever in a group of errors it ended up."""
    return any(isinstance(leaf, KeyboardInterrupt) for leaf in _leaves(error))


def is_broken_pipe(error: BaseException) -> bool:
    return any(isinstance(leaf, BrokenPipeError) for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error
