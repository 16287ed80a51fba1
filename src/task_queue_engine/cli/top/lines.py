"""An overview as lines of text: the same in a terminal, in a file and under `watch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from task_queue_engine.cli.output import Table, printable, seconds_in_words
from task_queue_engine.cli.top.overview import Measured, Overview, Spread, TypeNumbers
from task_queue_engine.worker import RunningTask, Worker

_BARS = "▁▂▃▄▅▆▇█"
_MOST_TYPES = 20
_MOST_WORKERS = 10


class Style(Enum):
    PLAIN = auto()
    TITLE = auto()
    HEADER = auto()
    BAD = auto()
    SELECTED = auto()


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    style: Style = Style.PLAIN
    task_id: str | None = None
    """The task that the line is about, where it can be selected."""


class SortBy(Enum):
    """What the types are sorted by; the largest first, but for names."""

    NAME = "name"
    ENDED = "ended"
    FAILED = "failed"
    WAIT = "wait"
    RUN = "run"

    def next(self) -> SortBy:
        all_of_them = list(SortBy)
        return all_of_them[(all_of_them.index(self) + 1) % len(all_of_them)]


def summary(seen: Overview) -> list[Line]:
    """What there is, and how fast it comes and goes."""
    dead = seen.dead_letter_count
    oldest = seen.oldest_age_seconds
    due = "" if oldest is None or not seen.waiting else f", the oldest for {short(oldest)}"
    rates = seen.rates
    if rates is None:
        flow = "rates are known after the next look"
    else:
        flow = (
            f"{rates.arriving:.3g}/s come, {rates.ending:.3g}/s end, "
            f"{rates.failing:.3g}/s fail (last {rates.seconds:.0f} s) {_plot(seen.ending)}"
        ).rstrip()
    working = [worker for worker in seen.workers if worker.slots]
    busy = sum(worker.busy for worker in working)
    slots = sum(worker.slots for worker in working)
    lost = f", {seen.lost_workers} died within the hour" if seen.lost_workers else ""
    total = sum(
        (
            seen.pending_tasks,
            seen.processing_tasks,
            seen.completed_tasks,
            seen.failed_tasks,
            seen.cancelled_tasks,
        )
    )
    return [
        Line(
            f"Queue {printable(seen.queue)}: {seen.waiting:,} wait{due}; {seen.delayed:,} delayed, "
            f"{seen.in_flight:,} in flight, {dead:,} dead letter{'' if dead == 1 else 's'}"
        ),
        Line(
            f"Tasks: {total:,}; {seen.pending_tasks:,} pending, {seen.processing_tasks:,} "
            f"processing, {seen.completed_tasks:,} completed, {seen.failed_tasks:,} failed, "
            f"{seen.cancelled_tasks:,} cancelled"
        ),
        Line(f"Flow: {flow}"),
        Line(
            f"Workers: {len(working)}, {busy} of {slots} slots busy{lost}",
            Style.BAD if seen.lost_workers or not working else Style.PLAIN,
        ),
    ]


def details(seen: Overview, *, sort: SortBy = SortBy.FAILED, only: str = "") -> list[Line]:
    """Types, workers, what runs, what failed, dead letters.

    Args:
        only: of types that have this in their name, whatever its case.
    """

    def wanted(task_type: str) -> bool:
        return only.casefold() in task_type.casefold()

    running = [
        (worker, task) for worker in seen.workers for task in worker.running if wanted(task.type)
    ]
    running.sort(key=lambda pair: pair[1].since)
    failures = [one for one in seen.failures if wanted(one.type)]
    dead = [one for one in seen.dead_letters if wanted(one.task_type)]
    return [
        *_types([one for one in seen.types if wanted(one.type)], seen.measured, sort),
        *_workers(seen),
        *_section(
            "Running, the longest first",
            ("TASK", "TYPE", "ATTEMPT", "FOR", "WORKER"),
            [_running_row(worker, task, seen.at) for worker, task in running],
            [task.task_id for _, task in running],
        ),
        *_section(
            "Newest failures",
            ("TASK", "TYPE", "AGO", "FAILED ATTEMPTS", "ERROR"),
            [
                (
                    one.task_id,
                    one.type,
                    _ago(one.at, seen.at),
                    str(one.failed_attempts),
                    "" if one.error is None else one.error.in_words,
                )
                for one in failures
            ],
            [one.task_id for one in failures],
        ),
        *_section(
            "Dead letters",
            ("TASK", "TYPE", "AGO", "ATTEMPTS", "REASON"),
            [
                (
                    one.task_id,
                    one.task_type or "?",
                    _ago(one.at, seen.at),
                    str(one.attempts),
                    one.reason,
                )
                for one in dead
            ],
            [one.task_id for one in dead],
        ),
    ]


def short(seconds: float) -> str:
    """In a few characters: "3.2 ms", "1.5 s", "12 min"."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else seconds_in_words(seconds)


