"""What other processes do, for those who watch all tasks where the backend cannot tell it: tasks
known to be under way are looked at, with the looks that are shared by all who wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial

import trio

from task_queue_engine.engine.live_events import LiveEvents
from task_queue_engine.engine.shared_looks import LOOK_SIZE
from task_queue_engine.engine.waiting import Waiters
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import StateEvent
from task_queue_engine.worker import WorkerList

# Seconds between looks at who runs what: a process says it as often.
_ASK_EVERY = 15.0


class WatchedTasks:
    """Those that were submitted or seen here, and those that the workers' rows say run; one look's
    worth of them.

    Args:
        workers: the processes that live.
    """

    def __init__(
        self, live: LiveEvents, waiters: Waiters, workers: Callable[[], Awaitable[WorkerList]]
    ) -> None:
        self._live = live
        self._waiters = waiters
        self._workers = workers
        self._watched: dict[str, ExitStack] = {}

    async def run(self) -> None:
        """Until cancelled."""
        self._live.on_state = self._note
        try:
            while True:
                if self._live.watches_all:
                    with suppress(BackendUnavailable):
                        await self._find()
                else:
                    self._drop_all()
                await trio.sleep(_ASK_EVERY)
        finally:
            self._live.on_state = None
            self._drop_all()

    async def _find(self) -> None:
        for worker in (await self._workers()).workers:
            for running in worker.running:
                if not self._live.is_told_of(running.task_id, running.attempt):
                    self._watch(running.task_id)

    def _note(self, event: StateEvent, is_direct: bool) -> None:
        runs_here = is_direct and event.status is TaskStatus.PROCESSING
        if event.status.is_terminal or runs_here:
            self._drop(event.task_id)
        else:
            self._watch(event.task_id)

    def _watch(self, task_id: str) -> None:
        if task_id not in self._watched and len(self._watched) < LOOK_SIZE:
            watch = self._watched[task_id] = ExitStack()
            watch.enter_context(self._waiters.watch(task_id, partial(self._on_look, task_id)))

    def _on_look(self, task_id: str, task: Task | None) -> None:
        if task is None:
            self._drop(task_id)
            return
        self._live.in_store(task, is_new=True)
        if task.status.is_terminal:
            self._drop(task_id)

    def _drop(self, task_id: str) -> None:
        watch = self._watched.pop(task_id, None)
        if watch is not None:
            watch.close()

    def _drop_all(self) -> None:
        for task_id in tuple(self._watched):
            self._drop(task_id)
