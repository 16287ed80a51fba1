"""The gauges: fresh while the backend answers, the last ones while it does not."""

from __future__ import annotations

import pytest
import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.metrics import REMEMBERED, Metrics
from task_queue_engine.backends.base import Counts, QueueDepth
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.measures import Rates
from tests.actors.support import background, claimed, put


async def test_it_samples_counts_and_depth(backend: MemoryBackend) -> None:
    health = ActorHealth()
    metrics = Metrics(
        store=backend.store, queue=backend.queue("default"), interval=5, health=health
    )
    assert metrics.statistics().samples == 0
    async with background(metrics.run):
        await claimed(backend)
        await put(backend)
        await trio.sleep(6)
        assert metrics.statistics().counts == Counts(pending=1, processing=1)
        assert metrics.statistics().depth == QueueDepth(waiting=1, in_flight=1, dead=0)

        with backend.faults.outage("counts"):
            await put(backend)
            await trio.sleep(6)
            assert metrics.statistics().counts.total == 2, "the last it knows"
            assert health.troubles == ("metrics: counts: made to fail by a test",)
        await trio.sleep(6)
        assert metrics.statistics().counts.total == 3
        assert health.troubles == ()


async def test_one_that_does_not_answer_leaves_the_other_fresh(backend: MemoryBackend) -> None:
    metrics = Metrics(
        store=backend.store, queue=backend.queue("default"), interval=5, health=ActorHealth()
    )
    await put(backend)
    with backend.faults.outage("depth"), pytest.raises(BackendUnavailable):
        await metrics.sample()
    assert (metrics.statistics().counts.total, metrics.statistics().depth.waiting) == (1, 0)
    await put(backend)
    with backend.faults.outage("counts"), pytest.raises(BackendUnavailable):
        await metrics.sample()
    assert (metrics.statistics().counts.total, metrics.statistics().depth.waiting) == (1, 2)
    assert metrics.statistics().samples == 0, "none was whole"


async def test_a_sample_can_be_asked_for(backend: MemoryBackend) -> None:
    metrics = Metrics(
        store=backend.store, queue=backend.queue("default"), interval=5, health=ActorHealth()
    )
    await put(backend)
    assert (await metrics.sample()).counts.total == 1
    assert metrics.statistics().sampled_at == trio.current_time()


class Store:
    """Whose counts a test sets."""

    def __init__(self) -> None:
        self.now = Counts()

    async def counts(self) -> Counts:
        await trio.lowlevel.checkpoint()
        return self.now


async def test_rates_are_of_the_last_minute(backend: MemoryBackend) -> None:
    store, runs = Store(), (0, 0.0)
    metrics = Metrics(
        store=store,  # type: ignore[arg-type] # all that it asks
        queue=backend.queue("default"),
        interval=5,
        health=ActorHealth(),
        runs=lambda: runs,
    )
    store.now = Counts(pending=100, completed=1000)
    await metrics.sample()
    assert metrics.statistics().rates == Rates(), "of one look nothing follows"

    await trio.sleep(10)
    store.now, runs = Counts(pending=80, processing=5, completed=1040, failed=5), (45, 90.0)
    await metrics.sample()
    assert metrics.statistics().rates == Rates(arriving=3.0, ending=4.5, seconds_per_task=2.0)

    await trio.sleep(10)
    store.now = Counts(pending=80, processing=5, completed=40, failed=5)
    await metrics.sample()
    assert metrics.statistics().rates.ending == 2.25, "what was deleted has not come back to life"

    for _ in range(7):
        await trio.sleep(10)
        await metrics.sample()
    assert metrics.statistics().rates == Rates(), "that was more than a minute ago"


async def test_what_was_sampled_is_kept_for_a_while(backend: MemoryBackend) -> None:
    metrics = Metrics(
        store=backend.store, queue=backend.queue("default"), interval=5, health=ActorHealth()
    )
    async with background(metrics.run):
        await trio.sleep(1)
        await put(backend)
        for _ in range(50):  # those that ask are not what fills it
            await metrics.sample()
        await trio.sleep(11)
        assert [sample.due for sample in metrics.recent()] == [0, 1, 1]

        await trio.sleep(3 * REMEMBERED)
        kept = metrics.recent()
        assert trio.current_time() - kept[0].at <= REMEMBERED + 5
        assert len(kept) <= REMEMBERED / 5 + 1