def _is_idle(one: TypeNumbers) -> bool:
    """Nothing of it is known but that there is such a type."""
    return not (one.running or one.ended_per_second or one.failed or one.retried or one.run)


def _types(rows: Sequence[TypeNumbers], measured: Measured, sort: SortBy) -> list[Line]:
    by_server = measured is Measured.BY_SERVER
    source = "last minute" if by_server else "by the newest that completed"
    rows = [one for one in rows if not _is_idle(one)]
    shown = sorted(sorted(rows, key=lambda one: one.type), key=_SORT_KEYS[sort])[:_MOST_TYPES]
    more = f", {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    return _section(
        f"Types, {source}, by {sort.value}{more}",
        (
            "TYPE",
            "RUNNING",
            "ENDED/S",
            "FAILED",
            "RETRIED",
            "WAIT P50",
            "WAIT P95",
            "RUN P50",
            "RUN P95",
        ),
        [
            (
                one.type,
                str(one.running),
                "-" if one.ended_per_second is None else f"{one.ended_per_second:.3g}",
                str(one.failed),
                "-" if one.retried is None else str(one.retried),
                *_both(one.wait),
                *_both(one.run),
            )
            for one in shown
        ],
        bad=[bool(one.failed) for one in shown],
    )


_SORT_KEYS = {
    SortBy.NAME: lambda one: one.type,
    SortBy.ENDED: lambda one: -(one.ended_per_second or 0.0),
    SortBy.FAILED: lambda one: -one.failed,
    SortBy.WAIT: lambda one: -(one.wait.p95 if one.wait else 0.0),
    SortBy.RUN: lambda one: -(one.run.p95 if one.run else 0.0),
}


def _both(spread: Spread | None) -> tuple[str, str]:
    return ("-", "-") if spread is None else (short(spread.p50), short(spread.p95))


def _workers(seen: Overview) -> list[Line]:
    workers = seen.workers
    shown = sorted(workers, key=lambda worker: -worker.busy)[:_MOST_WORKERS]
    more = f", {len(shown)} of {len(workers)}, the busiest" if len(workers) > len(shown) else ""
    return _section(
        f"Workers{more}",
        ("WORKER", "STATE", "BUSY", "LAG", "MEMORY", "UP", "SEEN"),
        [
            (
                worker.id,
                worker.state,
                f"{worker.busy}/{worker.slots}" if worker.slots else "- (API only)",
                f"{worker.loop_lag_seconds * 1000:.0f} ms",
                f"{worker.memory_bytes / 2**20:.0f} MiB",
                _ago(worker.started_at, seen.at),
                f"{_ago(worker.last_seen, seen.at)} ago",
            )
            for worker in shown
        ],
    )


def _running_row(worker: Worker, task: RunningTask, now: datetime) -> tuple[str, ...]:
    return (task.task_id, task.type, str(task.attempt), _ago(task.since, now), worker.id)


def _section(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    task_ids: Sequence[str] = (),
    bad: Sequence[bool] = (),
) -> list[Line]:
    """A blank line, the title, and the table below it; the title alone says that there is none."""
    if not rows:
        return [Line(""), Line(f"{title}: none", Style.TITLE)]
    head, *texts = Table(header).text(rows).split("\n")
    return [
        Line(""),
        Line(title, Style.TITLE),
        Line(head, Style.HEADER),
        *(
            Line(
                text,
                Style.BAD if bad and bad[number] else Style.PLAIN,
                task_ids[number] if task_ids else None,
            )
            for number, text in enumerate(texts)
        ),
    ]


def _ago(then: datetime, now: datetime) -> str:
    # Of another host's clock, which may be ahead.
    return seconds_in_words(max(0.0, (now - then).total_seconds()))


def _plot(values: Sequence[float]) -> str:
    most = max(values, default=0.0)
    if most <= 0:
        return ""
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in values)
