"""Every error a user of the package can meet, in one tree.

Vendor errors (apsw, botocore, h11, ...) become one of these at the edge where they arise.
"""

from __future__ import annotations

import errno

import msgspec

from task_queue_engine.task import Task, TaskStatus


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered in place of a success, in the members of RFC 9457 and those that a
    Task Queue Engine server adds."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    """The HTTP status code."""
    detail: str = ""
    error: str = ""
    """The same text as `detail`."""
    field: str | None = None
    """The member, parameter or header to mend."""
    task_id: str | None = None
    task_status: TaskStatus | None = None
    task_type: str | None = None
    known_types: tuple[str, ...] | None = None
    size: int | None = None
    limit: int | None = None
    missing_role: str | None = None
    """What the API key lacks, where `kind` is "missing-role"."""
    request_id: str | None = None
    """By which the server's log names the request."""

    @property
    def kind(self) -> str | None:
        """The last part of `type`, e.g. "unauthorized"; None where the server did not say."""
        _, _, slug = self.type.partition("#")
        return slug or None


class TaskQueueError(Exception):
    """Base of all errors raised by this package."""

    problem: Problem | None = None
    """What a server said, where one was asked and answered."""


# --- the user's mistakes -----------------------------------------------------------------


class ConfigurationError(TaskQueueError):
    """A setting is wrong or missing.

    `variable` is the environment variable (or option) to mend, None where no single one is.
    """

    def __init__(self, message: str, *, variable: str | None = None) -> None:
        super().__init__(f"{variable}: {message}" if variable else message)
        self.variable = variable


class InvalidTask(TaskQueueError):
    """A submission was refused and nothing was stored.

    `field` is the path of the offending member as the API spells it, e.g. ``payload.to[0]``.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = message


class PayloadCheckFailed(InvalidTask):
    """Code that came with a payload raised what is no refusal: a defect, or trouble of its own."""


class UnknownTaskType(InvalidTask):
    """No handler is registered under this type name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        listed = ", ".join(known) or "none"
        super().__init__(f"unknown task type {name!r}; registered: {listed}", field="type")
        self.name = name
        self.known = known


class PayloadTooLarge(InvalidTask):
    """The payload, or the item it would become, is over the backend's or the API's limit."""

    def __init__(self, size: int, limit: int, *, field: str = "payload") -> None:
        super().__init__(f"is {size} bytes of JSON, the limit is {limit}", field=field)
        self.size = size
        self.limit = limit


class InvalidQuery(TaskQueueError):
    """A listing was asked for with a bad cursor, limit or filter; `field` names which."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = message


class IdempotencyKeyReused(TaskQueueError):
    """The idempotency key belongs to a task of another queue, type or payload, or with other
    options than are given now. Keys are one namespace for a whole store."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"this idempotency key was already used for task {task_id} with another type, payload, "
            "queue, max_attempts or timeout"
        )
        self.task_id = task_id


class IdempotencyKeyInFlight(TaskQueueError):
    """Another submission with the same idempotency key has not been answered yet."""

    def __init__(self) -> None:
        super().__init__("a submission with this idempotency key is still in flight; try again")


class RegistryError(TaskQueueError):
    """A task registration is wrong: name taken, unsupported signature, bad option."""


class TaskNotFound(TaskQueueError):
    def __init__(self, task_id: str) -> None:
        super().__init__(f"no task has the id {task_id}")
        self.task_id = task_id


class WrongState(TaskQueueError):
    """What was asked for does not apply to a task in this status."""

    def __init__(self, task_id: str, status: TaskStatus, action: str) -> None:
        super().__init__(f"task {task_id} is {status}: {action}")
        self.task_id = task_id
        self.status = status


# --- how a task ended, raised by TaskHandle.result() ---------------------------------------


class TaskFailed(TaskQueueError):
    """The task is FAILED. `task.error` has the type, message and traceback of the last attempt."""

    def __init__(self, task: Task) -> None:
        error = task.error
        said = error.in_words if error else "no error was recorded"
        super().__init__(f"task {task.id} failed: {said}")
        self.task = task


class TaskCancelled(TaskQueueError):
    """The task is CANCELLED."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"task {task.id} was cancelled")
        self.task = task


class ResultTimeout(TaskQueueError):
    """`TaskHandle.result(timeout=...)` ran out before the task ended. The task goes on."""

    def __init__(self, task_id: str, timeout: float) -> None:
        super().__init__(f"task {task_id} has not ended within {timeout:g} s")
        self.task_id = task_id


# --- failures of one attempt, stored as its error -----------------------------------------


class AttemptTimedOut(TaskQueueError):
    """The attempt took longer than the task's timeout, in seconds from the handler's start."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"the handler did not return within {timeout:g} s")
        self.timeout = timeout


class HandlerNotStarted(TaskQueueError):
    """The handler was not called, for a reason that passes: its task goes back, at no cost, and
    comes again after `retry_in` seconds."""

    def __init__(self, reason: str, *, retry_in: float) -> None:
        super().__init__(f"the handler was not started: {reason}")
        self.retry_in = retry_in


