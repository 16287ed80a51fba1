"""The whole engine in one place: which channels there are, and which actor holds which end.

    engine.submit ─ submissions ─> Submitter ──> submit: the row, then the message
                                                                      │
    Poller <──────────────────────── take ── queue <──────────────────┘
      │ ^ room (places for what is taken: free workers, and what may wait)
      v │
    Claimer ──> store: claim, as many as workers are free, and ahead what proved short
      │ ^ claim events (leased, worker free, recording)
      v │
    deliveries ─> Workers ─ outcomes ─> StatusWriter ──> finish: record, and settle where that
       (claimed)                             │            is one transaction
                                             └ settlements ─> Acker ──> queue
    lease events (acquired, settled, cancel asked) ──> LeaseKeeper ──> stops attempts
    Scheduler, Reconciler, Metrics, Presence run beside the line and hold nothing

From the poller to the acker it is a `Line` (engine/line.py), which an engine that runs no tasks
does not have; it is wired here all the same. The end is the same flow, ended at the top:
`line.stop_taking_work()` ends poller and claimer, which closes `deliveries`; the last worker to
finish closes `outcomes`; the writer flushes and closes `settlements`; the acker drains. Every actor
closes the ends it was given. The steps around that are engine/shutdown.py. What is asked from
outside (cancel, retry, redrive) comes in through engine/commands.py; engine/engine.py builds all
this and answers /ready.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from task_queue_engine.actors.acker import Acker
from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.claimer import Claimer
from task_queue_engine.actors.claimer_ends import ClaimerChannels
from task_queue_engine.actors.feed import Feed
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.lease_keeper import LeaseKeeper
from task_queue_engine.actors.messages import (
    Attempt,
    CancelAsked,
    ClaimEvent,
    LeaseEvent,
    Outcome,
    Room,
    Settlement,
    SubmitRequest,
)
from task_queue_engine.actors.metrics import Metrics
from task_queue_engine.actors.pace import Pace
from task_queue_engine.actors.poller import Poller, PollerChannels
from task_queue_engine.actors.presence import Presence
from task_queue_engine.actors.reconciler import Reconciler
from task_queue_engine.actors.scheduler import Scheduler
from task_queue_engine.actors.status_writer import OnRecorded, StatusWriter
from task_queue_engine.actors.submitter import Submitter
from task_queue_engine.actors.type_check import TypeCheck
from task_queue_engine.actors.warmer import Warmer
from task_queue_engine.actors.worker import Worker
from task_queue_engine.backends.base import Backend, NotifyingBackend, TaskChange
from task_queue_engine.clock import Clock
from task_queue_engine.config import Settings
from task_queue_engine.engine.instruments import Instruments
from task_queue_engine.engine.line import Actor, Line
from task_queue_engine.engine.supervisor import Supervisor
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.registry import RunsIn, TaskRegistry
from task_queue_engine.task import Task
from task_queue_engine.tracing import Tracing
from task_queue_engine.worker import Worker as WorkerRow

# A due task is sent this many seconds ahead, with the rest of its delay on the message; the look
# into the due index comes often enough to never miss the moment.
_SCHEDULE_LEAD = 30.0
_SCHEDULE_EVERY = 5.0
# A row younger than this many lease times may simply be between two steps.
_RECONCILE_AFTER_LEASES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """What the pipeline is built from."""

    registry: TaskRegistry
    settings: Settings
    backend: Backend
    clock: Clock
    runner: HandlerRunner
    health: ActorHealth
    instruments: Instruments
    worker_name: str
    identity: WorkerRow
    """As others see this process."""
    consume: bool
    """False: submissions only; no `Line`."""
    housekeeping: bool
    """False: no scheduler, no reconciler."""
    on_start: Callable[[Attempt], None] | None
    on_recorded: OnRecorded
    tracing: Tracing | None
    feed: Feed
    rng: random.Random


class Pipeline:
    """The actors, wired. `run` runs them; what ends them is `Shutdown.carry_out`, by the handles
    that stand first here."""

    def __init__(self, config: PipelineConfig) -> None:
        self.senders = trio.CancelScope()
        """Around what sends tasks on its own account: scheduler and reconciler."""
        self.dry = trio.Event()
        """Set when submitter, senders and line have ended."""
        self.beside = trio.CancelScope()
        """Around lease keeper, metrics, presence and what hears other processes, which outlive the
        line."""
        self.everything = trio.CancelScope()
        self.ended = trio.Event()
        """Set when all have ended."""

        self._config = config
        settings, backend = config.settings, config.backend
        times = config.instruments.backend_times
        store, queue = times.store(backend.store), times.queue(backend.queue(settings.queue))
        # Submissions: a few may wait while a batch is being written, the rest feel back-pressure.
        self.submissions, submissions_in = trio.open_memory_channel[SubmitRequest](store.max_batch)
        # Lease events never make the line wait: the keeper takes them while a renewal is under way,
        # and this is more than come in between two of its turns.
        self._lease_events, lease_events_in = trio.open_memory_channel[LeaseEvent](256)

        self.submitter = Submitter(
            submit=times.submit(backend.submit),
            store=store,
            queue_of=backend.queue,
            retry=self._retry("submitter"),
            submissions=submissions_in,
            clock=config.clock,
        )
        self.scheduler = Scheduler(
            store=store,
            queue=queue,
            interval=_SCHEDULE_EVERY,
            lead=min(_SCHEDULE_LEAD, queue.max_delay),
            retry=self._retry("scheduler"),
            clock=config.clock,
        )
        self.reconciler = Reconciler(
            backend=backend,
            queue=settings.queue,
            interval=settings.reconcile_interval,
            min_age=_RECONCILE_AFTER_LEASES * settings.visibility_timeout,
            retention=settings.retention,
            retry=self._retry("reconciler"),
            rng=config.rng,
            clock=config.clock,
        )
        self.metrics = Metrics(
            store=store,
            queue=queue,
            interval=settings.metrics_interval,
            health=config.health,
            runs=config.instruments.tasks.run_seconds,
        )
        self.lease_keeper = LeaseKeeper(
            queue=queue,
            store=store,
            visibility=settings.visibility_timeout,
            cancel_poll=settings.cancel_poll,
            health=config.health,
            events=lease_events_in,
        )
        self.line = line = self._build_line() if config.consume else None
        # What only visits is no worker, and an operator who looks something up writes nothing.
        self.presence = (
            Presence(
                workers=backend.workers,
                identity=config.identity,
                running=line.running if line else list,
                lag=config.instruments.loop_lag,
                clock=config.clock,
                rng=config.rng,
            )
            if config.consume or config.housekeeping
            else None
        )

    def _build_line(self) -> Line:
        config, settings = self._config, self._config.settings
        times = config.instruments.backend_times
        store = times.store(config.backend.store)
        queue = times.queue(config.backend.queue(settings.queue))
        steps = times.steps(config.backend.steps(settings.queue))
        # Bounded by the claimer: one for every worker, and what it claims ahead of them.
        deliveries_out, deliveries_in = trio.open_memory_channel[Attempt](math.inf)
        # A batch may gather while one is being written: workers go on meanwhile.
        outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](steps.max_batch)
        settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](0)
        # Bounded by what is on its way: no more is received than there is room for, and a worker
        # says that it is free once for every attempt. So sending never waits. Of room the latest
        # counts, and it is said once for every batch.
        claim_events_out, claim_events_in = trio.open_memory_channel[ClaimEvent](math.inf)
        wishes_out, wishes_in = trio.open_memory_channel[None](math.inf)
        room_out, room_in = trio.open_memory_channel[Room](math.inf)

        poller = Poller(
            queue=queue,
            steps=steps,
            visibility=settings.visibility_timeout,
            poll_wait=settings.poll_wait,
            retry=self._retry("poller"),
            channels=PollerChannels(
                room=room_in,
                claim_events=claim_events_out.clone(),
                outcomes=outcomes_out.clone(),
                settlements=settlements_out.clone(),
                leases=self._lease_events.clone(),
            ),
        )
        with claim_events_out, deliveries_in, outcomes_out:
            claimer = Claimer(
                queue=queue,
                store=store,
                clock=config.clock,
                worker_name=config.worker_name,
                visibility=settings.visibility_timeout,
                retry=self._retry("claimer"),
                type_check=TypeCheck(
                    registry=config.registry,
                    checks=config.runner.checks,
                    clock=config.clock,
                    rng=config.rng,
                    fail_after=settings.unknown_type_after,
                ),
                pace=Pace(workers=settings.worker_count, fixed=settings.prefetch),
                feed=config.feed,
                places={RunsIn.THREAD: settings.threads, RunsIn.PROCESS: settings.processes},
                ready_processes=config.runner.ready_processes,
                channels=ClaimerChannels(
                    claim_events=claim_events_in,
                    room=room_out,
                    deliveries=deliveries_out,
                    handed_over=deliveries_in.clone(),
                    outcomes=outcomes_out.clone(),
                    wishes=wishes_out,
                    settlements=settlements_out.clone(),
                ),
            )
            warmer = Warmer(
                make_ready=config.runner.make_process_ready,
                wishes=wishes_in,
                claim_events=claim_events_out.clone(),
            )
            workers = tuple(
                Worker(
                    registry=config.registry,
                    runner=config.runner,
                    clock=config.clock,
                    rng=config.rng,
                    claim_events=claim_events_out.clone(),
                    deliveries=deliveries_in.clone(),
                    outcomes=outcomes_out.clone(),
                    log_lines=settings.task_log_lines,
                    on_start=config.on_start,
                    tracing=config.tracing,
                    feed=config.feed,
                )
                for _ in range(settings.worker_count)
            )
            status_writer = StatusWriter(
                steps=steps,
                max_delay=queue.max_delay,
                linger=settings.batch_linger,
                retry=self._retry("status_writer"),
                outcomes=outcomes_in,
                settlements=settlements_out,
                leases=self._lease_events.clone(),
                claim_events=claim_events_out.clone(),
                clock=config.clock,
                on_recorded=config.on_recorded,
            )
        acker = Acker(
            queue=queue,
            clock=config.clock,
            retry=self._retry,
            settlements=settlements_in,
            leases=self._lease_events.clone(),
        )
        return Line(
            poller=poller,
            claimer=claimer,
            warmer=warmer,
            workers=workers,
            status_writer=status_writer,
            acker=acker,
        )

    def _retry(self, actor: str) -> BackendRetry:
        return BackendRetry(actor=actor, health=self._config.health, rng=self._config.rng)

    def statistics(self) -> dict[str, Any]:
        """The actors' own frozen statistics, by actor; of the workers, one for each."""
        actors: dict[str, Actor] = {
            "submitter": self.submitter,
            "scheduler": self.scheduler,
            "reconciler": self.reconciler,
            "lease_keeper": self.lease_keeper,
            "metrics": self.metrics,
        }
        if self.presence is not None:
            actors["presence"] = self.presence
        if self.line is not None:
            actors |= self.line.actors
        return {name: actor.statistics() for name, actor in actors.items()}

    async def stop_cancelled(self, task: Task) -> None:
        """Stop the attempt of a task that was cancelled, if it runs here; when this returns, its
        handler has started already or does not start any more."""
        event = CancelAsked(task.id, task.attempt)
        try:
            try:
                self._lease_events.send_nowait(event)  # also for a caller that is cancelled now
            except trio.WouldBlock:
                await self._lease_events.send(event)
            await event.reply.get()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the engine ends, and so does what it runs

    async def run(
        self,
        supervisor: Supervisor,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run all actors until `Shutdown.carry_out` has ended them.

        Raises:
            ExceptionGroup: what actors died of.
        """
        with self.everything:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_beside, supervisor)
                async with trio.open_nursery() as line:
                    line.start_soon(self._run_senders, supervisor)
                    line.start_soon(supervisor.essential, "submitter", self.submitter.run)
                    for name, actor in (self.line.actors if self.line else {}).items():
                        line.start_soon(supervisor.essential, name, actor.run)
                    task_status.started()
                self.dry.set()
        self.ended.set()
        supervisor.raise_defects()

    async def _run_senders(self, supervisor: Supervisor) -> None:
        with self.senders:
            async with trio.open_nursery() as senders:
                if self._config.housekeeping:
                    senders.start_soon(supervisor.restartable, "scheduler", self.scheduler.run)
                    senders.start_soon(supervisor.restartable, "reconciler", self.reconciler.run)

    async def _run_beside(self, supervisor: Supervisor) -> None:
        with self.beside:
            async with trio.open_nursery() as beside:
                # Without the lease keeper nothing may go on running: a lost lease would not stop
                # its attempt.
                keep_leases = partial(
                    supervisor.essential, "lease_keeper", self.lease_keeper.run, at_once=True
                )
                beside.start_soon(keep_leases)
                beside.start_soon(supervisor.restartable, "metrics", self.metrics.run)
                if self.presence is not None:
                    beside.start_soon(supervisor.restartable, "presence", self.presence.run)
                backend = self._config.backend
                if self.line is not None and isinstance(backend, NotifyingBackend):
                    messages = partial(backend.hear_messages, self._config.settings.queue)
                    cancels = partial(
                        backend.hear_tasks,
                        TaskChange.CANCEL_ASKED,
                        self.lease_keeper.hear_of_cancels,
                        hears=bool,  # it is looked for as often where they are heard
                    )
                    beside.start_soon(supervisor.restartable, "doorbell", messages)
                    beside.start_soon(supervisor.restartable, "doorbell", cancels)
