"""Runs one handler call: payload in, result as JSON-ready builtins out, or an exception."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from msgspec import UNSET

from task_queue_engine.errors import AttemptTimedOut, HandlerExited
from task_queue_engine.execution.contexts import AttemptContext
from task_queue_engine.execution.failures import unwrap_single
from task_queue_engine.execution.processes import ProcessCall, ProcessPool
from task_queue_engine.execution.threads import ReportProgress, ThreadCall, ThreadRunner
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
    """Threads still running whose attempt is over; they count against the limit of threads."""
    worker_processes: int
    """Processes alive, idle ones included."""


class HandlerRunner:
    """Calls handlers where they want to run.

    Args:
        threads: at most so many `def` handlers at a time, abandoned ones included.
        processes: at most so many worker processes for `process=True` handlers.
        max_result_bytes: limit for the JSON of a result, and of a progress value.

    A program that defines `process=True` handlers in its main file needs
    `if __name__ == "__main__":` around what it does, as with multiprocessing: a worker process
    loads that file to find them. Handlers in any other module do not have it loaded.
    """

    def __init__(self, *, threads: int, processes: int, max_result_bytes: int) -> None:
        self._max_result_bytes = max_result_bytes
        self._threads = ThreadRunner(limit=threads, max_result_bytes=max_result_bytes)
        self._processes = ProcessPool(limit=processes, max_result_bytes=max_result_bytes)
        self._on_trio = 0

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

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            on_trio=self._on_trio,
            in_threads=self._threads.running,
            in_processes=self._processes.running,
            abandoned_threads=self._threads.abandoned,
            worker_processes=self._processes.alive,
        )

    async def run(
        self,
        definition: TaskDefinition,
        task: Task,
        *,
        report_progress: ReportProgress,
        payload: Any = UNSET,
    ) -> Any:
        """One attempt.

        Args:
            definition: whose handler is called.
            task: PROCESSING, with `timeout_seconds` resolved; None means no timeout. The timeout
                counts from this call, waiting for a thread or process included.
            payload: the task's, as the handler is annotated; UNSET: it is converted where the
                handler runs. (A worker process always does that: it has to make the object.)
            report_progress: is awaited with each progress value, as builtins, before this returns.

        Returns:
            The handler's result as builtins. COMPLETED means a handler returned: so does one that
            catches the cancellation of its timeout and returns all the same.

        Raises:
            AttemptTimedOut: its cause is what the handler's cleanup raised, if anything.
            ResultNotStorable: the result is not JSON or too large.
            WorkerProcessDied: see there; likewise RegistryError where the worker process could
                not find its handler.
            HandlerExited: the handler raised SystemExit or the like. A KeyboardInterrupt in an
                async handler is let through: it cannot be told from a real Ctrl-C.
            trio.Cancelled: from outside, after the handler's cleanup has run.
            Exception: the handler's own. A group of one, as a nursery makes them, is unwrapped
                (see `unwrap_single`); an exception from a worker process has a RemoteTraceback
                as its cause.
        """
        timeout = math.inf if task.timeout_seconds is None else task.timeout_seconds
        scope = trio.CancelScope(deadline=trio.current_time() + timeout)
        call: ThreadCall | ProcessCall | None = None
        failure: BaseException | None = None
        try:
            with scope:
                if definition.runs_in is RunsIn.TRIO:
                    value = await self._run_on_trio(definition, task, report_progress, payload)
                else:
                    call = (
                        self._threads.call(definition, task, report_progress, payload)
                        if definition.runs_in is RunsIn.THREAD
                        else self._processes.call(definition, task, report_progress)
                    )
                    value = await call.run()
        except BaseException as error:  # noqa: BLE001 - raised again below, outside of its context
            failure = _contain_exit(unwrap_single(error))
        else:
            if not scope.cancelled_caught:
                in_trio = (
                    definition.runs_in is RunsIn.TRIO
                )  # the others have done it where they ran
                return storable_result(value, self._max_result_bytes) if in_trio else value

        try:
            # Only its deadline cancels this scope.
            if failure is None or (scope.cancel_called and isinstance(failure, Exception)):
                not_started = None if call is None or call.started else call.not_started
                raise AttemptTimedOut(timeout, not_started=not_started) from failure
            raise failure
        finally:
            del failure  # its traceback holds this frame

    async def _run_on_trio(
        self,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
        payload: Any,
    ) -> Any:
        # No handler starts once its task is cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        if payload is UNSET:
            payload = definition.convert_payload(task.payload)
        self._on_trio += 1
        try:
            if definition.takes_context:
                context = TrioContext(task, report_progress, self._max_result_bytes)
                return await definition.handler(payload, context)
            return await definition.handler(payload)
        finally:
            self._on_trio -= 1


class TrioContext(AttemptContext):
    """The context of an async handler."""

    __slots__ = ("_limit", "_report_progress")

    def __init__(self, task: Task, report_progress: ReportProgress, limit: int) -> None:
        super().__init__(task)
        self._report_progress = report_progress
        self._limit = limit

    async def progress(self, value: Any) -> None:
        await self._report_progress(storable_progress(value, self._limit))


# What has to reach trio as it is.
_PASSES = (Exception, trio.Cancelled, KeyboardInterrupt, GeneratorExit)
_PASSES_UNCANCELLED = (Exception, KeyboardInterrupt, GeneratorExit)


def _contain_exit(error: BaseException) -> BaseException:
    """SystemExit and its like, raised by a handler, as a HandlerExited: they must not end the
    engine. In a group they may stand beside a Cancelled, which must go on.

    A Cancelled where nothing is cancelled is one that a handler has kept and raised again, outside
    of the scope it belonged to: no scope would catch it, and it would take the engine with it.
    """
    is_cancelled = trio.current_effective_deadline() == -math.inf
    passes = _PASSES if is_cancelled else _PASSES_UNCANCELLED
    if isinstance(error, passes):
        return error
    if isinstance(error, BaseExceptionGroup):
        passing, exits = error.split(passes[1:])
        if exits is None or isinstance(exits, Exception):
            return error
        if passing is not None:
            return BaseExceptionGroup(error.message, [passing, _exited(unwrap_single(exits))])
    return _exited(error)


def _exited(error: BaseException) -> HandlerExited:
    exited = HandlerExited(error)
    exited.__cause__ = error
    return exited
