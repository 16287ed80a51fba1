"""Runs one handler call: payload in, result as JSON-ready builtins out, or an exception."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from msgspec import UNSET

from task_queue_engine.errors import AttemptTimedOut, ResultNotStorable, WrongAsyncLibrary
from task_queue_engine.execution.checks import PayloadChecks
from task_queue_engine.execution.containment import contain, needs_asyncio
from task_queue_engine.execution.contexts import AttemptContext
from task_queue_engine.execution.processes import ProcessPool, Recycling
from task_queue_engine.execution.threads import ReportProgress, ThreadRunner
from task_queue_engine.execution.values import storable_progress, storable_result
from task_queue_engine.registry import RunsIn, TaskDefinition
from task_queue_engine.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStatistics:
    """What runs right now."""

    on_trio: int
    in_threads: int
    in_processes: int
    abandoned_threads: int
    """Threads still running whose attempt is over."""
    worker_processes: int
    """Processes alive, idle ones included."""
    trouble: str | None
    """Why the last worker process could not be started; None where it was."""


def _nothing() -> None:
    pass


class HandlerRunner:
    """Calls handlers where they want to run.

    Args:
        threads: at most so many `def` handlers at a time; as many again may have outlived their
            attempts before this process should be replaced.
        processes: at most so many worker processes for `process=True` handlers.
        overlap_wait: seconds for which a thread that outlives its attempt keeps the next attempt
            of its task from starting here.
        more_environment: variables that worker processes get besides the usual ones, see
            `environment.py`.
        recycling: when a worker process is replaced; None: never, while it lives.
        max_result_bytes: limit for the JSON of a result, and of a progress value.

    A program that defines `process=True` handlers in its main file needs
    `if __name__ == "__main__":` around what it does, as with multiprocessing: a worker process
    loads that file to find them. Handlers in any other module do not have it loaded.
    """

    def __init__(
        self,
        *,
        threads: int,
        processes: int,
        max_result_bytes: int,
        overlap_wait: float = 0.0,
        more_environment: Collection[str] = (),
        recycling: Recycling | None = None,
    ) -> None:
        self.max_result_bytes = max_result_bytes
        self._threads = ThreadRunner(
            limit=threads, overlap_wait=overlap_wait, max_result_bytes=max_result_bytes
        )
        self._processes = ProcessPool(
            limit=processes,
            max_result_bytes=max_result_bytes,
            more_environment=more_environment,
            recycling=recycling,
        )
        self.checks = PayloadChecks()
        """For all that checks payloads in this engine."""
        self.on_trio = 0
        """Async handlers that run; counted by their calls."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep worker processes for as long as this is open. Closing kills what still runs, takes
        at most a few seconds, and is not cancellable. May be opened again.

        Raises:
            RegistryError: in a worker process that loads the program's main file.
        """
        self._processes.open()
        try:
            yield
        finally:
            await self._processes.aclose()

    def ready_processes(self, promised: int) -> int:
        """See `ProcessPool.ready`."""
        return self._processes.ready(promised)

    async def make_process_ready(self) -> None:
        """See `ProcessPool.make_ready`."""
        await self._processes.make_ready()

    async def wait_worn_out(self) -> None:
        """Returns when so many threads are abandoned that this process should be replaced."""
        await self._threads.worn_out.wait()

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            on_trio=self.on_trio,
            in_threads=self._threads.running,
            in_processes=self._processes.running,
            abandoned_threads=self._threads.abandoned,
            worker_processes=self._processes.alive,
            trouble=self._processes.trouble,
        )

    async def run(
        self,
        definition: TaskDefinition,
        task: Task,
        *,
        report_progress: ReportProgress,
        payload: Any = UNSET,
        on_start: Callable[[], None] = _nothing,
    ) -> Any:
        """One attempt.

        Args:
            definition: whose handler is called.
            task: PROCESSING, with `timeout_seconds` resolved; None means no timeout. The timeout
                counts from `on_start`: waiting for a thread or a process is not the handler's.
            payload: the task's, as the handler is annotated; UNSET: it is converted where the
                handler runs. (A worker process always does that: it has to make the object.)
            report_progress: is awaited with each progress value, as builtins, before this returns.
            on_start: called when there is a place, just before the handler is.

        Returns:
            The handler's result as builtins. COMPLETED means a handler returned: so does one that
            catches the cancellation of its timeout and returns all the same.

        Raises:
            HandlerNotStarted: it could not be called, for a reason that passes.
            AttemptTimedOut: its cause is what the handler's cleanup raised, if anything.
            ResultNotStorable: the result is not JSON or too large.
            WrongAsyncLibrary: an async handler called what needs asyncio.
            WorkerProcessDied: see there; likewise RegistryError where the worker process could
                not find its handler.
            HandlerExited: the handler raised SystemExit or another of those that would end the
                engine. Only a real Ctrl-C is let through.
            trio.Cancelled: from outside, after the handler's cleanup has run.
            Exception: the handler's own. A group of one, as a nursery makes them, is unwrapped
                (see `unwrap_single`); an exception from a worker process has a RemoteTraceback
                as its cause.
        """
        call: Call
        if definition.runs_in is RunsIn.TRIO:
            call = _TrioCall(self, definition, task, report_progress, payload)
        elif definition.runs_in is RunsIn.THREAD:
            call = self._threads.call(definition, task, report_progress, payload)
        else:
            call = self._processes.call(definition, task, report_progress)

        asked_at = trio.current_time()
        await call.acquire()
        try:
            on_start()
            began = trio.current_time()
            return await _attempt(call, definition, task, began, waited=began - asked_at)
        finally:
            call.release()


class Call(Protocol):
    """One handler call, in one of the three ways."""

    async def acquire(self) -> None:
        """Wait until the handler can be called. Costs no attempt."""
        ...

    async def run(self, waited: float) -> Any:
        """Call it. `waited`: seconds that `acquire` took."""
        ...

    def release(self) -> None:
        """After `acquire`, whether or not it ran."""
        ...


async def _attempt(
    call: Call, definition: TaskDefinition, task: Task, began: float, *, waited: float
) -> Any:
    """`call.run` within the task's timeout, which counts from `began`."""
    timeout = math.inf if task.timeout_seconds is None else task.timeout_seconds
    scope = trio.CancelScope(deadline=began + timeout)
    failure: BaseException | None = None
    try:
        with scope:
            return await call.run(waited)
    except BaseException as error:  # noqa: BLE001 - raised again below, outside of its context
        failure = contain(error)
    try:
        # Only its deadline cancels this scope. A result that came late all the same is looked at.
        late = scope.cancel_called and isinstance(failure, Exception)
        if failure is None or (late and not isinstance(failure, ResultNotStorable)):
            raise AttemptTimedOut(timeout) from failure
        if definition.runs_in is RunsIn.TRIO and needs_asyncio(failure):
            raise WrongAsyncLibrary from failure
        raise failure
    finally:
        del failure  # its traceback holds this frame


