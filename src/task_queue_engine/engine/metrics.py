"""What an engine says of itself in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from task_queue_engine.backends.base import BackendUsage, Counts, QueueDepth
from task_queue_engine.measures import Distribution, LabelledCount, Rates


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """Places in which a handler can run."""

    kind: str
    """ "worker": one for every task that runs at a time; "thread", "process": for handlers of that
    kind, which need one besides."""
    busy: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """One look at everything that can be counted, each with its scope: `counts` are of the whole
    backend, `depth` of one queue, and all else of the process that answers, since its start."""

    counts: Counts
    """Tasks of all queues, whichever process wrote them."""
    depth: QueueDepth
    """Messages of `queue`, and its dead letters."""
    queue: str = ""
    """The queue that this process works on: TQE_QUEUE."""
    workers: int
    """Of this process; those of other processes on the same queue are not known here."""
    active_workers: int
    """Those of `workers` that run a handler."""
    all_busy_for: float = 0.0
    """Seconds for which none of `workers` has waited for work: where messages wait too, their
    number (WORKER_COUNT) or this machine is what limits."""
    abandoned_threads: int = 0
    """Threads of this process whose `def` handler outlived its attempt and still runs."""
    counters: dict[str, int] = field(default_factory=dict)
    """Name in Prometheus style without prefix and `_total`: "attempts_started", "leases_lost"."""
    uptime: float = 0.0
    """Seconds."""
    given_back_by_type: dict[str, int] = field(default_factory=dict)
    """How often this process gave tasks back since it cannot run them, by type: it does not know
    the type, or refuses the payload."""
    usage: BackendUsage | None = None
    """What the backend was asked for by this process; None where it is not billed."""
    slots: tuple[Slots, ...] = ()
    """Of this process, by kind; none where it runs no tasks."""
    labelled_counters: tuple[LabelledCount, ...] = ()
    """As `counters`, each with labels: "attempts" by type, queue and outcome."""
    histograms: tuple[Distribution, ...] = ()
    """Of what this process has measured: "task_wait_seconds" by type, "event_loop_turn_seconds"."""


WITHIN = 60.0
"""Seconds in which all that waits is to be done: about what a new container takes to start, so that
more of them would come too late to help."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """For autoscalers. All but `seconds_per_task` is of the queue or store as a whole, so any one
    server says it."""

    queue: str
    backlog: int
    """Messages of `queue` that are due: a free worker would get one now."""
    in_flight: int
    """Messages of `queue` that are with a worker, of whatever process."""
    oldest_age_seconds: float | None
    """For which the one that has waited longest has been due; null where the queue cannot say:
    SQS."""
    arrival_rate: float
    """Tasks a second that came to wait, over the last minute; of all queues of the store."""
    service_rate: float
    """Tasks a second that ended, over the last minute; of all queues of the store."""
    seconds_per_task: float | None
    """For which a handler ran in the process that answers, on average over the last minute; null
    where none did."""
    wanted_slots: int
    """So many tasks should run at a time, by all processes together; divided by WORKER_COUNT, so
    many processes are wanted."""


def scale(queue: str, depth: QueueDepth, rates: Rates, *, worker_count: int) -> Scale:
    """`wanted_slots` is what is there and what comes, over what one slot does in `WITHIN` seconds:
    (backlog + in_flight + arrival_rate * 60) * min(1, seconds_per_task / 60). A task that takes
    longer than that needs a slot to itself. Where it is not known how long one takes (no handler
    has ended here: all are long, or none runs here), one slot for each that is in flight, and one
    process's worth more where others wait."""
    open_tasks = depth.due + depth.in_flight
    if rates.seconds_per_task is None:
        wanted = depth.in_flight + min(depth.due, worker_count)
    else:
        coming = rates.arriving * WITHIN
        share = min(1.0, rates.seconds_per_task / WITHIN)
        # Rounded, so that a sum of fractions does not make one more of 2.0000000001.
        wanted = math.ceil(round((open_tasks + coming) * share, 6))
    return Scale(
        queue=queue,
        backlog=depth.due,
        in_flight=depth.in_flight,
        oldest_age_seconds=None if depth.oldest_age is None else round(depth.oldest_age, 3),
        arrival_rate=round(rates.arriving, 3),
        service_rate=round(rates.ending, 3),
        seconds_per_task=(
            None if rates.seconds_per_task is None else round(rates.seconds_per_task, 6)
        ),
        wanted_slots=max(wanted, min(1, open_tasks)),
    )
