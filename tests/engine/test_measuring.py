"""What an engine measures: outcomes and times by type, slots, its backend's calls, its loop."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from task_queue_engine import Engine, Snooze, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import NewTask
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.engine import loop_lag
from task_queue_engine.engine.loop_lag import LoopLag
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.engine.task_numbers import OUTCOMES, due_at
from task_queue_engine.errors import EngineNotRunning
from task_queue_engine.lifecycle import crash_error
from task_queue_engine.measures import Distribution
from task_queue_engine.task import Task, new_task_id
from tests.engine.engines import EVERY_SECOND, LEASE, Link, ended, reaches, running, settings


def outcomes(metrics: EngineMetrics, task_type: str) -> dict[str, int]:
    """Those that came."""
    found: Counter[str] = Counter()
    for one in metrics.labelled_counters:
        if one.name == "attempts" and one.labels["task_type"] == task_type:
            assert one.labels["queue"] == "default"
            found[one.labels["outcome"]] += one.count
    return {outcome: number for outcome, number in found.items() if number}


def measured(metrics: EngineMetrics, name: str, **labels: str) -> Distribution:
    (found,) = [
        one
        for one in metrics.histograms
        if one.name == name and labels.items() <= one.labels.items()
    ]
    return found


@pytest.fixture
def tasks() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("nap")
    async def nap(payload: float) -> None:
        await trio.sleep(payload)

    @tasks.task("fail", backoff=EVERY_SECOND)
    async def fail(payload: Any) -> None:
        raise ValueError

    return tasks


@pytest.fixture
def moody(tasks: TaskRegistry) -> TaskRegistry:
    @tasks.task("moody", backoff=EVERY_SECOND, max_attempts=5)
    async def moody(payload: Any, context: Any) -> None:
        await context.progress(1)
        await trio.sleep(2)
        if context.attempt == 1:
            raise ValueError
        if context.attempt == 2:
            raise Snooze(10)

    return tasks


async def test_outcomes_and_times_by_type(moody: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(moody, backend) as engine:
        for handle in [await engine.submit("moody"), await engine.submit("nap", 4, delay=5)]:
            await ended(engine, handle.id)
        await ended(engine, (await engine.submit("fail", max_attempts=1)).id)
        metrics = await engine.metrics()

    assert outcomes(metrics, "moody") == {"retried": 1, "snoozed": 1, "succeeded": 1}
    assert outcomes(metrics, "nap") == {"succeeded": 1}
    assert outcomes(metrics, "fail") == {"failed": 1}
    ran = measured(metrics, "task_run_seconds", task_type="moody")
    assert (ran.count, ran.sum) == (3, pytest.approx(6, abs=0.1))
    waited = measured(metrics, "task_wait_seconds", task_type="moody")
    assert (waited.count, waited.sum) == (3, pytest.approx(0, abs=0.1)), "a backoff is no wait"
    total = measured(metrics, "task_total_seconds", task_type="moody")
    assert (total.count, total.sum) == (1, pytest.approx(17, abs=0.2))
    assert measured(metrics, "task_wait_seconds", task_type="nap").sum == pytest.approx(0, abs=0.1)
    assert measured(metrics, "task_total_seconds", task_type="nap").sum == pytest.approx(9, abs=0.1)


async def test_a_wait_for_a_worker_is_measured(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend, worker_count=1) as engine:
        handles = [await engine.submit("nap", 20) for _ in range(3)]
        for handle in handles:
            await ended(engine, handle.id)
        waited = measured(await engine.metrics(), "task_wait_seconds")
    assert (waited.count, waited.sum) == (3, pytest.approx(0 + 20 + 40, abs=0.2))
    buckets = dict(zip((*waited.bounds, float("inf")), waited.counts, strict=True))
    assert (buckets[30.0], buckets[60.0]) == (1, 1)


async def test_a_type_that_is_not_registered_is_other(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Names of types come from outside: each would be a time series for good."""
    async with running(tasks, backend, unknown_type_after=1) as engine:
        now = backend.clock.now()
        strangers = [
            Task(id=new_task_id(), type=f"x{n}\n", payload=1, created_at=now, updated_at=now)
            for n in range(30)
        ]
        await backend.submit([NewTask(task=task) for task in strangers])
        for task in strangers:
            await ended(engine, task.id)
        metrics = await engine.metrics()
    types = {one.labels.get("task_type") for one in metrics.labelled_counters + metrics.histograms}
    assert types == {None, "other", *(definition.name for definition in tasks)}
    assert outcomes(metrics, "other") == {"failed": 30}
    assert measured(metrics, "task_total_seconds", task_type="other").count == 30