class _TrioCall:
    def __init__(
        self,
        runner: HandlerRunner,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
        payload: Any,
    ) -> None:
        self._runner = runner
        self._definition = definition
        self._task = task
        self._report_progress = report_progress
        self._payload = payload

    async def acquire(self) -> None:
        # No handler starts once its task is cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._runner.on_trio += 1

    def release(self) -> None:
        self._runner.on_trio -= 1

    async def run(self, waited: float) -> Any:
        definition, task, limit = self._definition, self._task, self._runner.max_result_bytes
        payload = self._payload
        if payload is UNSET and definition.payload_type is Any:
            payload = task.payload  # which there is nothing to check of
        elif payload is UNSET:
            payload = await self._runner.checks.convert(definition, task.payload)
        open_nurseries = len(trio.lowlevel.current_task().child_nurseries)
        try:
            if definition.takes_context:
                context = TrioContext(task, self._report_progress, limit)
                value = await definition.handler(payload, context)
            else:
                value = await definition.handler(payload)
        finally:
            _close_leaked(open_nurseries)
        return storable_result(value, limit, definition.convert_result)


def _close_leaked(kept: int) -> None:
    """A handler may leave a nursery open (an async generator with one in it, and a `break`). trio
    raises where the next scope ends, which fails the attempt; but a nursery still among those of
    the worker's task would end the worker too, when that task ends."""
    # `child_nurseries` gives a copy, and there is no public way to close them from here.
    nurseries = trio.lowlevel.current_task()._child_nurseries
    for nursery in nurseries[kept:]:
        nursery.cancel_scope.cancel()
    del nurseries[kept:]


class TrioContext(AttemptContext):
    """The context of an async handler."""

    __slots__ = ("_limit", "_report_progress")

    def __init__(self, task: Task, report_progress: ReportProgress, limit: int) -> None:
        super().__init__(task)
        self._report_progress = report_progress
        self._limit = limit

    async def progress(self, value: Any) -> None:
        await self._report_progress(storable_progress(value, self._limit))
