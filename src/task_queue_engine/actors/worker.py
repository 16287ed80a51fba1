"""Runs one handler at a time and says what came of it."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import trio

from task_queue_engine.actors import attempt_spans
from task_queue_engine.actors.feed import Feed
from task_queue_engine.actors.messages import (
    AbortReason,
    Attempt,
    ClaimEvent,
    Errored,
    Interrupted,
    Lost,
    Outcome,
    Progressed,
    Stopped,
    Succeeded,
    WorkerFree,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import HandlerNotStarted, UnknownTaskType
from task_queue_engine.execution.attempt_logs import AttemptLog, running
from task_queue_engine.execution.containment import exited
from task_queue_engine.execution.failures import describe_error
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.registry import TaskDefinition, TaskRegistry
from task_queue_engine.retry import DEFAULT_BACKOFF, Snooze, SnoozeUntil, decide
from task_queue_engine.tracing import Tracing

# Seconds that one worker may go on without a checkpoint: other tasks of the loop wait that long.
_TURN = 0.001

logger = logging.getLogger("task_queue_engine.worker")


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    busy: bool
    started: int
    succeeded: int
    errored: int
    aborted: int


class Worker:
    """One of `WORKER_COUNT`. It says on `claim_events` that it is free, takes an attempt from
    `deliveries`, starts it at once and answers on `outcomes`; when `deliveries` ends it ends.

    Args:
        log_lines: so many of what a handler logs are kept with its attempt, the last ones.
    """

    def __init__(
        self,
        *,
        registry: TaskRegistry,
        runner: HandlerRunner,
        clock: Clock,
        rng: random.Random,
        claim_events: trio.MemorySendChannel[ClaimEvent],
        deliveries: trio.MemoryReceiveChannel[Attempt],
        outcomes: trio.MemorySendChannel[Outcome],
        log_lines: int = 0,
        on_start: Callable[[Attempt], None] | None = None,
        tracing: Tracing | None = None,
        feed: Feed | None = None,
    ) -> None:
        self._registry = registry
        self._runner = runner
        self._clock = clock
        self._rng = rng
        self._claim_events = claim_events
        self._deliveries = deliveries
        self._outcomes = outcomes
        self._log_lines = log_lines
        self._on_start = on_start
        self._tracing = tracing
        self._feed = feed
        self._on_line = None if feed is None else feed.logged
        self._current: Attempt | None = None
        self._has_started = False
        self._gives_back = False
        self._turn_began = -math.inf
        self._started = self._succeeded = self._errored = self._aborted = 0

    def statistics(self) -> WorkerStatistics:
        return WorkerStatistics(
            busy=self._current is not None,
            started=self._started,
            succeeded=self._succeeded,
            errored=self._errored,
            aborted=self._aborted,
        )

    @property
    def running(self) -> Attempt | None:
        """The attempt whose handler runs."""
        return self._current if self._has_started else None

    def give_back_unstarted(self) -> None:
        """Nothing starts from now on: neither what still waits for a thread or a process, nor what
        was handed over a moment ago."""
        self._gives_back = True
        if self._current is not None and not self._has_started:
            self._current.abort(AbortReason.SHUTDOWN)

    def interrupt(self) -> None:
        """The grace is over: stop what runs, too. The cleanup of the handler still runs, and the
        worker lives on to report it."""
        self._gives_back = True
        if self._current is not None:
            self._current.abort(AbortReason.SHUTDOWN)

    async def run(self) -> None:
        with self._claim_events, self._deliveries, self._outcomes:
            self._say_free(WorkerFree())
            with suppress(trio.EndOfChannel):
                now = -math.inf
                while True:
                    attempt = self._at_once(now)
                    if attempt is None:
                        attempt = await self._deliveries.receive()
                        now = self._turn_began = trio.current_time()
                    self._current, self._has_started = attempt, False
                    if self._gives_back:
                        attempt.abort(AbortReason.SHUTDOWN)
                    taken_at = now
                    # It waited here while the process stood still, and the lease keeper has not
                    # had its turn since.
                    if attempt.lease.expires_at <= taken_at:
                        attempt.abort(AbortReason.LEASE_LOST)
                    if self._tracing is None:
                        outcome = await self._run_attempt(attempt)
                    else:
                        outcome = await self._run_traced(attempt)
                    self._current = None
                    # Good for all that follows at once: the clock is read for every task.
                    now = attempt.ended = trio.current_time()
                    try:
                        self._outcomes.send_nowait(outcome)
                    # Broken: all is being cancelled, which `send` says.
                    except (trio.WouldBlock, trio.BrokenResourceError):
                        await self._outcomes.send(outcome)
                        now = trio.current_time()
                    self._say_free(WorkerFree(attempt.task.type, now - taken_at))

    def _at_once(self, now: float) -> Attempt | None:
        """What waits is taken without a checkpoint, for `_TURN` at most: one takes as long as the
        shortest handlers. None: nothing does, or it is another one's turn."""
        if now - self._turn_began < _TURN:
            try:
                return self._deliveries.receive_nowait()
            except trio.WouldBlock:  # not `suppress`, as this is for every task
                pass
        return None

    def _say_free(self, event: WorkerFree) -> None:
        try:  # noqa: SIM105  # `suppress` is three calls, and this is for every task
            self._claim_events.send_nowait(event)
        # The claimer closes its end when it stops; what it handed on before is still worked off.
        except trio.BrokenResourceError:
            pass

    async def _run_traced(self, attempt: Attempt) -> Outcome:
        outcome = None
        try:
            outcome = await self._run_attempt(attempt)
        finally:
            if attempt.span is not None:
                attempt_spans.end(attempt.span, outcome)
        return outcome

    async def _run_attempt(self, attempt: Attempt) -> Outcome:
        if attempt.abort_reason is not None:
            return self._stopped(attempt, None)
        task = attempt.task
        definition: TaskDefinition | None = None
        log = AttemptLog(task, self._log_lines, on_line=self._on_line)
        outside = running.set(log)
        try:
            definition = self._registry.get(task.type)
            with attempt.scope:
                result = await self._runner.run(
                    definition,
                    task,
                    payload=attempt.payload,
                    report_progress=self._progress_reporter(attempt),
                    on_start=partial(self._note_start, attempt),
                )
                self._succeeded += 1
                return Succeeded(attempt, result)
            return self._stopped(attempt, None)
        # Whatever a handler raises is its own failure, never the worker's: what is no Exception has
        # been made one, but for a cancellation and a real Ctrl-C.
        except Exception as error:  # noqa: BLE001
            if attempt.abort_reason is not None:
                return self._stopped(attempt, error)
            if isinstance(error, HandlerNotStarted):
                return self._not_started(attempt, error)
            return self._failed(attempt, definition, error)
        finally:
            running.reset(outside)
            if log.lines is not None:
                log.close()
                attempt.log = log

    def _note_start(self, attempt: Attempt) -> None:
        self._has_started = True
        self._started += 1
        attempt.began = trio.current_time()
        if self._tracing is not None:
            attempt.span = attempt_spans.begin(self._tracing, attempt)
        if self._on_start is not None:
            self._on_start(attempt)

    def _not_started(self, attempt: Attempt, error: HandlerNotStarted) -> Outcome:
        task = attempt.task
        delay = error.retry_in
        logger.warning("task %s (%s): %s; again in %.0f s", task.id, task.type, error, delay)
        later = SnoozeUntil(self._clock.now() + timedelta(seconds=delay), delay)
        return Errored(attempt, describe_error(error), later)

    def _progress_reporter(self, attempt: Attempt) -> Any:
        async def report(value: Any) -> None:
            attempt.progress = value
            if self._feed is not None and self._feed.is_wanted:
                self._feed.progressed(attempt, value)
            await self._outcomes.send(Progressed(attempt, value))

        return report

    def _failed(
        self, attempt: Attempt, definition: TaskDefinition | None, error: Exception
    ) -> Outcome:
        self._errored += 1
        task = attempt.task
        now = self._clock.now()
        try:
            decision = decide(
                task,
                error,
                now,
                backoff=definition.backoff if definition else DEFAULT_BACKOFF,
                rules=definition.error_rules if definition else {},
                rng=self._rng,
            )
        # A Retry, Snooze or Backoff of a team's own making that does not hold what it should: one
        # more way for a handler to fail, and what it raised shows as the context.
        # SystemExit is not above it.
        except (Exception, SystemExit, GeneratorExit) as broken:  # noqa: BLE001
            error = broken if isinstance(broken, Exception) else exited(broken)
            decision = decide(task, error, now, backoff=DEFAULT_BACKOFF, rules={}, rng=self._rng)
        if isinstance(decision, SnoozeUntil) and not isinstance(error, Snooze):
            logger.warning(
                "task %s: %s; this process is short of files, threads or processes "
                "(ulimit -n, -u), the task comes back in %.0f s",
                task.id,
                error,
                decision.delay,
            )
        if isinstance(error, UnknownTaskType):
            logger.error("task %s: %s; is this worker older than the submitter?", task.id, error)
        return Errored(attempt, describe_error(error), decision)

    def _stopped(self, attempt: Attempt, error: Exception | None) -> Outcome:
        self._aborted += 1
        if attempt.abort_reason is AbortReason.LEASE_LOST:
            # What never ran is no crash, unless it was taken over already.
            return Lost(attempt) if self._has_started else Interrupted(attempt)
        if attempt.abort_reason is AbortReason.SHUTDOWN:
            return Interrupted(attempt)
        return Stopped(attempt, None if error is None else describe_error(error))
