"""Claims what was received, as workers come free: PROCESSING means that a handler runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import trio

from task_queue_engine.actors.already_claimed import AlreadyClaimed
from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.claim_buffer import ClaimBuffer
from task_queue_engine.actors.claimer_ends import ClaimerChannels, ClaimerStatistics
from task_queue_engine.actors.crash_isolation import CrashIsolation
from task_queue_engine.actors.demand import Demand
from task_queue_engine.actors.feed import Feed
from task_queue_engine.actors.messages import (
    AbortReason,
    Attempt,
    ClaimEvent,
    Errored,
    Interrupted,
    Lease,
    Leased,
    Outcome,
    ProcessTried,
    Recording,
    Release,
    Settlement,
    WorkerFree,
)
from task_queue_engine.actors.pace import PATIENCE, Pace
from task_queue_engine.actors.store_claims import StoreClaims
from task_queue_engine.actors.turning_away import Candidate, TurningAway, sort
from task_queue_engine.actors.type_check import TypeCheck
from task_queue_engine.actors.unstarted import Unstarted, log_silence
from task_queue_engine.backends.base import TaskQueue, TaskStore
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import DuplicateDelivery, Exhausted, NotAhead, Started
from task_queue_engine.registry import RunsIn
from task_queue_engine.retry import Decision
from task_queue_engine.task import TaskError

_Begun = tuple[Attempt, tuple[TaskError, Decision] | None]
"""And why it is to fail."""


class Claimer:
    """Holds what was received until a worker is free, then claims as many as workers are.

    What is received is only leased: a process that dies with a full buffer has cost no task an
    attempt, a cancel finds the task PENDING, and a stop gives messages back and writes nothing.
    While one claim is under way the next workers gather, so batches grow with the load.

    Handlers that proved short are claimed ahead, as many as are worked off within a moment (see
    `Pace`), and together with their receive where the backend can: one for each worker would be a
    commit for every five tasks. The row says that it was claimed ahead, so that it costs nothing
    when the process dies before its start; and where no worker comes free in time it goes back.

    What would wait for a thread or a worker process is not claimed either (see `ClaimBuffer`).

    It tells the poller on `room` what there are places for.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        store: TaskStore,
        clock: Clock,
        worker_name: str,
        visibility: float,
        retry: BackendRetry,
        type_check: TypeCheck,
        places: Mapping[RunsIn, int],
        ready_processes: Callable[[int], int],
        pace: Pace,
        channels: ClaimerChannels,
        feed: Feed | None = None,
    ) -> None:
        self._store = store
        self._feed = feed
        self._types = type_check
        self._turning_away = TurningAway(
            store=store, retry=retry, type_check=type_check, max_delay=queue.max_delay
        )
        self._demand = Demand(worker_name=worker_name, pace=pace)
        self._channels = channels
        self._claims = StoreClaims(store=store, worker_name=worker_name, retry=retry)
        self._isolation = CrashIsolation(clock)
        self._unstarted = Unstarted(clock=clock, visibility=visibility, max_delay=queue.max_delay)
        self._buffer = ClaimBuffer(
            runs_in=type_check.runs_in, places=places, ready_processes=ready_processes
        )
        self._already_claimed = AlreadyClaimed()
        # Of the batch under way, what has not come to anything yet.
        self._in_hand: list[Lease] = []
        self._stopping = self._is_cut_short = False
        self._waiting = trio.CancelScope()
        self._claimed = self._taken_over = self._returned = 0

    def statistics(self) -> ClaimerStatistics:
        return ClaimerStatistics(
            claimed=self._claimed,
            taken_over=self._taken_over,
            quarantined=self._unstarted.quarantined,
            duplicates=self._unstarted.duplicates,
            waiting=len(self._buffer),
            ahead=self._demand.waiting_ahead,
            all_busy_for=self._demand.all_busy_for,
            returned=self._returned + self._unstarted.returned,
            given_back_by_type=self._types.given_back,
        )

    def notes(self) -> tuple[str, ...]:
        """What a person should know who asks how this worker is."""
        return self._types.notes() + self._demand.notes()

    def stop(self) -> None:
        """Start nothing more, and give back what waits. Safe to call at any time."""
        self._stopping = True
        self._waiting.cancel()

    def cut_short(self) -> None:
        """As `stop`, and find out nothing more of a claim that went unanswered."""
        self.stop()
        self._is_cut_short = True

    async def run(self) -> None:
        ends = self._channels
        with (
            ends.claim_events,
            ends.room,
            ends.deliveries,
            ends.handed_over,
            ends.outcomes,
            ends.wishes,
            ends.settlements,
        ):
            try:
                while not self._stopping:
                    self._note_waiting_events()
                    if self._demand.is_paused and self._demand.waiting_ahead:
                        await self._take_back()
                    await self._start_claimed()
                    if leases := self._take():
                        await self._serve(leases)
                    else:
                        await self._wait()
            # A defect ends the engine. What is not known to have started goes back before.
            except Exception:
                await self._give_back_unclaimed()
                raise
            await self._give_back_unclaimed()

    # --- supply and demand ------------------------------------------------------------------

    async def _wait(self) -> None:
        """For the next event; and take back what was claimed ahead where none comes for so long."""
        await self._give_back_without_place()
        with suppress(trio.BrokenResourceError):  # the warmer has been stopped, so is this
            for _ in range(self._buffer.processes_to_start()):
                self._channels.wishes.send_nowait(None)
        types, places = self._buffer.to_claim_unseen(self._types.claimable)
        news = self._demand.news(
            waiting=self._buffer.ready,
            types=types,
            places=places,
            holds_enough=self._buffer.holds_enough,
        )
        if news is not None:
            with suppress(trio.BrokenResourceError):  # the poller has ended, so does the engine
                self._channels.room.send_nowait(news)
        self._waiting = trio.CancelScope()
        if self._stopping:
            return
        patient_until = trio.current_time() + (PATIENCE if self._waits_for_worker else math.inf)
        with self._waiting:
            self._waiting.deadline = min(patient_until, self._buffer.held_until)
            self._note_waiting_events(await self._channels.claim_events.receive())
        if self._waiting.cancelled_caught and not self._stopping:
            freed = self._demand.freed
            self._note_waiting_events()
            if self._demand.freed == freed and trio.current_time() >= patient_until:
                await self._take_back()

    @property
    def _waits_for_worker(self) -> bool:
        """Something that is to go back where none comes free in time."""
        holds = self._demand.holds_by_itself and self._buffer.ready > 0
        return self._demand.waiting_ahead > 0 or holds

    def _take(self) -> list[Lease]:
        """Of what is only leased: for each worker that waits, and ahead."""
        most = self._store.max_batch
        leases = self._buffer.take(min(self._demand.free_workers, most))
        ahead = min(self._demand.ahead, most - len(leases))
        for lease in self._buffer.take_ahead(ahead, self._demand.short_types, beside=leases):
            lease.claimed_ahead = True
            leases.append(lease)
        return leases

    def _note_waiting_events(self, event: ClaimEvent | None = None) -> None:
        try:
            while True:
                if isinstance(event, Leased):
                    self._demand.leased(len(event.leases))
                    if not self._already_claimed.add(event):
                        self._buffer.add(one for one in event.leases if one.started is None)
                elif isinstance(event, WorkerFree):
                    self._demand.worker_is_free(event)
                    if event.after is not None:
                        self._buffer.ended(event.after)
                elif isinstance(event, Recording):
                    self._demand.is_paused = not event.works
                elif isinstance(event, ProcessTried):
                    self._buffer.process_tried(event.not_for)
                event = self._channels.claim_events.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):  # not `suppress`, as this is for every batch
            return

    async def _take_back(self) -> None:
        """No worker came free in time: what waits is for other processes."""
        attempts: list[Attempt] = []
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                attempts.append(self._channels.handed_over.receive_nowait())
        self._demand.taken_back(len(attempts))
        leases = self._buffer.take_ready() if self._demand.holds_by_itself else []
        self._returned += len(attempts) + len(leases)
        if leases:
            await self._channels.settlements.send(tuple(map(Release, leases)))
        for attempt in attempts:
            self._buffer.ended(attempt.task.type)
            await self._channels.outcomes.send(Interrupted(attempt))

    async def _give_back_without_place(self) -> None:
        """Others may have one."""
        if leases := self._buffer.take_overdue():
            self._returned += len(leases)
            delays = [self._types.delay_for_place(lease.delivery) for lease in leases]
            await self._channels.settlements.send(tuple(map(Release, leases, delays)))

    # --- one batch --------------------------------------------------------------------------

    async def _serve(self, leases: list[Lease]) -> None:
        self._in_hand = leases
        checks = await self._types.check([lease.delivery for lease in leases])
        settlements, candidates, refused = sort(leases, checks)
        if refused:
            turned_away, to_claim = await self._turning_away.look_at(
                refused, is_stopping=lambda: self._stopping
            )
            settlements += turned_away
            candidates += to_claim
        if self._stopping:
            await self._settle(settlements)
            return
        outcomes = await self._claim(candidates, settlements) if candidates else []
        for outcome in outcomes:
            await self._channels.outcomes.send(outcome)
        await self._settle(settlements)

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            settled = {settlement.lease for settlement in settlements}
            self._in_hand = [lease for lease in self._in_hand if lease not in settled]
            await self._channels.settlements.send(tuple(settlements))

    async def _claim(
        self, candidates: Sequence[Candidate], settlements: list[Settlement]
    ) -> list[Outcome]:
        """Claim, and let workers start what may. Returns what came of attempts that do not start;
        what was not claimed goes to `settlements`."""
        leases = [candidate.lease for candidate in candidates]
        asked_at = trio.current_time()
        verdicts = await self._claims.claim(
            leases,
            is_stopping=lambda: self._stopping,
            is_cut_short=lambda: self._is_cut_short,
        )
        self._demand.claim_took(trio.current_time() - asked_at)
        begun: list[_Begun] = []
        # No checkpoint from here to the end: what the lease keeper says of a lease is either seen
        # by `_begin`, or finds the attempt there.
        strictly: list[Lease] = []
        for candidate, verdict in zip(candidates, verdicts, strict=True):
            if isinstance(verdict, NotAhead):
                candidate.lease.claimed_ahead = False
                strictly.append(candidate.lease)
                continue
            if not isinstance(verdict, Started):
                if isinstance(verdict, Exhausted) and self._feed is not None:
                    self._feed.changed(verdict.task)
                settlements.append(self._unstarted.settlement(candidate.lease, verdict))
                continue
            payload = self._types.payload_of(verdict.task, candidate.checked)
            attempt = self._begin(candidate.lease, verdict, payload)
            if attempt is None:
                settlements.append(self._unstarted.settlement(candidate.lease, DuplicateDelivery()))
                continue
            begun.append((attempt, candidate.to_fail))
        self._in_hand = []
        self._buffer.hold_for_worker(strictly)
        return self._hand_over(begun)

    async def _start_claimed(self) -> None:
        """What was claimed together with its receive."""
        leases = self._already_claimed.take()
        started = [lease.started for lease in leases if lease.started is not None]
        if not started:
            return
        self._in_hand = leases
        if not await self._already_claimed.are_noted():
            self._stopping = True
            return
        checks = await self._types.check_started([each.task for each in started])
        begun: list[_Begun] = []
        for lease, claim, checked in zip(leases, started, checks, strict=True):
            refused = None
            if checked.refusal is not None:
                refused = checked.refusal, self._types.give_back(claim.task, checked.refusal)
            attempt = self._begin(lease, claim, checked.payload)
            if attempt is not None:  # no attempt is claimed twice
                begun.append((attempt, refused))
        self._in_hand = []
        for outcome in self._hand_over(begun):
            await self._channels.outcomes.send(outcome)

    def _begin(self, lease: Lease, started: Started, payload: Any) -> Attempt | None:
        """None: this engine has begun it before."""
        task = started.task
        attempt = Attempt(task, lease, payload)
        if not self._claims.begin(attempt):
            return None
        self._claimed += 1
        if self._feed is not None and self._feed.is_wanted:
            self._feed.changed(task)
        if started.takeover:
            self._taken_over += 1
            log_silence(task, "starting it again")
        lease.attempt = attempt
        if lease.lost:
            attempt.abort(AbortReason.LEASE_LOST)
        # The row says it where the cancel came between two tries of the claim.
        elif lease.cancel_asked or task.cancel_requested:
            attempt.abort(AbortReason.CANCELLED)
        return attempt

    def _hand_over(self, begun: Sequence[_Begun]) -> list[Outcome]:
        """Let workers start what may. Returns what came of the others."""
        outcomes: list[Outcome] = []
        fit: list[Attempt] = []
        for attempt, to_fail in begun:
            if self._stopping:
                self._returned += 1
                outcomes.append(Interrupted(attempt))
            elif refused := to_fail or self._types.after_claim(attempt.task):
                outcomes.append(Errored(attempt, *refused))
            else:
                fit.append(attempt)
        postponed = self._isolation.postpone(fit)
        outcomes += postponed.values()
        for attempt in fit:
            if attempt not in postponed and (interrupted := self._start(attempt)):
                outcomes.append(interrupted)
        return outcomes

    def _start(self, attempt: Attempt) -> Interrupted | None:
        """None: a worker starts it."""
        try:
            self._channels.deliveries.send_nowait(attempt)
        except trio.BrokenResourceError:  # all workers have ended, and so does the engine
            return Interrupted(attempt)
        self._demand.handed_over()
        self._buffer.started(attempt.task.type)
        return None

    # --- giving back ------------------------------------------------------------------------

    async def _give_back_unclaimed(self) -> None:
        """Of what was only leased the store need not even know that it was here."""
        self._stopping = True
        self._note_waiting_events()
        await self._take_back()
        in_hand, self._in_hand = self._in_hand + self._already_claimed.take(), []
        leases = [one for one in in_hand if one.attempt is None]
        for lease in leases:
            if lease.started is not None:
                lease.attempt = Attempt(lease.started.task, lease)
                await self._channels.outcomes.send(Interrupted(lease.attempt))
        unclaimed = [lease for lease in leases if lease.started is None]
        unclaimed += self._buffer.take_all()
        self._returned += len(leases) + len(unclaimed)
        if unclaimed:
            await self._channels.settlements.send(tuple(map(Release, unclaimed)))
