"""An event loop that is never idle leaves the database threads a share of the interpreter."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from task_queue_engine.backends.sqlite import SqliteBackend, fairness
from task_queue_engine.backends.sqlite.fairness import YieldToThreads


class FakeTime:
    """`time`, standing still but for what is slept and what a test adds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses = 0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    made = FakeTime()
    monkeypatch.setattr(fairness, "time", made)
    return made


def run_loop(instrument: YieldToThreads, fake: FakeTime, *, ticks: int, timeout: float) -> None:
    """This many turns of a loop that works for 0.1 ms in each."""
    for _ in range(ticks):
        fake.now += 0.0001
        instrument.before_io_wait(timeout)


def test_a_saturated_loop_pauses_now_and_then_while_an_answer_is_due(fake: FakeTime) -> None:
    run_loop(YieldToThreads(lambda: True), fake, ticks=1000, timeout=0)
    assert 50 <= fake.pauses <= 100, "about one for each millisecond"


def test_a_loop_that_waits_by_itself_is_left_alone(fake: FakeTime) -> None:
    run_loop(YieldToThreads(lambda: True), fake, ticks=1000, timeout=0.5)
    assert fake.pauses == 0


def test_the_loop_does_not_pause_for_a_thread_that_has_nothing_to_do(fake: FakeTime) -> None:
    run_loop(YieldToThreads(lambda: False), fake, ticks=1000, timeout=0)
    assert fake.pauses == 0


async def test_a_backend_pauses_the_loop_while_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = 0

    class CountingTime:
        perf_counter = staticmethod(time.perf_counter)

        @staticmethod
        def sleep(seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            time.sleep(seconds)

    monkeypatch.setattr(fairness, "time", CountingTime)
    done = False

    async def never_idle() -> None:
        while not done:
            until = time.perf_counter() + 0.0003
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    backend = SqliteBackend(tmp_path / "tasks.db")
    with trio.fail_after(30):
        async with backend.open(), trio.open_nursery() as nursery:
            nursery.start_soon(never_idle)
            while not pauses:
                await backend.ping()
            done = True
    seen = pauses
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    assert pauses == seen, "not any more once it is closed"
