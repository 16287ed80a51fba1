"""Claims what was received, as workers come free: PROCESSING means that a handler runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.claim_buffer import ClaimBuffer
from task_queue_engine.actors.crash_isolation import CrashIsolation
from task_queue_engine.actors.messages import (
    AbortReason,
    Attempt,
    ClaimEvent,
    Errored,
    Interrupted,
    Lease,
    Leased,
    Leave,
    Outcome,
    Release,
    Settlement,
    WorkerFree,
)
from task_queue_engine.actors.store_claims import StoreClaims
from task_queue_engine.actors.type_check import Checked, ClaimIt, FailIt, GiveBack, TypeCheck
from task_queue_engine.actors.unstarted import Unstarted, log_silence
from task_queue_engine.backends.base import TaskQueue, TaskStore
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import DuplicateDelivery, Started, crash_error
from task_queue_engine.registry import RunsIn
from task_queue_engine.retry import GiveUp, SnoozeUntil
from task_queue_engine.task import TaskError

logger = logging.getLogger("task_queue_engine.claimer")

# Seconds until a task that may not run beside another is looked at again: few claims for one that
# has killed its worker before, and not long for one that has not.
_ISOLATION_DELAY = 5.0


@dataclass(frozen=True, slots=True)
class ClaimerStatistics:
    claimed: int
    taken_over: int
    quarantined: int
    duplicates: int
    waiting: int
    """Received, and not claimed yet."""
    returned: int
    """Given back unstarted: at the stop, or since the store did not answer in time."""
    given_back_by_type: dict[str, int]
    """Given back since this worker cannot run them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimerChannels:
    """The ends that the claimer holds, and closes when it ends."""

    claim_events: trio.MemoryReceiveChannel[ClaimEvent]
    room: trio.MemorySendChannel[int]
    deliveries: trio.MemorySendChannel[Attempt]
    """With a place for every worker, so that handing over never waits."""
    outcomes: trio.MemorySendChannel[Outcome]
    settlements: trio.MemorySendChannel[tuple[Settlement, ...]]


@dataclass(slots=True, eq=False)
class _Candidate:
    """A lease whose claim is under way."""

    lease: Lease
    checked: Checked
    to_fail: tuple[TaskError, GiveUp] | None = None
    """It is claimed to be FAILED, and not to be run."""


