"""`process=True` handlers, in worker processes that a timeout or a cancel really kills.

Processes are started when they are needed, kept for the next task, and killed with SIGKILL when
the attempt they run is over before them. Each is a fresh interpreter (not a fork: trio, threads and
the AWS runtime do not survive one) in a session of its own, tied to the engine by one socket.

Why not trio-parallel, which does most of this: it offers no way back for progress; it notices the
end of a process by its pipes, and waits for that shielded, so a handler that forks makes a cancel
hang for as long as the fork lives; SIGTERM, or Ctrl-C while a process starts, kills it; and it
runs the program's main file in every process, whether a handler is in it or not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import trio

from task_queue_engine.codec import decode_json
from task_queue_engine.errors import CpuTimeExceeded, HandlerNotStarted, WorkerProcessDied
from task_queue_engine.execution import wire
from task_queue_engine.execution.attempt_logs import current
from task_queue_engine.execution.child_logs import captures_warnings, own_levels
from task_queue_engine.execution.environment import worker_environment
from task_queue_engine.execution.locating import locate, refuse_while_loading_main
from task_queue_engine.execution.log_format import stderr_look
from task_queue_engine.execution.remote_errors import unpack
from task_queue_engine.execution.threads import START_AGAIN, ReportProgress
from task_queue_engine.execution.worker_process import HungUp, WorkerProcess, reap, spawn
from task_queue_engine.registry import TaskDefinition
from task_queue_engine.task import Task
from task_queue_engine.tracing import active

_MIB = 2**20

logger = logging.getLogger("task_queue_engine.workers")

# Seconds for a process to import the engine; a machine that takes longer is in trouble.
_START_TIMEOUT = 60.0

# Seconds for a process that hung up in mid-task to end, before it is killed.
_EXIT_WAIT = 5.0

# Seconds for idle processes to end by themselves when the pool closes.
_CLOSE_GRACE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """When a process has done enough, and the next task gets a new one. 0: never for that."""

    max_tasks: int = 0
    max_mib: int = 0
    """Of memory that it still holds after a task, in MiB."""

    def reason(self, worker: WorkerProcess) -> str | None:
        """None: it is good for another task."""
        if self.max_tasks and worker.tasks >= self.max_tasks:
            return f"has run {worker.tasks} tasks"
        if self.max_mib and worker.memory is not None and worker.memory > self.max_mib * _MIB:
            return f"holds {worker.memory // _MIB} MiB after {worker.tasks} tasks"
        return None


class ProcessPool:
    """Runs handlers in at most `limit` worker processes, which get the variables of the environment
    that `worker_environment` allows, and those named in `more_environment`."""

    def __init__(
        self,
        *,
        limit: int,
        max_result_bytes: int,
        more_environment: Collection[str] = (),
        recycling: Recycling | None = None,
    ) -> None:
        self.recycling = recycling if recycling is not None else Recycling()
        self._more_environment = more_environment
        self.limiter = trio.CapacityLimiter(limit)
        self.max_result_bytes = max_result_bytes
        # Threads that start and reap: not those of trio's default limiter, which others may fill.
        self._housekeeping = trio.CapacityLimiter(limit + 1)
        self.trouble: str | None = None
        """Why the last process could not be started; None where it was."""
        self._is_open = False
        self._workers: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._taken = 0
        """By calls that are not over."""
        self._spent: list[WorkerProcess] = []
        """They were asked to end, and are to be gone before another one takes their place."""

    @property
    def running(self) -> int:
        return self.limiter.borrowed_tokens

    @property
    def alive(self) -> int:
        """Processes, idle ones included."""
        return sum(worker.is_alive() for worker in self._workers)

    def ready(self, promised: int) -> int:
        """Processes that wait for a task. `promised`: tasks that are to have one, or have it."""
        return len(self._idle) - max(0, promised - self._taken)

    async def make_ready(self) -> None:
        """Have one more process wait for a task.

        Raises:
            HandlerNotStarted: it could not be started, or there may be no more.
        """
        await self._end_spent()
        if not self._is_open or len(self._workers) >= self.limiter.total_tokens:
            raise HandlerNotStarted("no more worker processes may run", retry_in=START_AGAIN)
        try:
            worker = await self._start()
        except WorkerProcessDied as error:
            self.trouble = str(error)
            raise HandlerNotStarted(str(error), retry_in=START_AGAIN) from None
        self.trouble = None
        self._idle.append(worker)

    def call(
        self, definition: TaskDefinition, task: Task, report_progress: ReportProgress
    ) -> ProcessCall:
        return ProcessCall(self, definition, task, report_progress)

    def open(self) -> None:
        refuse_while_loading_main()
        self._is_open = True

    async def aclose(self) -> None:
        """End all processes: idle ones may run their atexit functions, others are killed. Not
        cancellable, and over within a few seconds."""
        self._is_open = False
        workers = list(self._workers)
        for worker in workers:
            if worker in self._idle:
                worker.hang_up()
            elif worker not in self._spent:
                worker.kill()
        self._idle.clear()
        self._spent.clear()
        await self._end(*workers, grace=_CLOSE_GRACE)

    async def take(self) -> WorkerProcess:
        """An idle process, or a new one."""
        self._taken += 1
        if not self._is_open:
            raise RuntimeError("process=True handlers run inside `async with runner.open()`")
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            await self._end(worker)  # it died while it was idle
        await self._end_spent()
        return await self._start()

    async def _end_spent(self) -> None:
        spent, self._spent = self._spent, []
        await self._end(*spent, grace=_CLOSE_GRACE)

    def end_call(self, worker: WorkerProcess | None) -> None:
        """After `take`, whatever came of it. None: the process is gone."""
        self._taken -= 1
        if worker is None:
            return
        reason = self.recycling.reason(worker)
        if reason is None:
            self._idle.append(worker)
            return
        logger.info("worker process %d %s: the next task gets a new one", worker.pid, reason)
        worker.hang_up()
        self._spent.append(worker)

    async def discard(self, worker: WorkerProcess) -> None:
        """Kill it, with what it started. Not cancellable; takes milliseconds."""
        worker.kill()
        await self._end(worker)

    async def reap(self, worker: WorkerProcess, when: str) -> WorkerProcessDied:
        """A process has hung up: find out how it ended, and end what it may have left behind."""
        killed = await self._end(worker, grace=_EXIT_WAIT)
        # Its pid stays taken as long as there are processes in its group: no other process is hit.
        worker.kill()
        if killed:
            return WorkerProcessDied(
                f"worker process {worker.pid} hung up {when} without ending and was killed"
            )
        died = CpuTimeExceeded if worker.exceeded_its_cpu_time else WorkerProcessDied
        return died(worker.describe_exit(when))

    async def _start(self) -> WorkerProcess:
        try:
            environment = worker_environment(self._more_environment, os.environ)
            worker = await trio.to_thread.run_sync(spawn, environment, limiter=self._housekeeping)
        except (OSError, RuntimeError) as error:  # no descriptor, no memory, no thread
            raise WorkerProcessDied(f"no worker process could be started: {error}") from None
        self._workers.add(worker)
        try:
            with trio.move_on_after(_START_TIMEOUT):
                await worker.wait_ready()
                return worker
        except HungUp:
            raise await self.reap(worker, "while it started; its stderr says why") from None
        except BaseException:
            await self.discard(worker)
            raise
        await self.discard(worker)
        raise WorkerProcessDied(
            f"worker process {worker.pid} was not ready within {_START_TIMEOUT:g} s"
        )

    async def _end(self, *workers: WorkerProcess, grace: float = 0.0) -> list[WorkerProcess]:
        """See `reap`."""
        if not workers:
            return []
        with trio.CancelScope(shield=True):
            killed = await trio.to_thread.run_sync(reap, workers, grace, limiter=self._housekeeping)
        for worker in workers:
            worker.close()
            self._workers.discard(worker)
        return killed


class ProcessCall:
    """One call."""

    def __init__(
        self,
        pool: ProcessPool,
        definition: TaskDefinition,
        task: Task,
        report_progress: ReportProgress,
    ) -> None:
        self._pool = pool
        self._definition = definition
        self._task = task
        self._report_progress = report_progress
        self._worker: WorkerProcess | None = None

    async def acquire(self) -> None:
        """Wait for a place, and for a process that is ready.

        Raises:
            HandlerNotStarted: no process could be started.
        """
        await self._pool.limiter.acquire_on_behalf_of(self)
        try:
            self._worker = await self._pool.take()
            self._pool.trouble = None
        except WorkerProcessDied as error:
            self.release()
            self._pool.trouble = str(error)
            raise HandlerNotStarted(str(error), retry_in=START_AGAIN) from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        self._pool.end_call(self._worker)
        self._pool.limiter.release_on_behalf_of(self)

    async def run(self, waited: float) -> Any:
        """Returns the handler's result as builtins; raises what it raised.

        Raises:
            WorkerProcessDied: the process ended before the handler did.
            RegistryError: a worker process could not find the handler.
        """
        job = wire.Job(
            handler=locate(self._definition.handler),
            task=self._task,
            max_result_bytes=self._pool.max_result_bytes,
            waited=waited,
            log_level=logging.root.level,
            log_levels=own_levels(),
            log_look=stderr_look(),
            keeps_lines=(log := current()) is not None and log.most > 0,
            capture_warnings=captures_warnings(),
            trace_context=active(),
            measure_memory=self._pool.recycling.max_mib > 0,
        )
        reply = await self._run_in_worker(job)
        if isinstance(reply, wire.Raised):
            raise unpack(reply.error)
        return decode_json(bytes(reply.result), field="result")

    async def _run_in_worker(self, job: wire.Job) -> wire.Returned | wire.Raised:
        worker, self._worker = self._worker, None
        if worker is None:
            raise RuntimeError("run() comes once, after acquire()")
        try:
            reply = await worker.run(job, self._report_progress)
        except HungUp:
            raise await self._pool.reap(worker, "in the middle of the task") from None
        except BaseException:
            # Cancelled, for the most part: a timeout, a cancel, a lost lease, a shutdown.
            await self._pool.discard(worker)
            raise
        self._worker = worker  # for the next task
        return reply
