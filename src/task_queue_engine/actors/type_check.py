"""What this worker can run: it knows the type, and the payload fits the handler's annotation.

Processes of different versions share a queue while a deployment rolls, and some keep different
types for good. What one cannot run another may, so it goes back before it is claimed: that costs
the task no attempt, and nothing is written. What every worker has refused for long ends as FAILED.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import trio
from msgspec import UNSET

from task_queue_engine.backends.base import Delivery
from task_queue_engine.clock import Clock
from task_queue_engine.errors import InvalidTask, PayloadCheckFailed, UnknownTaskType
from task_queue_engine.execution.checks import PayloadChecks
from task_queue_engine.registry import RunsIn, TaskDefinition, TaskRegistry
from task_queue_engine.retry import Decision, GiveUp, SnoozeUntil
from task_queue_engine.task import Task, TaskError, TaskStatus

logger = logging.getLogger("task_queue_engine.claimer")

# Seconds until a message given back is received again: the first time, and at most.
_FIRST_DELAY = 1.0
_LONGEST_DELAY = 300.0
# The same of what had no place to run: that may be free at any time, and must not be for long.
_LONGEST_FOR_PLACE = 30.0
# How the delay grows: by this factor it is a quarter of what the task has waited so far. Doubled,
# it would be as long as all before: of two workers the one that does not know the type has a task
# six times in a row once in 64, and each further time would as much as double what it waits.
_GROWTH = 1.25
# Receives before a task may be failed, in some ten minutes. A task's age alone is no proof where
# the queue has a backlog of days.
_ENOUGH_RECEIVES = 24
# Seconds for the checks of a batch that run in threads. They take microseconds; one that does not
# come back must not keep other types from being claimed.
_IN_THREAD_FOR = 5.0
# Type names that are told apart in statistics: names come from whatever is sent to the queue.
_NAMES_KEPT = 100
_OTHERS = "(others)"


@dataclass(slots=True)
class Checked:
    """A delivery that was looked at. It can be run where `refusal` is None, as far as is known."""

    data: Any = UNSET
    """The payload as JSON data, UNSET where it did not have to be looked at."""
    payload: Any = UNSET
    """As the handler is annotated; UNSET: whatever runs the handler converts it."""
    refusal: TaskError | None = None


@dataclass(frozen=True, slots=True)
class ClaimIt:
    """The row says that it can be settled, or be run after all."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    delay: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class FailIt:
    """It has been refused for too long."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Job:
    definition: TaskDefinition
    payload: Any
    """As JSON data, or as `msgspec.Raw`."""
    checked: Checked


class TypeCheck:
    """A part of the claimer, and no actor of its own.

    Args:
        checks: runs the checks of payloads, as for submissions and attempts.
        fail_after: seconds after which a task that was refused all the time is FAILED.
    """

    def __init__(
        self,
        *,
        registry: TaskRegistry,
        checks: PayloadChecks,
        clock: Clock,
        rng: random.Random,
        fail_after: float,
    ) -> None:
        self._registry = registry
        self._checks = checks
        self._clock = clock
        self._rng = rng
        self._fail_after = fail_after
        self._given_back: dict[str, int] = {}
        self._given_back_at: dict[str, float] = {}
        # Types whose check did not come back: left to what runs the handler, which has a timeout.
        # So there are never more threads lost than types.
        self._stuck: set[str] = set()

    @property
    def given_back(self) -> dict[str, int]:
        """How often a message was given back, by task type."""
        return dict(self._given_back)

    def notes(self) -> tuple[str, ...]:
        """For a person who asks how this worker is: types it gave back lately."""
        return tuple(
            f"tasks of type {name!r} are given back: this worker does not know the type, or "
            f"refuses their payload ({self._given_back[name]} times so far)"
            for name in sorted(self._given_back_lately())
        )

    def _given_back_lately(self) -> list[str]:
        since = trio.current_time() - 2 * _LONGEST_DELAY
        return [name for name, at in self._given_back_at.items() if at >= since]

    def runs_in(self, task_type: str) -> RunsIn | None:
        """None: this worker does not know the type, or it was not told."""
        if not task_type:
            return None
        try:
            return self._registry.get(task_type).runs_in
        except UnknownTaskType:
            return None

    # --- before the claim -------------------------------------------------------------------

    async def check(self, deliveries: Sequence[Delivery]) -> list[Checked]:
        """One answer for each. What the delivery does not say is left to `after_claim`."""
        checks = [Checked() for _ in deliveries]
        for_threads: dict[str, list[_Job]] = {}
        for job in self._jobs(deliveries, checks):
            # Where a `def` handler runs a validator may block, too.
            if job.definition.runs_in is RunsIn.TRIO and self._checks.is_quick(
                job.definition, job.payload
            ):
                self._checks.call_here(job.definition, partial(_convert, job))
            else:
                for_threads.setdefault(job.definition.name, []).append(job)
        if for_threads:
            await self._convert_in_threads(for_threads)
        return checks

    def _jobs(self, deliveries: Sequence[Delivery], checks: Sequence[Checked]) -> Iterator[_Job]:
        for delivery, checked in zip(deliveries, checks, strict=True):
            if not delivery.task_type:
                continue
            try:
                definition = self._registry.get(delivery.task_type)
            except UnknownTaskType as error:
                checked.refusal = _describe(error)
                continue
            if (
                definition.payload_type is not Any
                and delivery.payload_json
                and definition.name not in self._stuck
            ):
                yield _Job(definition, msgspec.Raw(delivery.payload_json), checked)

    async def _convert_in_threads(self, by_type: Mapping[str, Sequence[_Job]]) -> None:
        """Types side by side, each at its own pace."""
        unfinished = set(by_type)

        async def convert(name: str, jobs: Sequence[_Job]) -> None:
            # What an abandoned thread still finds out is not seen by anything.
            copies = [_Job(job.definition, job.payload, Checked()) for job in jobs]
            convert_all = partial(_convert_all, copies)
            await self._checks.call_in_thread(jobs[0].definition, convert_all, items=len(jobs))
            for job, copy in zip(jobs, copies, strict=True):
                job.checked.data, job.checked.payload = copy.checked.data, copy.checked.payload
                job.checked.refusal = copy.checked.refusal
            unfinished.remove(name)

        with trio.move_on_after(_IN_THREAD_FOR):
            async with trio.open_nursery() as nursery:
                for name, jobs in by_type.items():
                    nursery.start_soon(convert, name, jobs)
        for name in unfinished:
            self._stuck.add(name)
            logger.warning(
                "the payload check of task type %r took over %g s; from now on it is left to the "
                "attempt",
                name,
                _IN_THREAD_FOR,
            )

    def turn_away(
        self, task: Task | None, refusal: TaskError, delivery: Delivery, data: Any
    ) -> ClaimIt | GiveBack | FailIt:
        """What becomes of a delivery that was refused. `task` is its row, which is what counts:
        a message may say what it likes, about the payload (`data`) too."""
        if task is None or task.status.is_terminal or task.cancel_requested:
            return ClaimIt()  # it will not start
        if task.status is TaskStatus.PROCESSING and delivery.receives == 1:
            return ClaimIt()  # a second message of a live attempt, which is left alone
        now = self._clock.now()
        if task.run_at is not None and task.run_at > now:
            return ClaimIt()  # which hides it until then
        is_same = task.type == delivery.task_type and data in (UNSET, task.payload)
        if not is_same:
            return ClaimIt()
        since = max(task.updated_at, task.run_at or task.updated_at)
        return self._refuse(task, refusal, since, now, times=delivery.receives)

    # --- claimed together with the receive --------------------------------------------------

    @property
    def claimable(self) -> Mapping[str, RunsIn]:
        """By type, where its handler runs: what may be claimed unseen. Not what was refused here
        lately, which is looked at before its claim."""
        claimable = self._registry.runs_in()
        for name in self._given_back_lately():
            claimable.pop(name, None)
        return claimable

    async def check_started(self, tasks: Sequence[Task]) -> list[Checked]:
        """As `check`, of what was claimed unseen."""
        checks = [Checked() for _ in tasks]
        for_threads: dict[str, list[_Job]] = {}
        for task, checked in zip(tasks, checks, strict=True):
            definition = self._registry.get(task.type)
            if definition.payload_type is Any or definition.name in self._stuck:
                continue
            job = _Job(definition, task.payload, checked)
            if definition.runs_in is RunsIn.TRIO and self._checks.is_quick(
                definition, task.payload
            ):
                self._checks.call_here(definition, partial(_convert, job))
            else:
                for_threads.setdefault(definition.name, []).append(job)
        if for_threads:
            await self._convert_in_threads(for_threads)
        return checks

    def give_back(self, task: Task, refusal: TaskError) -> SnoozeUntil:
        """What was claimed unseen and cannot be run here: at no cost, for another worker."""
        self._note(task, refusal)
        delay = self._rng.uniform(_FIRST_DELAY / 2, _FIRST_DELAY)
        return SnoozeUntil(self._clock.now() + timedelta(seconds=delay), delay)

    # --- after the claim --------------------------------------------------------------------

    def payload_of(self, task: Task, checked: Checked) -> Any:
        """What was converted before the claim, if it was of this row."""
        return checked.payload if checked.data == task.payload else UNSET

    def after_claim(self, task: Task) -> tuple[TaskError, Decision] | None:
        """For what the delivery did not say, or said wrongly: None where the type is known."""
        if task.type in self._registry:
            return None
        error = _describe(UnknownTaskType(task.type, self._registry.names))
        now = self._clock.now()
        match self._refuse(task, error, task.created_at, now, times=task.attempt):
            case FailIt(reason):
                return error, GiveUp(reason)
            case GiveBack(delay):
                return error, SnoozeUntil(now + timedelta(seconds=delay), delay)

    def _refuse(
        self, task: Task, refusal: TaskError, since: datetime, now: datetime, *, times: int
    ) -> GiveBack | FailIt:
        waited = (now - since).total_seconds()
        if waited >= self._fail_after and times >= _ENOUGH_RECEIVES:
            return FailIt(
                f"no worker has been able to run it for {waited:.0f} s: {refusal.message}"
            )
        self._note(task, refusal)
        return GiveBack(self._delay(times, _LONGEST_DELAY))

    def delay_for_place(self, delivery: Delivery) -> float:
        """Seconds until what had no place to run here is received again, here or elsewhere."""
        return self._delay(delivery.receives, _LONGEST_FOR_PLACE)

    def _delay(self, times: int, at_most: float) -> float:
        # The exponent is bounded, or a number of receives that is a lie would overflow.
        longest = min(at_most, _FIRST_DELAY * _GROWTH ** min(times - 1, 100))
        # Half of it at least: with full jitter some would come back at once, time and again.
        return self._rng.uniform(longest / 2, longest)

    def _note(self, task: Task, refusal: TaskError) -> None:
        name = task.type
        if name not in self._given_back:
            if len(self._given_back) >= _NAMES_KEPT:
                name = _OTHERS
            logger.warning(
                "task %s goes back to the queue for a worker that can run it (%s); so do others of "
                "type %r",
                task.id,
                refusal.in_one_line(),
                name,
                extra={"task_id": task.id, "task_type": task.type},
            )
        self._given_back[name] = self._given_back.get(name, 0) + 1
        self._given_back_at[name] = trio.current_time()


def _convert(job: _Job) -> None:
    checked = job.checked
    try:
        is_raw = isinstance(job.payload, msgspec.Raw)
        checked.data = msgspec.json.decode(job.payload) if is_raw else job.payload
        checked.payload = job.definition.convert_payload(checked.data)
    # No refusal but a defect of the check: the attempt runs into it once more, and fails.
    except PayloadCheckFailed:
        checked.data = UNSET
    except InvalidTask as error:
        checked.refusal = _describe(error)


def _convert_all(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        _convert(job)


def _describe(error: InvalidTask) -> TaskError:
    kind = type(error)
    return TaskError(type=f"{kind.__module__}.{kind.__qualname__}", message=str(error))
