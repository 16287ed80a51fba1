"""The whole engine in one place: which channels there are, and which actor holds which end.

    engine.submit ─ submissions ─> Submitter ──> store: create ──> queue: send
                                                                      │
    Poller <───────────────────── receive ── queue <──────────────────┘
      │ ^ demand (one token for every delivery a worker can take)
      │ └──────────────────┐
      └─ deliveries ─> Workers ── ─ outcomes ─> StatusWriter ─ settlements ─> Acker ──> queue
           (claimed)
    lease events (acquired, settled, cancel asked) ──> LeaseKeeper ──> stops attempts
    Scheduler, Reconciler, Metrics run beside the line and hold nothing

Shutdown is the same flow, ended at the top: `poller.stop()` closes `deliveries`; the last worker
to finish closes `outcomes`; the writer flushes and closes `settlements`; the acker drains. Every
actor closes the ends it was given, so nobody has to be told.
"""

from __future__ import annotations

import logging
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
from task_queue_engine.actors.health import Health
from task_queue_engine.actors.lease_keeper import LeaseKeeper
from task_queue_engine.actors.messages import (
    Attempt,
    LeaseEvent,
    Outcome,
    Settlement,
    SubmitRequest,
)
from task_queue_engine.actors.metrics import Metrics
from task_queue_engine.actors.poller import Poller, PollerChannels
from task_queue_engine.actors.reconciler import Reconciler
from task_queue_engine.actors.scheduler import Scheduler
from task_queue_engine.actors.status_writer import OnRecorded, StatusWriter
from task_queue_engine.actors.submitter import Submitter
from task_queue_engine.actors.worker import Worker
from task_queue_engine.backends.base import Backend
from task_queue_engine.clock import Clock
from task_queue_engine.config import Settings
from task_queue_engine.engine.shutdown import Shutdown
from task_queue_engine.engine.supervisor import Run, Supervisor
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.registry import TaskRegistry

logger = logging.getLogger("task_queue_engine.pipeline")