class Claimer:
    """Holds what was received until a worker is free, then claims as many as workers are.

    What is received is only leased: a process that dies with a full buffer has cost no task an
    attempt, a cancel finds the task PENDING, and a stop gives messages back and writes nothing.
    While one claim is under way the next workers gather, so batches grow with the load.

    What would wait for a thread or a worker process is not claimed either (see `ClaimBuffer`).

    It tells the poller on `room` how many places there are: one for every free worker, one more
    whenever a message has come to nothing.
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
        channels: ClaimerChannels,
    ) -> None:
        self._max_delay = queue.max_delay
        self._store = store
        self._clock = clock
        self._retry = retry
        self._types = type_check
        self._channels = channels
        self._claims = StoreClaims(store=store, worker_name=worker_name, retry=retry)
        self._isolation = CrashIsolation()
        self._unstarted = Unstarted(clock=clock, visibility=visibility, max_delay=queue.max_delay)
        self._buffer = ClaimBuffer(runs_in=type_check.runs_in, places=places)
        # Of the batch under way, what has not come to anything yet.
        self._in_hand: list[Lease] = []
        self._free_workers = 0
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
            returned=self._returned + self._unstarted.returned,
            given_back_by_type=self._types.given_back,
        )

    def notes(self) -> tuple[str, ...]:
        """What a person should know who asks how this worker is."""
        return self._types.notes()

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
        with ends.claim_events, ends.room, ends.deliveries, ends.outcomes, ends.settlements:
            try:
                while leases := await self._next_batch():
                    await self._serve(leases)
            # A defect ends the engine. What is not known to have started goes back before.
            except Exception:
                await self._give_back_unclaimed()
                raise
            await self._give_back_unclaimed()

    # --- supply and demand ------------------------------------------------------------------

    async def _next_batch(self) -> list[Lease]:
        """What can be started now. Empty after `stop`."""
        self._note_waiting_events()
        while not self._stopping:
            most = min(self._free_workers, self._store.max_batch)
            if leases := self._buffer.take(most):
                return leases
            self._waiting = trio.CancelScope()
            with self._waiting:
                self._note_waiting_events(await self._channels.claim_events.receive())
        return []

    def _note_waiting_events(self, event: ClaimEvent | None = None) -> None:
        new_room = 0
        try:
            while True:
                if isinstance(event, Leased):
                    self._buffer.add(event.leases)
                elif isinstance(event, WorkerFree):
                    new_room += 1
                    if event.after is not None:
                        self._buffer.ended(event.after)
                event = self._channels.claim_events.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):  # not `suppress`, as this is for every batch
            pass
        self._free_workers += new_room
        self._make_room(new_room)

    def _make_room(self, places: int) -> None:
        if places and not self._stopping:
            try:
                self._channels.room.send_nowait(places)
            except trio.BrokenResourceError:  # the poller has ended, and so does the engine
                return

    # --- one batch --------------------------------------------------------------------------

    async def _serve(self, leases: list[Lease]) -> None:
        self._in_hand = leases
        settlements: list[Settlement] = []
        checks = await self._types.check([lease.delivery for lease in leases])
        candidates: list[_Candidate] = []
        refused: list[tuple[_Candidate, TaskError]] = []
        for lease, checked in zip(leases, checks, strict=True):
            if lease.lost:  # it was with another worker by now
                settlements.append(Leave(lease))
            elif lease.delivery.is_worn:
                settlements.append(Release(lease))  # as a fresh copy
            elif checked.refusal is None:
                candidates.append(_Candidate(lease, checked))
            else:
                refused.append((_Candidate(lease, checked), checked.refusal))
        if refused:
            settlements += await self._turn_away(refused, candidates)
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
            self._make_room(len(settlements))
            await self._channels.settlements.send(tuple(settlements))

    async def _turn_away(
        self, refused: Sequence[tuple[_Candidate, TaskError]], candidates: list[_Candidate]
    ) -> list[Settlement]:
        """Look at the rows of what this worker cannot run. What is to be claimed all the same joins
        `candidates`; returns what becomes of the others."""
        ids = [candidate.lease.delivery.task_id for candidate, _ in refused]
        try:
            tasks = await self._retry.call(
                lambda: self._store.get(ids), give_up=lambda: self._stopping
            )
        except BackendUnavailable:
            return []  # they are still in hand, and go back
        settlements: list[Settlement] = []
        for (candidate, refusal), task in zip(refused, tasks, strict=True):
            lease = candidate.lease
            match self._types.turn_away(task, refusal, lease.delivery, candidate.checked.data):
                case GiveBack(delay):
                    settlements.append(Release(lease, min(delay, self._max_delay)))
                case FailIt(reason):
                    candidate.to_fail = refusal, GiveUp(reason)
                    candidates.append(candidate)
                case ClaimIt():
                    candidates.append(candidate)
        return settlements

    async def _claim(
        self, candidates: Sequence[_Candidate], settlements: list[Settlement]
    ) -> list[Outcome]:
        """Claim, and let workers start what may. Returns what came of attempts that do not start;
        what was not claimed goes to `settlements`."""
        leases = [candidate.lease for candidate in candidates]
        verdicts = await self._claims.claim(
            leases,
            is_stopping=lambda: self._stopping,
            is_cut_short=lambda: self._is_cut_short,
        )
        outcomes: list[Outcome] = []
        # No checkpoint from here to the end: what the lease keeper says of a lease is either seen
        # by `_begin`, or finds the attempt there.
        for candidate, verdict in zip(candidates, verdicts, strict=True):
            if not isinstance(verdict, Started):
                settlements.append(self._unstarted.settlement(candidate.lease, verdict))
                continue
            attempt = self._begin(candidate, verdict)
            if attempt is None:
                settlements.append(self._unstarted.settlement(candidate.lease, DuplicateDelivery()))
                continue
            outcome = self._keep_from_starting(attempt, candidate) or self._hand_over(attempt)
            if outcome is not None:
                outcomes.append(outcome)
        self._in_hand = []
        self._make_room(len(outcomes))
        return outcomes

    def _begin(self, candidate: _Candidate, started: Started) -> Attempt | None:
        """None: this engine has begun it before."""
        task, lease = started.task, candidate.lease
        attempt = Attempt(task, lease, self._types.payload_of(task, candidate.checked))
        if not self._claims.begin(attempt):
            return None
        self._claimed += 1
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

    def _keep_from_starting(self, attempt: Attempt, candidate: _Candidate) -> Outcome | None:
        """None: let a worker start it."""
        task = attempt.task
        if self._stopping:
            self._returned += 1
            return Interrupted(attempt)
        refused = candidate.to_fail or self._types.after_claim(task)
        if refused is not None:
            return Errored(attempt, *refused)
        if not self._isolation.admit(attempt):
            run_at = self._clock.now() + timedelta(seconds=_ISOLATION_DELAY)
            error = task.error or crash_error(task.attempt, task.worker)
            return Errored(attempt, error, SnoozeUntil(run_at, _ISOLATION_DELAY))
        return None

    def _hand_over(self, attempt: Attempt) -> Interrupted | None:
        """None: a worker starts it."""
        try:
            self._channels.deliveries.send_nowait(attempt)
        except trio.BrokenResourceError:  # all workers have ended, and so does the engine
            return Interrupted(attempt)
        self._free_workers -= 1
        self._buffer.started(attempt.task.type)
        return None

    # --- giving back ------------------------------------------------------------------------

    async def _give_back_unclaimed(self) -> None:
        """The store need not even know that it was here."""
        self._stopping = True
        self._note_waiting_events()
        leases = [lease for lease in self._in_hand if lease.attempt is None]
        leases += self._buffer.take_all()
        self._in_hand = []
        self._returned += len(leases)
        if leases:
            await self._channels.settlements.send(tuple(map(Release, leases)))
