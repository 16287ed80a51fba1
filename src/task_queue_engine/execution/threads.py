"""Plain `def` handlers, in threads.

A thread cannot be stopped from outside. When its attempt times out, is cancelled or the engine
shuts down, the thread is abandoned: the engine no longer waits for its outcome, but it keeps its
place under the limit until it really ends, so that a stuck handler cannot pile up threads.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from msgspec import UNSET

from task_queue_engine.errors import AttemptEnded, HandlerExited
from task_queue_engine.execution.contexts import AttemptContext
from task_queue_engine.execution.values import storable_progress, storable_result
from task_queue_engine.registry import TaskDefinition
from task_queue_engine.task import Task

ReportProgress = Callable[[Any], Awaitable[None]]

_log = logging.getLogger(__name__)


class ThreadRunner:
    """Runs handlers in at most `limit` threads, abandoned ones included."""

    def __init__(self, *, limit: int, max_result_bytes: int) -> None:
        self.limiter = trio.CapacityLimiter(limit)
        self.max_result_bytes = max_result_bytes
        self.abandoned = 0
        """Threads still running whose attempt is over."""

    @property
    def running(self) -> int:
        """Threads whose outcome is awaited."""
        return self.limiter.borrowed_tokens - self.abandoned

    def call(
        self,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
        payload: Any = UNSET,
    ) -> ThreadCall:
        return ThreadCall(self, definition, task, report_progress, payload)


class ThreadCall:
    """One call, and its place under the limit: trio takes and gives it back through this object,
    which is how the end of an abandoned thread is noticed."""

    def __init__(
        self,
        threads: ThreadRunner,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
        payload: Any,
    ) -> None:
        self._threads = threads
        self._definition = definition
        self._task = task
        self._report_progress = report_progress
        self._payload = payload
        self._runs = False
        self._abandoned = False
        self.started = False

    @property
    def not_started(self) -> str:
        """What a call that never started waited for."""
        total, abandoned = self._threads.limiter.total_tokens, self._threads.abandoned
        return (
            f"all {total:g} threads (TQE_THREADS) were taken, "
            f"{abandoned} of them by handlers that outlived their attempt"
        )

    async def run(self) -> Any:
        """Returns the handler's result as builtins; raises what it raised.

        Cancelling this returns at once, whatever the thread does.
        """
        task, limit = self._task, self._threads.max_result_bytes
        context = ThreadContext(task, self._report_progress, limit)
        try:
            return await trio.to_thread.run_sync(
                _run,
                self._definition,
                task,
                self._payload,
                context,
                limit,
                thread_name=f"task {task.type}",
                abandon_on_cancel=True,
                # trio takes "anything providing compatible" methods, its annotation does not say so
                limiter=cast("trio.CapacityLimiter", self),
            )
        except trio.Cancelled:
            if self._runs:
                self._abandoned = True
                self._threads.abandoned += 1
                _log.warning(
                    "a thread outlives attempt %d of task %s (%s); %d of %d threads are abandoned",
                    task.attempt,
                    task.id,
                    task.type,
                    self._threads.abandoned,
                    self._threads.limiter.total_tokens,
                )
            raise
        finally:
            context.end()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._threads.limiter.acquire_on_behalf_of(borrower)
        self.started = self._runs = True

    def release_on_behalf_of(self, borrower: object) -> None:
        self._runs = False
        self._threads.limiter.release_on_behalf_of(borrower)
        if self._abandoned:
            self._threads.abandoned -= 1


class ThreadContext(AttemptContext):
    """The context of a handler in a thread. Its methods may be called from any thread."""

    __slots__ = ("_delivering", "_limit", "_over", "_report_progress", "_token")

    def __init__(self, task: Task, report_progress: ReportProgress, limit: int) -> None:
        super().__init__(task)
        self._report_progress = report_progress
        self._limit = limit
        self._token = trio.lowlevel.current_trio_token()
        self._over = False
        self._delivering: set[trio.CancelScope] = set()

    def progress(self, value: Any) -> None:
        """Blocks until the engine has taken the value."""
        plain = storable_progress(value, self._limit)
        try:
            trio.from_thread.run(self._deliver, plain, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise AttemptEnded from None  # the engine has stopped

    def check_cancelled(self) -> None:
        if self._over:
            raise AttemptEnded

    def end(self) -> None:
        """In the trio thread: the attempt is over, whatever the thread does."""
        self._over = True
        for scope in self._delivering:
            scope.cancel()

    async def _deliver(self, plain: Any) -> None:
        """Runs in a system task of trio, which outlives the attempt: hence the scope."""
        with trio.CancelScope() as scope:
            self.check_cancelled()
            self._delivering.add(scope)
            try:
                await self._report_progress(plain)
            finally:
                self._delivering.discard(scope)
        if scope.cancelled_caught:
            raise AttemptEnded


def _run(
    definition: TaskDefinition, task: Task, payload: Any, context: ThreadContext, limit: int
) -> Any:
    """In the thread: validators and serializers of payload and result may block too."""
    try:
        if payload is UNSET:
            payload = definition.convert_payload(task.payload)
        arguments = (payload, context) if definition.takes_context else (payload,)
        return storable_result(definition.handler(*arguments), limit)
    except Exception:
        raise
    except BaseException as error:
        # SystemExit in a thread is raised by the handler: it must not travel into the trio thread.
        raise HandlerExited(error) from error