# A due task is sent this many seconds ahead, with the rest of its delay on the message; the look
# into the due index comes often enough to never miss the moment.
_SCHEDULE_LEAD = 30.0
_SCHEDULE_EVERY = 5.0
# A row younger than this many lease times may simply be between two steps.
_RECONCILE_AFTER_LEASES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pipeline is built from."""

    registry: TaskRegistry
    settings: Settings
    backend: Backend
    clock: Clock
    runner: HandlerRunner
    health: Health
    shutdown: Shutdown
    worker_name: str
    consume: bool
    """False: submissions only; no poller, no workers."""
    housekeeping: bool
    """False: no scheduler, no reconciler."""
    on_start: Callable[[Attempt], None] | None
    on_recorded: OnRecorded
    rng: random.Random


class Pipeline:
    """The actors, wired. `run` ends when the line has run dry after a shutdown request."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        settings, backend = parts.settings, parts.backend
        store, queue = backend.store, backend.queue(settings.queue)
        # Submissions: a few may wait while a batch is being written, the rest feel back-pressure.
        self.submissions, submissions_in = trio.open_memory_channel[SubmitRequest](store.max_batch)
        # Lease events never make the line wait for a slow renewal.
        self._lease_events, lease_events_in = trio.open_memory_channel[LeaseEvent](256)

        self.submitter = Submitter(
            store=store,
            queue_of=backend.queue,
            retry=self._retry("submitter"),
            submissions=submissions_in,
            clock=parts.clock,
        )
        self.scheduler = Scheduler(
            store=store,
            queue_of=backend.queue,
            interval=_SCHEDULE_EVERY,
            lead=min(_SCHEDULE_LEAD, queue.max_delay),
            retry=self._retry("scheduler"),
            clock=parts.clock,
        )
        self.reconciler = Reconciler(
            backend=backend,
            queue=settings.queue,
            interval=settings.reconcile_interval,
            min_age=_RECONCILE_AFTER_LEASES * settings.visibility_timeout,
            retention=settings.retention,
            retry=self._retry("reconciler"),
            rng=parts.rng,
            clock=parts.clock,
        )
        self.metrics = Metrics(
            store=store, queue=queue, interval=settings.metrics_interval, health=parts.health
        )
        self.lease_keeper = LeaseKeeper(
            queue=queue,
            store=store,
            visibility=settings.visibility_timeout,
            cancel_poll=settings.cancel_poll,
            health=parts.health,
            events=lease_events_in,
        )
        self.poller: Poller | None = None
        self.workers: tuple[Worker, ...] = ()
        self.status_writer: StatusWriter | None = None
        self.acker: Acker | None = None
        self.finished = trio.Event()
        if parts.consume:
            self._build_line()

    def _build_line(self) -> None:
        parts, settings = self._parts, self._parts.settings
        store, queue = parts.backend.store, parts.backend.queue(settings.queue)
        deliveries_out, deliveries_in = trio.open_memory_channel[Attempt](settings.prefetch)
        outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](0)
        settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](0)
        # Tokens: never more than there are places for a delivery, so sending one never waits.
        demand_out, demand_in = trio.open_memory_channel[int](math.inf)
        if settings.prefetch:
            demand_out.send_nowait(settings.prefetch)

        leases_out = self._lease_events.clone()
        retry = self._retry("poller")
        self.poller = Poller(
            queue=queue,
            claimer=Claimer(
                queue=queue,
                store=store,
                clock=parts.clock,
                worker_name=parts.worker_name,
                visibility=settings.visibility_timeout,
                retry=retry,
                leases=leases_out,
            ),
            visibility=settings.visibility_timeout,
            poll_wait=settings.poll_wait,
            retry=retry,
            channels=PollerChannels(
                demand=demand_in,
                deliveries=deliveries_out,
                unstarted=deliveries_in.clone(),
                outcomes=outcomes_out.clone(),
                settlements=settlements_out.clone(),
                leases=leases_out,
            ),
        )
        with demand_out, deliveries_in, outcomes_out:
            self.workers = tuple(
                Worker(
                    registry=parts.registry,
                    runner=parts.runner,
                    clock=parts.clock,
                    rng=parts.rng,
                    demand=demand_out.clone(),
                    deliveries=deliveries_in.clone(),
                    outcomes=outcomes_out.clone(),
                    on_start=parts.on_start,
                )
                for _ in range(settings.worker_count)
            )
        self.status_writer = StatusWriter(
            store=store,
            max_delay=queue.max_delay,
            linger=settings.batch_linger,
            retry=self._retry("status_writer"),
            outcomes=outcomes_in,
            settlements=settlements_out,
            on_recorded=parts.on_recorded,
        )
        self.acker = Acker(
            queue=queue,
            clock=parts.clock,
            retry=self._retry("acker"),
            settlements=settlements_in,
            leases=self._lease_events.clone(),
        )

    def _retry(self, actor: str) -> BackendRetry:
        return BackendRetry(actor=actor, health=self._parts.health, rng=self._parts.rng)

    def statistics(self) -> dict[str, Any]:
        """The actors' own frozen statistics, by actor; of the workers, one for each."""
        actors: dict[str, Any] = {
            "submitter": self.submitter,
            "scheduler": self.scheduler,
            "reconciler": self.reconciler,
            "lease_keeper": self.lease_keeper,
            "metrics": self.metrics,
        }
        if self.poller and self.status_writer and self.acker:
            actors |= {
                "poller": self.poller,
                "status_writer": self.status_writer,
                "acker": self.acker,
            }
            actors |= {f"worker-{n}": worker for n, worker in enumerate(self.workers, start=1)}
        return {name: actor.statistics() for name, actor in actors.items()}

    def tell_lease_keeper(self, event: LeaseEvent) -> None:
        """Without waiting: a hint that gets lost is found in the store a little later."""
        try:
            self._lease_events.send_nowait(event)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all actors until a shutdown was requested and the line is dry, or its hard deadline
        is over.

        Raises:
            ExceptionGroup: what actors died of.
        """
        supervisor = Supervisor(shutdown=self._parts.shutdown, health=self._parts.health)
        with trio.CancelScope() as everything:
            async with trio.open_nursery() as beside:
                # Last to end: leases are kept until the acker is done. Without it nothing may go
                # on running, since nobody would notice whose lease is gone.
                keeper = partial(
                    supervisor.essential, "lease_keeper", self.lease_keeper.run, at_once=True
                )
                beside.start_soon(keeper)
                beside.start_soon(supervisor.restartable, "metrics", self.metrics.run)
                beside.start_soon(self._end_when_asked, everything)
                async with trio.open_nursery() as line:
                    line.start_soon(self._run_senders, supervisor)
                    line.start_soon(supervisor.essential, "submitter", self.submitter.run)
                    for name, run in self._line():
                        line.start_soon(supervisor.essential, name, run)
                    task_status.started()
                beside.cancel_scope.cancel()
        if everything.cancelled_caught:
            held = self.lease_keeper.statistics().held
            logger.warning(
                "the time to end is over with %d message(s) in hand that could not be settled: "
                "their tasks are taken over when the leases end",
                held,
            )
        self.finished.set()
        supervisor.raise_defects()

    async def _run_senders(self, supervisor: Supervisor) -> None:
        """What sends tasks on its own account, until the top of the line closes."""
        async with trio.open_nursery() as senders:
            if self._parts.housekeeping:
                senders.start_soon(supervisor.restartable, "scheduler", self.scheduler.run)
                senders.start_soon(supervisor.restartable, "reconciler", self.reconciler.run)
            await self._parts.shutdown.wait_requested()
            senders.cancel_scope.cancel()

    def _line(self) -> list[tuple[str, Run]]:
        if self.poller is None or self.status_writer is None or self.acker is None:
            return []
        return [
            ("poller", self.poller.run),
            *((f"worker-{n}", worker.run) for n, worker in enumerate(self.workers, start=1)),
            ("status_writer", self.status_writer.run),
            ("acker", self.acker.run),
        ]

    async def _end_when_asked(self, everything: trio.CancelScope) -> None:
        """The top of the line closes; then the clock runs."""
        shutdown = self._parts.shutdown
        await shutdown.wait_requested()
        self.submissions.close()
        if self.poller is not None:
            self.poller.stop()
        await shutdown.wait_grace_over()
        everything.deadline = trio.current_time() + shutdown.flush
        # Again and again: a worker may have taken one more just before the poller stopped.
        while True:
            for worker in self.workers:
                worker.interrupt()
            if self.poller is not None:
                self.poller.cut_short()
            await trio.sleep(0.1)
