"""Plain `def` handlers, in threads.

A thread cannot be stopped from outside. When its attempt times out, is cancelled or the engine
shuts down, the thread is abandoned: the engine no longer waits for its outcome, and another thread
may take its place, so that a stuck handler never keeps a healthy one from running. What that would
pile up has a limit: past it the process should be replaced, since only its end ends such threads.

The next attempt of a task does not start while a thread of an earlier one is still at it, for as
long as `overlap_wait`: two of them at once is what most handlers are not made for. It is no longer
than that, since a thread that hangs for good would keep its task from ever being given up.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from msgspec import UNSET

from task_queue_engine.errors import AttemptEnded, HandlerExited, HandlerNotStarted
from task_queue_engine.execution.contexts import AttemptContext
from task_queue_engine.execution.values import storable_progress, storable_result
from task_queue_engine.registry import TaskDefinition
from task_queue_engine.task import Task

ReportProgress = Callable[[Any], Awaitable[None]]

# Seconds until the system is asked again for what it has just refused.
START_AGAIN = 5.0

_log = logging.getLogger(__name__)


class ThreadRunner:
    """Runs handlers in at most `limit` threads, abandoned ones not included.

    Args:
        limit: threads whose outcome is awaited; as many again may be abandoned.
        overlap_wait: seconds for which a thread that outlives its attempt keeps the next attempt
            of its task from starting here.
        max_result_bytes: limit for the JSON of a result, and of a progress value.
    """

    def __init__(self, *, limit: int, overlap_wait: float, max_result_bytes: int) -> None:
        self.limiter = trio.CapacityLimiter(limit)
        self.overlap_wait = overlap_wait
        self.max_result_bytes = max_result_bytes
        self.worn_out = trio.Event()
        """Set when as many threads are abandoned as may run: this process should be replaced."""
        self._abandoned: dict[ThreadCall, float] = {}

    @property
    def running(self) -> int:
        """Threads whose outcome is awaited."""
        return self.limiter.borrowed_tokens

    @property
    def abandoned(self) -> int:
        """Threads still running whose attempt is over."""
        return len(self._abandoned)

    def call(
        self,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
        payload: Any = UNSET,
    ) -> ThreadCall:
        return ThreadCall(self, definition, task, report_progress, payload)

    def abandon(self, call: ThreadCall) -> None:
        self._abandoned[call] = trio.current_time()
        if self.abandoned >= self.limiter.total_tokens:
            self.worn_out.set()

    def ended(self, call: ThreadCall) -> None:
        self._abandoned.pop(call, None)

    def check_overlap(self, task: Task) -> None:
        """Raises HandlerNotStarted while a thread of an earlier attempt of this task runs here."""
        since = [at for call, at in self._abandoned.items() if call.task.id == task.id]
        if not since:
            return
        waited = trio.current_time() - max(since)
        if waited >= self.overlap_wait:
            return
        raise HandlerNotStarted(
            f"the thread of an earlier attempt still runs, {waited:.0f} s after its end",
            # Soon at first, then ever less often: a wait of an hour takes some twenty looks.
            retry_in=min(max(1.0, waited / 2), self.overlap_wait - waited),
        )


class ThreadCall:
    """One call. trio takes this object for the limiter of the thread, which is how the end of an
    abandoned thread is noticed."""

    def __init__(
        self,
        threads: ThreadRunner,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
        payload: Any,
    ) -> None:
        self.task = task
        self._threads = threads
        self._definition = definition
        self._report_progress = report_progress
        self._thread_runs = False
        self._payload = payload

    async def acquire(self) -> None:
        """Wait for a place. Raises HandlerNotStarted where an earlier attempt's thread lives."""
        await self._threads.limiter.acquire_on_behalf_of(self)
        try:
            self._threads.check_overlap(self.task)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the place back, whether or not the thread has ended."""
        self._threads.limiter.release_on_behalf_of(self)

    async def run(self, waited: float) -> Any:
        """Returns the handler's result as builtins; raises what it raised.

        Cancelling this returns at once, whatever the thread does.
        """
        task, limit = self.task, self._threads.max_result_bytes
        context = ThreadContext(task, self._report_progress, limit, waited)
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
            if self._thread_runs:
                self._abandon()
            raise
        except RuntimeError as error:
            if context.entered:
                raise
            raise HandlerNotStarted(
                f"the system starts no more threads: {error}", retry_in=START_AGAIN
            ) from None
        finally:
            context.end()

    def _abandon(self) -> None:
        self._threads.abandon(self)
        _log.warning(
            "task %s (%s): attempt %d is over, but its handler goes on in its thread, which "
            "nothing can stop; make long handlers call context.check_cancelled(), or run them with "
            "process=True (%d such threads, the limit is %d)",
            self.task.id,
            self.task.type,
            self.task.attempt,
            self._threads.abandoned,
            self._threads.limiter.total_tokens,
        )

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """For trio: the place is taken already."""
        self._thread_runs = True
        await trio.lowlevel.checkpoint_if_cancelled()

    def release_on_behalf_of(self, borrower: object) -> None:
        """For trio: the thread has ended."""
        self._thread_runs = False
        self._threads.ended(self)


class ThreadContext(AttemptContext):
    """The context of a handler in a thread. Its methods may be called from any thread."""

    __slots__ = ("_delivering", "_limit", "_over", "_report_progress", "_token", "entered")

    def __init__(
        self, task: Task, report_progress: ReportProgress, limit: int, waited: float
    ) -> None:
        super().__init__(task, waited)
        self._report_progress = report_progress
        self._limit = limit
        self._token = trio.lowlevel.current_trio_token()
        self._over = False
        self._delivering: set[trio.CancelScope] = set()
        self.entered = False
        """The thread has started."""

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
    context.entered = True
    try:
        if payload is UNSET:
            payload = definition.convert_payload(task.payload)
        arguments = (payload, context) if definition.takes_context else (payload,)
        return storable_result(definition.handler(*arguments), limit, definition.convert_result)
    except Exception:
        raise
    except BaseException as error:
        # SystemExit in a thread is raised by the handler: it must not travel into the trio thread.
        raise HandlerExited(error) from error
