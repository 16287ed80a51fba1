"""What is known of a queue, made of the looks of the last minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

import msgspec

from task_queue_engine.cli.top.looks import Failure, Look, Times, measures_all
from task_queue_engine.engine.views import DeadLetterView
from task_queue_engine.measures import Distribution, quantile
from task_queue_engine.worker import Worker

WINDOW = 60.0
"""Seconds: rates are of so long, as those of /scale, or of as much of it as was looked at."""

_ENDS = ("succeeded", "failed", "cancelled")


class Measured(StrEnum):
    """Where the numbers of types come from."""

    BY_SERVER = "server"
    """Its counters and histograms: of all tasks, over the last minute, or since it began where none
    has ended in that time."""
    OF_NEWEST = "newest tasks"
    """A page of those that completed; rates are shares of the whole."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    p50: float
    p95: float


class TypeNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """Of one task type."""

    type: str
    running: int = 0
    ended_per_second: float | None = None
    failed: int = 0
    """Tasks that failed within the last minute; of tasks that are listed, 50 at most."""
    retried: int | None = None
    """Attempts that failed and are to be tried again, in that time; None: not known."""
    wait: Spread | None = None
    run: Spread | None = None


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks a second over the last `seconds`; none where nothing was looked at before."""

    seconds: float
    arriving: float
    ending: float
    failing: float


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `tqe top` shows; encoded with msgspec it is what `tqe top --json` prints."""

    at: datetime
    queue: str
    waiting: int
    delayed: int
    in_flight: int
    oldest_age_seconds: float | None
    pending_tasks: int
    processing_tasks: int
    completed_tasks: int
    failed_tasks: int
    cancelled_tasks: int
    dead_letter_count: int
    rates: Rates | None
    ending: tuple[float, ...]
    """Tasks that ended a second, between each look and the next."""
    measured: Measured
    types: tuple[TypeNumbers, ...]
    workers: tuple[Worker, ...]
    lost_workers: int
    failures: tuple[Failure, ...]
    dead_letters: tuple[DeadLetterView, ...]


