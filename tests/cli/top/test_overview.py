"""The numbers of `tqe top`, made of looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from task_queue_engine.backends.base import Counts, DeadLetter, QueueDepth
from task_queue_engine.cli.top.lines import SortBy, details, summary
from task_queue_engine.cli.top.looks import Failure, Look, Times
from task_queue_engine.cli.top.overview import History, Measured, Overview, TypeNumbers
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.measures import Distribution, LabelledCount
from task_queue_engine.worker import RunningTask, Worker, WorkerList

START = datetime(2030, 1, 1, tzinfo=UTC)
BOUNDS = (1.0, 2.0, 4.0)


def look(seconds: float, *, counts: Counts, **members: Any) -> Look:
    at = START + timedelta(seconds=seconds)
    metrics = EngineMetrics(
        counts=counts,
        depth=members.pop("depth", QueueDepth(waiting=0, in_flight=0, dead=0)),
        queue="default",
        workers=members.pop("workers_here", 0),
        active_workers=0,
        uptime=members.pop("uptime", seconds),
        labelled_counters=members.pop("counters", ()),
        histograms=members.pop("histograms", ()),
    )
    nothing = {"workers": WorkerList(), "failures": (), "times": (), "dead_letters": ()}
    return Look(at=at, moment=seconds, metrics=metrics, **(nothing | members))


def worker(**members: Any) -> Worker:
    defaults = {"id": "w", "host": "h", "pid": 1, "version": "1", "slots": 5}
    return Worker(**(defaults | {"started_at": START, "last_seen": START} | members))


def seen(*looks: Look) -> Overview:
    history = History()
    for one in looks:
        overview = history.add(one)
    return overview


def test_rates_are_of_the_last_minute() -> None:
    first = look(0, counts=Counts(pending=10, completed=100))
    assert seen(first).rates is None
    second = look(10, counts=Counts(pending=20, completed=150, failed=10))
    rates = seen(first, second).rates
    assert rates is not None
    assert (rates.seconds, rates.arriving, rates.ending, rates.failing) == (10, 7, 6, 1)
    third = look(70, counts=Counts(pending=20, completed=210, failed=10))
    rates = seen(first, second, third).rates
    assert rates is not None
    assert (rates.seconds, rates.ending) == (60, 1)


def test_what_retention_deletes_is_no_negative_end() -> None:
    overview = seen(
        look(0, counts=Counts(completed=1000)),
        look(1, counts=Counts(completed=0)),
        look(2, counts=Counts(completed=4)),
    )
    assert overview.rates is not None
    assert (overview.rates.ending, overview.rates.arriving) == (2, 2)
    assert overview.ending == (0, 4)


def measured(succeeded: int, failed: int, buckets: tuple[int, ...]) -> dict[str, Any]:
    outcomes = {"succeeded": succeeded, "failed": failed, "retried": 2 * failed, "snoozed": 7}
    return {
        "counters": tuple(
            LabelledCount(
                name="attempts",
                labels={"queue": "default", "task_type": "a", "outcome": outcome},
                count=count,
            )
            for outcome, count in outcomes.items()
        ),
        "histograms": (
            Distribution(
                name="task_run_seconds",
                labels={"queue": "default", "task_type": "a"},
                bounds=BOUNDS,
                counts=buckets,
                sum=0.0,
            ),
        ),
        "workers_here": 5,
        "workers": WorkerList(
            workers=(worker(running=(RunningTask(task_id="1", type="a", attempt=1, since=START),)),)
        ),
    }


def test_a_server_that_does_all_measures_all() -> None:
    before = look(0, counts=Counts(), **measured(100, 5, (100, 0, 0, 0)))
    overview = seen(before, look(10, counts=Counts(), **measured(140, 15, (100, 0, 50, 0))))
    assert overview.measured is Measured.BY_SERVER
    (numbers,) = overview.types
    assert (numbers.type, numbers.running, numbers.ended_per_second) == ("a", 1, 5)
    assert (numbers.failed, numbers.retried) == (10, 20)
    assert numbers.run is not None
    assert (numbers.run.p50, numbers.run.p95) == (3, pytest.approx(3.9))
    # Where none has ended in that time: since the server began.
    (idle,) = seen(before).types
    assert idle.run is not None
    assert idle.run.p50 == 0.5


def test_numbers_of_another_process_are_not_compared() -> None:
    before = look(100, counts=Counts(), **measured(100, 5, (100, 0, 0, 0)))
    restarted = look(102, counts=Counts(), uptime=1, **measured(3, 0, (3, 0, 0, 0)))
    (numbers,) = seen(before, restarted).types
    assert (numbers.ended_per_second, numbers.failed) == (None, 0)


def test_without_such_a_server_it_goes_by_the_newest_tasks() -> None:
    times = [Times(type="a", wait=float(n), run=n / 10) for n in range(21)]
    failures = tuple(
        Failure(
            task_id=str(age),
            type="b",
            queue="default",
            at=START + timedelta(seconds=10 - age),
            failed_attempts=3,
            error=None,
        )
        for age in (5, 50, 70)
    )
    two = WorkerList(workers=(worker(id="1"), worker(id="2", types=("idle",))))
    pages: dict[str, Any] = {"times": tuple(times), "failures": failures, "workers": two}
    first = look(0, counts=Counts(), workers_here=5, **pages)
    overview = seen(first, look(10, counts=Counts(completed=50), workers_here=5, **pages))
    assert overview.measured is Measured.OF_NEWEST
    a, b, idle = overview.types
    assert (a.type, a.ended_per_second, a.failed, a.retried) == ("a", 5, 0, None)
    assert a.wait is not None
    assert (a.wait.p50, a.wait.p95) == (10, 19)
    assert (b.type, b.failed, b.run) == ("b", 2, None)
    assert idle.type == "idle"


def test_types_are_sorted_by_what_is_asked_and_idle_ones_left_out() -> None:
    empty = seen(look(0, counts=Counts()))
    overview = msgspec.structs.replace(
        empty,
        types=(
            TypeNumbers(type="idle"),
            TypeNumbers(type="a", ended_per_second=1.0, failed=2),
            TypeNumbers(type="b", ended_per_second=5.0, failed=1),
        ),
    )

    def order(sort: SortBy) -> list[str]:
        texts = [line.text for line in details(overview, sort=sort)]
        first = next(number for number, text in enumerate(texts) if text.startswith("TYPE"))
        return [text.split()[0] for text in texts[first + 1 : first + 3]]

    assert order(SortBy.NAME) == ["a", "b"]
    assert order(SortBy.ENDED) == ["b", "a"]
    assert order(SortBy.FAILED) == ["a", "b"]
    assert not any("idle" in line.text for line in details(overview))
    assert [line.text for line in details(overview, only="B") if "5 " in line.text] != []
    assert "Workers: 0" in summary(overview)[-1].text


def test_a_million_tasks_and_an_old_message_fit_on_a_line() -> None:
    overview = seen(
        look(
            0,
            counts=Counts(pending=1_000_000, completed=5),
            depth=QueueDepth(waiting=1_000_000, in_flight=3, dead=1, oldest_age=7200.0),
        )
    )
    queue, tasks, *_ = (line.text for line in summary(overview))
    assert queue == (
        "Queue default: 1,000,000 wait, the oldest for 2 h; 0 delayed, 3 in flight, 1 dead letter"
    )
    assert tasks.startswith("Tasks: 1,000,005; 1,000,000 pending")


def test_names_stay_inert() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e\n"
    run = RunningTask(task_id=hostile, type=hostile, attempt=1, since=START)
    workers = (worker(id=hostile, state=hostile, types=(hostile,), running=(run,)),)
    failure = Failure(
        task_id=hostile, type=hostile, queue=hostile, at=START, failed_attempts=1, error=None
    )
    letter = DeadLetter(
        id=hostile,
        task_id=hostile,
        task_type=hostile,
        reason=hostile,
        error=None,
        attempts=1,
        at=START,
    )
    overview = seen(
        look(
            0,
            counts=Counts(),
            workers=WorkerList(workers=workers),
            failures=(failure,),
            dead_letters=(letter,),
        )
    )
    overview = msgspec.structs.replace(overview, queue=hostile)
    lines = [*summary(overview), *details(overview)]
    assert all(line.text.isprintable() for line in lines)
    assert sum(r"\x1b]0;owned" in line.text for line in lines) == 6