async def test_a_task_stored_under_an_earlier_name_counts_for_its_type(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("new-name", aliases=["old-name"])
    async def renamed(payload: Any) -> None: ...

    async with running(tasks, backend) as engine:
        now = backend.clock.now()
        task = Task(id=new_task_id(), type="old-name", payload=1, created_at=now, updated_at=now)
        await backend.submit([NewTask(task=task)])
        await ended(engine, task.id)
        metrics = await engine.metrics()
    assert outcomes(metrics, "new-name") == {"succeeded": 1}


async def test_every_outcome_of_a_registered_type_is_there_before_it_happens(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """A rate needs the zero: the first failure would not be seen."""
    async with running(tasks, backend) as engine:
        metrics = await engine.metrics()
    there = {
        (one.labels["task_type"], one.labels["outcome"])
        for one in metrics.labelled_counters
        if one.name == "attempts"
    }
    assert there == {(one.name, outcome) for one in tasks for outcome in OUTCOMES}


async def test_interrupted_cancelled_and_lost_attempts(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    link = Link(backend)
    async with running(tasks, link) as engine:
        handle = await engine.submit("nap", 1000)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await handle.cancel()
        await ended(engine, handle.id)
        await reaches(engine, (await engine.submit("nap", 1000)).id, TaskStatus.PROCESSING)
        with link.faults.outage("extend"):
            await trio.sleep(LEASE + 1)
        await trio.sleep(LEASE)
        seen = engine._instruments
        await engine.stop()
    found = outcomes(_of(seen.counts()), "nap")
    assert found["cancelled"] == 1
    assert found["lost_lease"] >= 1
    assert found["interrupted"] == 1
    runs, waits = (
        [one for one in seen.distributions() if one.name == name]
        for name in ("task_run_seconds", "task_wait_seconds")
    )
    assert [one.count for one in runs] == [1], "what was cut short did not take so long"
    assert [one.count for one in waits] == [2], "the time of a lost attempt is no wait"


async def test_since_when_an_attempt_could_have_started(backend: MemoryBackend) -> None:
    now = backend.clock.now()
    later = now + timedelta(seconds=5)

    def due(**fields: Any) -> datetime | None:
        task = Task(id=new_task_id(), type="t", payload=1, created_at=now, updated_at=now, **fields)
        return due_at(task)

    assert due(attempt=1) == now
    assert due(attempt=1, run_at=later) == later
    assert due(attempt=1, run_at=now - timedelta(days=1)) == now, "a time that was over already"
    assert due(attempt=2, run_at=later) == later
    assert due(attempt=2) is None, "given back, or a new round of days later"
    crashed = crash_error(1, "worker")
    assert due(attempt=2, run_at=later, error=crashed) is None


def _of(counts: Any) -> Any:
    class Metrics:
        labelled_counters = counts

    return Metrics


async def test_slots_busy_and_free(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend, worker_count=3, threads=7, processes=2) as engine:
        await reaches(engine, (await engine.submit("nap", 5)).id, TaskStatus.PROCESSING)
        slots = {one.kind: (one.busy, one.total) for one in (await engine.metrics()).slots}
        assert slots == {"worker": (1, 3), "thread": (0, 7), "process": (0, 2)}
    async with running(tasks, backend, consume=False) as engine:
        assert (await engine.metrics()).slots == ()


async def test_calls_of_the_backend_their_sizes_and_failures(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.outage("record"):
            handle = await engine.submit("nap", 1)
            await trio.sleep(5)
        await ended(engine, handle.id)
        metrics = await engine.metrics()
    failures = {
        one.labels["operation"]: one.count
        for one in metrics.labelled_counters
        if one.name == "backend_call_failures"
    }
    assert failures["finish"] >= 1
    assert failures["submit"] == 0
    times = measured(metrics, "backend_call_seconds", operation="submit")
    sizes = measured(metrics, "batch_items", operation="submit")
    assert (times.count, sizes.count, sizes.sum) == (1, 1, 1.0)
    assert measured(metrics, "batch_items", operation="take").sum >= 1
    assert not [
        one
        for one in metrics.histograms
        if one.name == "backend_call_seconds" and one.labels["operation"] == "take"
    ], "a long poll is no slow call"


async def test_a_turn_that_holds_the_loop_is_seen_whenever_it_comes() -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    (turns,) = lag.distributions()
    long = [
        number for bound, number in zip(turns.bounds, turns.counts, strict=False) if bound > 0.25
    ]
    assert sum(long) + turns.counts[-1] >= 1
    assert turns.count >= 3
    assert lag.worst >= 0.3
    lag.forget()
    assert lag.worst == 0


@pytest.mark.parametrize(
    ("to_wake_in", "sleeps", "held"),
    [
        pytest.param(0.5, 0.5, 0.0, id="to the end of its wait"),
        pytest.param(60.0, 0.5, 0.0, id="until something comes"),
        pytest.param(0.5, 0.8, 0.3, id="for longer: something kept it from waking"),
    ],
)
def test_a_loop_that_sleeps_is_not_held(
    to_wake_in: float, sleeps: float, held: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: a busy machine does keep a loop from waking."""
    now = 100.0
    monkeypatch.setattr(loop_lag, "time", SimpleNamespace(perf_counter=lambda: now))
    lag = LoopLag()
    lag.before_io_wait(to_wake_in)
    now += sleeps
    lag.after_io_wait(to_wake_in)
    lag.before_io_wait(to_wake_in)
    assert lag.worst == pytest.approx(held)
    (turns,) = lag.distributions()
    assert turns.sum == pytest.approx(held)


async def test_what_is_wanted_of_an_autoscaler_costs_one_look_for_many(
    tasks: TaskRegistry, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    counts = backend.store.counts

    async def counting() -> Any:
        nonlocal looks
        looks += 1
        return await counts()

    monkeypatch.setattr(backend.store, "counts", counting)
    async with running(tasks, backend, metrics_interval=60) as engine:
        await trio.sleep(2)
        looks = 0
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(engine.scale)
        assert looks == 1
        await trio.sleep(1.1)
        await engine.scale()
        assert looks == 2


async def test_scale_says_what_is_there_and_what_comes(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, worker_count=2) as engine:
        await engine.scale()
        for _ in range(60):
            await engine.submit("nap", 4)
            await trio.sleep(1)
        scale = await engine.scale()
    assert scale.arrival_rate == pytest.approx(1.0, abs=0.1)
    assert scale.service_rate == pytest.approx(0.5, abs=0.05)
    assert scale.seconds_per_task == pytest.approx(4, abs=0.1)
    assert scale.backlog + scale.in_flight == pytest.approx(31, abs=2)
    assert scale.oldest_age_seconds == pytest.approx(30, abs=3)
    # 31 there and 60 to come, of 4 s each, in a minute.
    assert scale.wanted_slots == pytest.approx(6, abs=1)


async def test_an_engine_outside_run_has_no_scale(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    with pytest.raises(EngineNotRunning):
        await Engine(tasks, settings(), backend=backend).scale()
