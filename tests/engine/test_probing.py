"""/ready is asked by many, and needs no key: the backend is asked once for all of them."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.engine.probing import BackendProbe
from task_queue_engine.errors import BackendUnavailable
from tests.engine.engines import Link, running


class Pings:
    """A backend that takes half a second to answer."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Exception | None = None

    async def __call__(self) -> None:
        self.count += 1
        await trio.sleep(0.5)
        if self.failure is not None:
            raise self.failure


async def test_one_asks_for_all(autojump_clock: MockClock) -> None:
    pings, answers = Pings(), []
    probe = BackendProbe(pings)

    async def ask() -> None:
        answers.append(await probe.trouble())

    for expected in (1, 2):
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(ask)
        assert pings.count == expected
        await trio.sleep(1)
    assert answers == [None] * 2000


async def test_an_answer_is_good_for_a_second(autojump_clock: MockClock) -> None:
    pings = Pings()
    probe = BackendProbe(pings)
    for _ in range(60):
        await probe.trouble()
        await trio.sleep(0.25)
    assert 8 <= pings.count <= 15
    pings.failure = BackendUnavailable("full")
    await trio.sleep(1)
    assert await probe.trouble() == "backend: full"
    pings.failure = None
    await trio.sleep(1)
    assert await probe.trouble() is None


async def test_a_prober_that_goes_away_leaves_the_question_to_the_next(
    autojump_clock: MockClock,
) -> None:
    pings = Pings()
    probe = BackendProbe(pings)
    async with trio.open_nursery() as nursery:

        async def hasty() -> None:
            with trio.move_on_after(0.25):
                await probe.trouble()

        nursery.start_soon(hasty)
        await trio.sleep(0.1)
        pings.failure = BackendUnavailable("full")
        assert await probe.trouble() == "backend: full"
    assert pings.count == 2


async def test_a_backend_that_does_not_answer_is_not_asked_by_each(
    autojump_clock: MockClock,
) -> None:
    asked = 0

    async def silent() -> None:
        nonlocal asked
        asked += 1
        await trio.sleep_forever()

    probe = BackendProbe(silent)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(probe.trouble)
    assert asked == 1
    assert trio.current_time() == pytest.approx(2)


async def test_what_actors_see_shows_at_once(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    """Between two looks at the backend too."""
    link = Link(backend)
    async with running(tasks, link) as engine:
        await trio.sleep(1)
        assert (await engine.ready()).ready
        with link.faults.outage("receive"):
            await trio.sleep(21)  # a receive is under way
            assert (await engine.ready()).reasons
