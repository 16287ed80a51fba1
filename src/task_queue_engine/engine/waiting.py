"""Waiting for a task to end, whichever process ends it, and for trouble to pass; and watching one,
by the same looks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import trio

from task_queue_engine.actors.batching import in_batches
from task_queue_engine.backends.base import Heard
from task_queue_engine.engine.look_rounds import Rounds
from task_queue_engine.engine.shared_looks import LOOK_SIZE, LookAtMany, SharedLooks
from task_queue_engine.errors import BackendUnavailable, TaskNotFound
from task_queue_engine.patience import Patience
from task_queue_engine.task import Task

# Seconds between looks into the store. In this process the end of a task wakes its waiters at once;
# other processes' work is told by some backends, and is found by looking with the others: soon at
# first, then seldom enough to cost nothing.
_FIRST_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
_PAUSE = 1.0
# Of the time, for looking at those that wait long, and as much for the new ones: where thousands
# wait they are looked at less often, and other work goes on beside it. Where ends are told it is
# for what was missed, and for processes of older versions.
_LOOKING_SHARE = 0.2
_LOOKING_SHARE_WHERE_TOLD = 0.02

logger = logging.getLogger("task_queue_engine.waiting")


class HearEnds(Protocol):
    """`NotifyingBackend.hear_tasks`, of ends."""

    async def __call__(self, heard: Heard, *, hears: Callable[[bool], object]) -> None: ...


class Waiters:
    """The callers that wait for tasks. One look into the store serves all of them.

    Args:
        look: asks the store for tasks, in the order asked for, None for unknown ids.
        hear_ends: hears what other processes end; None where they cannot be heard.
    """

    def __init__(self, look: LookAtMany, hear_ends: HearEnds | None = None) -> None:
        self._look = look
        self._looks = SharedLooks(look)
        self._hear_ends = hear_ends
        self._hears_ends = False
        self._waiting: dict[str, _Awaited] = {}
        self._someone_waits = trio.Event()
        self._old = Rounds([_PAUSE])
        self._new = Rounds(_FIRST_PAUSES, then=self._old)
        self._ended_elsewhere: dict[str, None] = {}
        """By what was heard, and not looked at yet."""
        self._something_ended = trio.Event()

    def __len__(self) -> int:
        """How many tasks are waited for, or watched."""
        return len(self._waiting)

    def ended(self, task_id: str) -> None:
        """This process has recorded the task's end."""
        awaited = self._waiting.get(task_id)
        if awaited is not None:
            awaited.wake()

    def wake_all(self) -> None:
        """The engine ends: every caller looks once more."""
        for awaited in self._waiting.values():
            awaited.wake()

    async def wait(self, task_id: str, *, timeout: float, patient: bool = False) -> Task:
        """The task once it is terminal, or as it is after `timeout` seconds.

        Args:
            patient: the task is known to be there, so trouble at the first look is waited out too.

        Raises:
            TaskNotFound.
            BackendUnavailable: at the first look, or still at the last; in between it is waited
                out, and the log says so. Whatever else `look` raises.
        """
        deadline = trio.current_time() + timeout
        patience, seen = Patience(trio.current_time), patient
        with self._waiter(task_id) as waiter:
            while True:
                try:
                    task = waiter.found or await self._look_at(task_id)
                except BackendUnavailable as error:
                    left = deadline - trio.current_time()
                    if not seen or left <= 0:
                        raise
                    if not patience.tried:
                        logger.warning("waiting for task %s: %s; trying again", task_id, error)
                    await trio.sleep(min(left, patience.pause(error)))
                    continue
                patience.over()
                seen = True
                left = deadline - trio.current_time()
                if task.status.is_terminal or left <= 0:
                    return task
                with trio.move_on_after(left):
                    await waiter.event.wait()
                # An end that comes during the next look is not to be missed by the next pause.
                waiter.event = trio.Event()

    async def look_for_all(self) -> None:
        """Look for ends in other processes, until cancelled: runs beside the waits."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._looks.run)
            nursery.start_soon(self._keep_looking_at_ended)
            # Two, so that a new wait is not held up by a thousand old ones.
            nursery.start_soon(self._keep_looking, self._new)
            nursery.start_soon(self._keep_looking, self._old)
            if self._hear_ends is not None:
                nursery.start_soon(self._hear, self._hear_ends)

    async def _hear(self, hear_ends: HearEnds) -> None:
        await self._someone_waits.wait()  # until then it costs nothing, here and elsewhere
        await hear_ends(self._heard, hears=self._set_hears_ends)

    def _heard(self, task_ids: Collection[str] | None) -> None:
        if task_ids is not None:
            ended = [task_id for task_id in task_ids if task_id in self._waiting]
            self._ended_elsewhere |= dict.fromkeys(ended)
            if ended:
                self._something_ended.set()
        else:
            self._new.hurry(trio.current_time())
            self._old.hurry(trio.current_time())

    def _set_hears_ends(self, hears: bool) -> None:
        self._hears_ends = hears

    async def _keep_looking_at_ended(self) -> None:
        while True:
            if not self._ended_elsewhere:
                self._something_ended = trio.Event()
                await self._something_ended.wait()
            some, self._ended_elsewhere = self._ended_elsewhere, {}
            for batch in in_batches(list(some), LOOK_SIZE):
                await self._look_at_some(batch)

    async def _keep_looking(self, rounds: Rounds) -> None:
        while True:
            await rounds.wait()
            began = trio.current_time()
            await self._look_at_some(rounds.take(began, LOOK_SIZE))
            spent = trio.current_time() - began
            share = _LOOKING_SHARE_WHERE_TOLD if self._hears_ends else _LOOKING_SHARE
            await trio.sleep(spent / share - spent)

    async def _look_at(self, task_id: str) -> Task:
        task = await self._looks.at(task_id)
        if task is None:
            raise TaskNotFound(task_id)
        return task

    async def _look_at_some(self, task_ids: Sequence[str]) -> None:
        some = [awaited for each in task_ids if (awaited := self._waiting.get(each)) is not None]
        if not some:
            return
        try:
            tasks = await self._look([awaited.task_id for awaited in some])
        except BackendUnavailable:
            logger.debug("no look at what is waited for", exc_info=True)  # the next one is not far
        # Not ours to answer for: each caller looks for itself and gets what there is to raise.
        except Exception:  # noqa: BLE001
            for awaited in some:
                awaited.wake()
        else:
            for awaited, task in zip(some, tasks, strict=True):
                for on_look in tuple(awaited.watchers):
                    on_look(task)
                if task is not None and task.status.is_terminal:
                    awaited.wake(task)

    @contextmanager
    def watch(self, task_id: str, on_look: Callable[[Task | None], object]) -> Iterator[None]:
        """Within this the task is looked at with those that are waited for, and `on_look` called
        with each look: None where there is no such task any more."""
        with self._entered(task_id) as awaited:
            awaited.watchers.append(on_look)
            try:
                yield
            finally:
                awaited.watchers.remove(on_look)

    async def look_at(self, task_id: str) -> Task:
        """The task as it is now; looks of many at a time are one. Raises TaskNotFound."""
        return await self._look_at(task_id)

    @contextmanager
    def _waiter(self, task_id: str) -> Iterator[_Waiter]:
        waiter = _Waiter()
        with self._entered(task_id) as awaited:
            awaited.waiters.add(waiter)
            try:
                yield waiter
            finally:
                awaited.waiters.discard(waiter)

    @contextmanager
    def _entered(self, task_id: str) -> Iterator[_Awaited]:
        awaited = self._waiting.get(task_id)
        if awaited is None:
            awaited = self._waiting[task_id] = _Awaited(task_id)
        self._forget(task_id)
        (self._old if self._hears_ends else self._new).add(task_id, trio.current_time())
        self._someone_waits.set()
        awaited.entered += 1
        try:
            yield awaited
        finally:
            awaited.entered -= 1
            if not awaited.entered:
                del self._waiting[task_id]
                self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        self._new.discard(task_id)
        self._old.discard(task_id)


class _Awaited:
    """A task that is waited for, or watched."""

    __slots__ = ("entered", "task_id", "waiters", "watchers")

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.entered = 0
        self.waiters: set[_Waiter] = set()
        self.watchers: list[Callable[[Task | None], object]] = []

    def wake(self, task: Task | None = None) -> None:
        for waiter in self.waiters:
            waiter.found = task
            waiter.event.set()


class _Waiter:
    __slots__ = ("event", "found")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.found: Task | None = None
        """The task at its end, where a look for all has found that."""