class History:
    """The looks of the last minute."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def add(self, look: Look) -> Overview:
        looks = self._looks
        if looks and look.metrics.uptime < looks[-1].metrics.uptime and _is_server(look):
            # Another process answers, with counters of its own.
            looks.clear()
        looks.append(look)
        while len(looks) > 2 and looks[1].moment <= look.moment - WINDOW:
            looks.popleft()
        return overview_of(looks)


def _is_server(look: Look) -> bool:
    return measures_all(look.metrics, look.workers)


def overview_of(looks: Sequence[Look]) -> Overview:
    """Of looks that were taken one after the other, at least one."""
    look = looks[-1]
    metrics, workers = look.metrics, look.workers
    counts, depth = metrics.counts, metrics.depth
    rates = _rates(looks)
    by_server = _is_server(look)
    return Overview(
        at=look.at,
        queue=metrics.queue,
        waiting=depth.due,
        delayed=depth.delayed,
        in_flight=depth.in_flight,
        oldest_age_seconds=depth.oldest_age,
        pending_tasks=counts.pending,
        processing_tasks=counts.processing,
        completed_tasks=counts.completed,
        failed_tasks=counts.failed,
        cancelled_tasks=counts.cancelled,
        dead_letter_count=depth.dead,
        rates=rates,
        ending=tuple(
            _ended(one, next_one) / max(next_one.moment - one.moment, 0.001)
            for one, next_one in pairwise(looks)
        ),
        measured=Measured.BY_SERVER if by_server else Measured.OF_NEWEST,
        types=tuple(_measured_types(looks) if by_server else _sampled_types(look, rates)),
        workers=workers.workers,
        lost_workers=workers.lost,
        failures=look.failures,
        dead_letters=tuple(map(DeadLetterView.of, look.dead_letters)),
    )


def _rates(looks: Sequence[Look]) -> Rates | None:
    first, last = looks[0], looks[-1]
    seconds = last.moment - first.moment
    if seconds <= 0:
        return None
    ended = sum(_ended(one, next_one) for one, next_one in pairwise(looks))
    failed = sum(
        max(0, next_one.metrics.counts.failed - one.metrics.counts.failed)
        for one, next_one in pairwise(looks)
    )
    arrived = ended + _open(last) - _open(first)
    return Rates(
        seconds=round(seconds, 3),
        arriving=max(0.0, arrived / seconds),
        ending=ended / seconds,
        failing=failed / seconds,
    )


def _open(look: Look) -> int:
    return look.metrics.counts.pending + look.metrics.counts.processing


def _ended(look: Look, later: Look) -> int:
    # Ended tasks are deleted after their retention, which is no negative end.
    before, after = look.metrics.counts, later.metrics.counts
    return max(0, after.total - _open(later) - before.total + _open(look))


# --- by type --------------------------------------------------------------------------------


def _measured_types(looks: Sequence[Look]) -> list[TypeNumbers]:
    first, last = looks[0], looks[-1]
    seconds = last.moment - first.moment
    before, after = _attempts(first), _attempts(last)
    spreads = {
        name: _spreads(first.metrics.histograms, last.metrics.histograms, name)
        for name in ("task_wait_seconds", "task_run_seconds")
    }
    running = _running(last)

    def within(name: str, outcome: str) -> int:
        return after[name, outcome] - before[name, outcome]

    return [
        TypeNumbers(
            type=name,
            running=running[name],
            ended_per_second=(
                sum(within(name, outcome) for outcome in _ENDS) / seconds if seconds > 0 else None
            ),
            failed=within(name, "failed"),
            retried=within(name, "retried"),
            wait=spreads["task_wait_seconds"].get(name),
            run=spreads["task_run_seconds"].get(name),
        )
        for name in sorted({*(name for name, _ in after), *running})
    ]


def _attempts(look: Look) -> Counter[tuple[str, str]]:
    """By type and outcome."""
    return Counter(
        {
            (one.labels["task_type"], one.labels["outcome"]): one.count
            for one in look.metrics.labelled_counters
            if one.name == "attempts"
        }
    )


def _spreads(
    before: Iterable[Distribution], after: Iterable[Distribution], name: str
) -> dict[str, Spread]:
    earlier = {one.labels["task_type"]: one for one in before if one.name == name}
    spreads: dict[str, Spread] = {}
    for one in after:
        if one.name != name or not one.count:
            continue
        task_type = one.labels["task_type"]
        if task_type in earlier and earlier[task_type].bounds == one.bounds:
            pairs = zip(one.counts, earlier[task_type].counts, strict=True)
            recent = tuple(now - then for now, then in pairs)
            if any(recent):
                one = msgspec.structs.replace(one, counts=recent)
        p50, p95 = quantile(one, 0.5), quantile(one, 0.95)
        if p50 is not None and p95 is not None:
            spreads[task_type] = Spread(p50=p50, p95=p95)
    return spreads


def _sampled_types(look: Look, rates: Rates | None) -> list[TypeNumbers]:
    running = _running(look)
    minute_ago = look.at - timedelta(seconds=WINDOW)
    failed = Counter(one.type for one in look.failures if one.at >= minute_ago)
    by_type: dict[str, list[Times]] = {}
    for one in look.times:
        by_type.setdefault(one.type, []).append(one)
    known = {name for worker in look.workers.workers for name in worker.types}
    return [
        TypeNumbers(
            type=name,
            running=running[name],
            ended_per_second=(
                None
                if rates is None or not look.times
                else max(0.0, rates.ending - rates.failing) * len(times) / len(look.times)
                + failed[name] / WINDOW
            ),
            failed=failed[name],
            wait=_spread(one.wait for one in times),
            run=_spread(one.run for one in times),
        )
        for name in sorted({*by_type, *running, *failed, *known})
        for times in [by_type.get(name, [])]
    ]


def _spread(values: Iterable[float | None]) -> Spread | None:
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    last = len(ordered) - 1
    return Spread(p50=ordered[last // 2], p95=ordered[round(last * 0.95)])


def _running(look: Look) -> Counter[str]:
    return Counter(task.type for worker in look.workers.workers for task in worker.running)