class TooManyAbandonedThreads(TaskQueueError):
    """So many `def` handlers outlived their attempts that this process should be replaced: only
    its end ends them."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} `def` handlers outlived their attempts and still hold their threads "
            "(TQE_THREADS); the engine ends, to be started in a new process"
        )


class ResultNotStorable(TaskQueueError):
    """What the handler returned is not JSON, or is larger than `TQE_MAX_RESULT_BYTES`. Its side
    effects have happened, and it would return the same again: the task fails at once."""


class WrongAsyncLibrary(TaskQueueError):
    """An `async def` handler called what needs asyncio; handlers run on trio, so no attempt can
    succeed: the task fails at once."""

    def __init__(self) -> None:
        super().__init__(
            "the handler called a library made for asyncio, and handlers run on trio: use one "
            "that supports trio (anyio, httpx, ...), or a `def` handler that calls asyncio.run()"
        )


class WorkerProcessDied(TaskQueueError):
    """The worker process of a `process=True` handler ended before the handler returned."""


class CpuTimeExceeded(WorkerProcessDied):
    """The system ended it, since it had used the CPU time it may take (RLIMIT_CPU, SIGXCPU)."""


class HandlerExited(TaskQueueError):
    """The handler raised SystemExit, KeyboardInterrupt or another exception that is meant to end
    a program: a failed attempt like any other, its cause is that exception."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(
            f"the handler raised {type(raised).__name__}, which does not end the engine"
        )


class AttemptEnded(BaseException):
    """Raised inside a `def` handler by `context.check_cancelled()` and `context.progress()` once
    its attempt is over: timed out, cancelled, or its lease lost. Its outcome is no longer awaited.

    Not an Exception, like `trio.Cancelled` and for its reason: a loop with `except Exception`
    must not carry on with an attempt that is over.
    """

    def __init__(self) -> None:
        super().__init__("this attempt is over: it timed out, was cancelled or lost its lease")


class AttemptCrashed(TaskQueueError):
    """The process running the attempt went away; recorded by the claim that took the task over."""


class MessageGivenUp(TaskQueueError):
    """The queue itself moved the task's message to the dead-letter queue, since it was received too
    often and never settled: whatever received it died each time."""


class MessageRefused(TaskQueueError):
    """The queue refuses a task's message for good (too large for it, say): the task is FAILED with
    this as its error, and can be retried once that is mended. `reason` is in the queue's words."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(
            f"task {task_id} is FAILED: the queue refuses its message for good: {reason}"
        )
        self.task_id = task_id
        self.reason = reason


# --- queue, store and engine ----------------------------------------------------------------


class BackendError(TaskQueueError):
    """Base of the errors of a queue or a store."""


class BackendUnavailable(BackendError):
    """Expected trouble: locked, full, throttled, timed out, unreachable. Trying again helps.

    `retry_after` is a hint in seconds.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerUnreachable(BackendUnavailable):
    """No connection to a server came about: nothing was sent to it."""


class BackendRefused(BackendError):
    """The backend cannot be used as it is: corrupt or foreign file, wrong schema version,
    missing queue, no permission. Trying again does not help; `serve` exits with 2.
    """


class EngineNotRunning(TaskQueueError):
    """The engine has not started, is shutting down or has stopped: it takes no new work."""

    def __init__(self, message: str = "the engine is not running") -> None:
        super().__init__(message)


# --- asking a server over HTTP ----------------------------------------------------------------


class ApiError(TaskQueueError):
    """A server answered a request of `Client` with an error that has no class of its own here: a
    missing or unknown API key (401), a defect of the server (500), an address where no Task Queue
    Engine server answers (404, ...).

    `status` is the HTTP status code; `kind` says what it is in the server's words, e.g.
    "unauthorized" (the last part of the problem's `type`, RFC 9457), None where it did not say.
    """

    def __init__(self, message: str, *, status: int, kind: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


# --- trouble of this process ------------------------------------------------------------------

_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
# What fork(2) says besides where there may be no more processes or memory for them. Elsewhere these
# have other meanings.
_NO_PROCESSES = _NO_FILES | {errno.EAGAIN, errno.ENOMEM}
# threading has no class for it.
_NO_THREAD = "can't start new thread"


def lacks_resources(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, is that this process has no file descriptor,
    thread or process left. That passes as others give theirs back, and is no fault of whatever
    asked for one."""
    seen: set[int] = set()
    below = [(error, _NO_FILES)]
    while below:
        one, numbers = below.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in numbers:
            return True
        if isinstance(one, RuntimeError) and one.args == (_NO_THREAD,):
            return True
        if isinstance(one, WorkerProcessDied):
            numbers = _NO_PROCESSES
        causes: list[BaseException | None] = [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            causes += one.exceptions
        below += [(cause, numbers) for cause in causes if cause is not None]
    return False
