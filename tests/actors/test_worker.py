"""A worker: one attempt at a time, and an outcome for every one."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine import Backoff, Discard, Retry, Snooze, TaskRegistry
from task_queue_engine.actors.messages import (
    AbortReason,
    Attempt,
    ClaimEvent,
    Errored,
    Interrupted,
    Lost,
    Outcome,
    Progressed,
    Stopped,
    Succeeded,
    WorkerFree,
)
from task_queue_engine.actors.worker import Worker
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.retry import MAX_SECONDS, GiveUp, RetryAt, SnoozeUntil
from tests.actors.support import LEASE, claimed


@dataclass
class Rig:
    worker: Worker
    demand: trio.MemoryReceiveChannel[ClaimEvent]
    deliveries: trio.MemorySendChannel[Attempt]
    outcomes: trio.MemoryReceiveChannel[Outcome]
    done: trio.Event
    runner: HandlerRunner
    background: trio.Nursery
    started: list[Attempt] = field(default_factory=list)

    async def run(self, attempt: Attempt) -> Outcome:
        await self.deliveries.send(attempt)
        return await self.outcomes.receive()


@asynccontextmanager
async def working(backend: MemoryBackend, registry: TaskRegistry) -> AsyncIterator[Rig]:
    demand_out, demand_in = trio.open_memory_channel[ClaimEvent](math.inf)
    deliveries_out, deliveries_in = trio.open_memory_channel[Attempt](0)
    outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](0)
    runner = HandlerRunner(threads=1, processes=1, max_result_bytes=10_000)
    started: list[Attempt] = []
    worker = Worker(
        registry=registry,
        runner=runner,
        clock=backend.clock,
        rng=random.Random(1),
        claim_events=demand_out,
        deliveries=deliveries_in,
        outcomes=outcomes_out,
        on_start=started.append,
    )
    done = trio.Event()

    async def run() -> None:
        await worker.run()
        done.set()

    async with runner.open(), trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Rig(worker, demand_in, deliveries_out, outcomes_in, done, runner, nursery, started)
        nursery.cancel_scope.cancel()


def handler(body: Callable[[], Any], **options: Any) -> TaskRegistry:
    """A registry whose type "t" does this."""
    registry = TaskRegistry()

    @registry.task("t", **options)
    async def t(payload: Any) -> Any:
        result = body()
        return await result if hasattr(result, "__await__") else result

    return registry


def raising(error: BaseException, **options: Any) -> TaskRegistry:
    def body() -> None:
        raise error

    return handler(body, **options)


async def test_it_asks_for_work_runs_it_and_asks_again(backend: MemoryBackend) -> None:
    async with working(backend, handler(lambda: {"sent": True})) as rig:
        assert await rig.demand.receive() == WorkerFree()
        with pytest.raises(trio.WouldBlock):
            rig.demand.receive_nowait()
        attempt = await claimed(backend)
        assert await rig.run(attempt) == Succeeded(attempt, {"sent": True})
        assert await rig.demand.receive() == WorkerFree(after="t")
        assert rig.started == [attempt]
        statistics = rig.worker.statistics()
        assert (statistics.started, statistics.succeeded, statistics.busy) == (1, 1, False)


async def test_it_asks_only_when_its_outcome_was_taken(backend: MemoryBackend) -> None:
    """Back-pressure: while outcomes cannot be written no new work is taken in."""
    async with working(backend, handler(lambda: None)) as rig:
        await rig.demand.receive()
        await rig.deliveries.send(await claimed(backend))
        await trio.sleep(3600)
        with pytest.raises(trio.WouldBlock):
            rig.demand.receive_nowait()
        await rig.outcomes.receive()
        await rig.demand.receive()


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (ValueError("bad"), RetryAt),
        (Retry(), RetryAt),
        (Retry(delay=7), RetryAt),
        (Snooze(7), SnoozeUntil),
        (Discard("no use"), GiveUp),
        (SystemExit(1), RetryAt),
        (ExceptionGroup("one", [Snooze(7)]), SnoozeUntil),
        (BaseExceptionGroup("exits", [SystemExit(1), ValueError()]), RetryAt),
    ],
    ids=repr,
)
async def test_what_a_handler_raises_decides_what_follows(
    backend: MemoryBackend, error: BaseException, decision: type
) -> None:
    async with working(backend, raising(error)) as rig:
        outcome = await rig.run(await claimed(backend))
        assert isinstance(outcome, Errored)
        assert isinstance(outcome.decision, decision)
        await rig.run(await claimed(backend))
        assert rig.worker.statistics().errored == 2


class Hasty(Retry):
    def __init__(self) -> None:
        """Forgets what Retry itself has to know."""


class Odd(Snooze):
    def __init__(self) -> None:
        super().__init__(1)
        self.delay = math.nan


@pytest.mark.parametrize("error", [Hasty(), Odd()], ids=repr)
async def test_a_badly_made_retry_is_a_failure_like_any_other(
    backend: MemoryBackend, error: Exception
) -> None:
    async with working(backend, raising(error)) as rig:
        outcome = await rig.run(await claimed(backend))
        assert isinstance(outcome, Errored)
        assert isinstance(outcome.decision, RetryAt)
        assert outcome.error.traceback is not None
        assert type(error).__name__ in outcome.error.traceback


async def test_a_distant_cap_stays_within_the_calendar(
    backend: MemoryBackend,
) -> None:
    endless = Backoff(base=1, factor=1000, cap=MAX_SECONDS, jitter=False)
    async with working(backend, raising(ValueError(), backoff=endless)) as rig:
        outcome = await rig.run(await claimed(backend, max_attempts=1000, retry_count=900))
        assert isinstance(outcome, Errored)
        assert isinstance(outcome.decision, RetryAt)
        assert outcome.decision.delay == MAX_SECONDS


@pytest.mark.parametrize(
    "wrong",
    [{"base": -1}, {"base": math.nan}, {"cap": math.nan}, {"factor": 0.5}, {"factor": math.inf}],
    ids=str,
)
def test_a_backoff_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Backoff needs"):
        Backoff(**wrong)


async def test_the_error_is_described(backend: MemoryBackend) -> None:
    async with working(backend, raising(ValueError("no such address"))) as rig:
        outcome = await rig.run(await claimed(backend))
        assert isinstance(outcome, Errored)
        assert outcome.error.type == "ValueError"
        assert outcome.error.message == "no such address"
        assert outcome.error.traceback is not None
        assert "test_worker.py" in outcome.error.traceback


async def test_the_last_attempt_gives_up(backend: MemoryBackend) -> None:
    async with working(backend, raising(ValueError())) as rig:
        outcome = await rig.run(await claimed(backend, max_attempts=1))
        assert isinstance(outcome, Errored)
        assert outcome.decision == GiveUp("attempts exhausted (1 of 1)")


async def test_an_unknown_type_is_a_failed_attempt(backend: MemoryBackend) -> None:
    async with working(backend, TaskRegistry()) as rig:
        outcome = await rig.run(await claimed(backend, type="from-another-version"))
        assert isinstance(outcome, Errored)
        assert isinstance(outcome.decision, RetryAt)
        assert "from-another-version" in outcome.error.message


async def test_rules_for_an_error_are_the_types_own(backend: MemoryBackend) -> None:
    wait = Backoff(base=5, factor=1, jitter=False)
    registry = raising(ConnectionError(), on_error={OSError: wait})
    async with working(backend, registry) as rig:
        outcome = await rig.run(await claimed(backend))
        assert isinstance(outcome, Errored)
        assert isinstance(outcome.decision, RetryAt)
        assert outcome.decision.delay == 5


async def test_a_timeout_is_a_failed_attempt(backend: MemoryBackend) -> None:
    async with working(backend, handler(trio.sleep_forever)) as rig:
        before = trio.current_time()
        outcome = await rig.run(await claimed(backend, timeout_seconds=12.0))
        assert isinstance(outcome, Errored)
        assert outcome.error.type.endswith("AttemptTimedOut")
        assert trio.current_time() - before == pytest.approx(12)


async def test_progress_goes_out_before_the_result(backend: MemoryBackend) -> None:
    registry = TaskRegistry()

    @registry.task("t")
    async def t(payload: Any, context: Any) -> str:
        await context.progress({"done": 1})
        return "end"

    async with working(backend, registry) as rig:
        attempt = await claimed(backend)
        await rig.deliveries.send(attempt)
        assert await rig.outcomes.receive() == Progressed(attempt, {"done": 1})
        assert await rig.outcomes.receive() == Succeeded(attempt, "end")


# --- stopped --------------------------------------------------------------------------------

REASONS = {
    AbortReason.CANCELLED: Stopped,
    AbortReason.LEASE_LOST: Lost,
    AbortReason.SHUTDOWN: Interrupted,
}


@pytest.mark.parametrize("reason", AbortReason)
async def test_a_running_attempt_is_stopped_after_its_cleanup(
    backend: MemoryBackend, reason: AbortReason
) -> None:
    cleaned_up = False

    async def body() -> None:
        nonlocal cleaned_up
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            cleaned_up = True

    async with working(backend, handler(body)) as rig:
        attempt = await claimed(backend)
        await rig.deliveries.send(attempt)
        await trio.sleep(1)
        assert rig.worker.statistics().busy
        attempt.abort(reason)
        assert isinstance(await rig.outcomes.receive(), REASONS[reason])
        assert cleaned_up
        assert rig.worker.statistics().aborted == 1


@pytest.mark.parametrize("reason", [AbortReason.CANCELLED, AbortReason.SHUTDOWN])
async def test_an_attempt_stopped_before_its_start_does_not_start(
    backend: MemoryBackend, reason: AbortReason
) -> None:
    async with working(backend, handler(lambda: pytest.fail("it ran"))) as rig:
        attempt = await claimed(backend)
        attempt.abort(reason)
        assert isinstance(await rig.run(attempt), REASONS[reason])
        assert rig.started == []


async def test_an_attempt_whose_lease_was_lost_before_its_start_is_given_back(
    backend: MemoryBackend,
) -> None:
    """It never ran: it must not count as a crash, unless another worker has taken it over."""
    async with working(backend, handler(lambda: pytest.fail("it ran"))) as rig:
        attempt = await claimed(backend)
        attempt.abort(AbortReason.LEASE_LOST)
        assert isinstance(await rig.run(attempt), Interrupted)


async def test_a_handler_that_returns_in_spite_of_being_stopped_has_succeeded(
    backend: MemoryBackend,
) -> None:
    async def body() -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "all the same"

    async with working(backend, handler(body)) as rig:
        attempt = await claimed(backend)
        await rig.deliveries.send(attempt)
        await trio.sleep(1)
        attempt.abort(AbortReason.CANCELLED)
        assert await rig.outcomes.receive() == Succeeded(attempt, "all the same")


async def test_what_a_stopped_handlers_cleanup_raises_is_told(backend: MemoryBackend) -> None:
    async def body() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("could not remove the file")

    async with working(backend, handler(body)) as rig:
        attempt = await claimed(backend)
        await rig.deliveries.send(attempt)
        await trio.sleep(1)
        attempt.abort(AbortReason.CANCELLED)
        outcome = await rig.outcomes.receive()
        assert isinstance(outcome, Stopped)
        assert outcome.error is not None
        assert outcome.error.message == "could not remove the file"


async def test_the_first_reason_to_stop_stands(backend: MemoryBackend) -> None:
    async with working(backend, handler(trio.sleep_forever)) as rig:
        attempt = await claimed(backend)
        await rig.deliveries.send(attempt)
        await trio.sleep(1)
        attempt.abort(AbortReason.CANCELLED)
        rig.worker.interrupt()
        assert isinstance(await rig.outcomes.receive(), Stopped)


async def test_what_is_taken_after_an_interruption_is_given_back_at_once(
    backend: MemoryBackend,
) -> None:
    ran: list[int] = []
    async with working(backend, handler(lambda: ran.append(1))) as rig:
        rig.worker.interrupt()
        for _ in range(2):
            assert isinstance(await rig.run(await claimed(backend)), Interrupted)
        assert rig.worker.statistics().started == 0
    assert not ran


@pytest.mark.parametrize("end", [Worker.give_back_unstarted, Worker.interrupt])
async def test_an_attempt_handed_over_in_the_moment_of_the_end_is_given_back(
    backend: MemoryBackend, end: Callable[[Worker], None]
) -> None:
    """The worker has it already, but has not come to its turn."""
    ran: list[int] = []
    async with working(backend, handler(lambda: ran.append(1))) as rig:
        await trio.testing.wait_all_tasks_blocked()
        attempt = await claimed(backend)
        rig.deliveries.send_nowait(attempt)
        end(rig.worker)
        assert await rig.outcomes.receive() == Interrupted(attempt)
    assert not ran


# --- not started ----------------------------------------------------------------------------


async def test_what_waited_until_its_lease_was_over_does_not_start(backend: MemoryBackend) -> None:
    """The process stood still, and another worker may have it by now. The lease keeper finds out
    when it has its turn, which is no earlier than this worker's."""
    ran: list[int] = []
    async with working(backend, handler(lambda: ran.append(1))) as rig:
        attempt = await claimed(backend)
        await trio.sleep(LEASE)
        assert await rig.run(attempt) == Interrupted(attempt)
        assert attempt.abort_reason is AbortReason.LEASE_LOST
    assert not ran


@asynccontextmanager
async def waiting_for_a_thread(backend: MemoryBackend) -> AsyncIterator[tuple[Rig, Attempt]]:
    """The only thread is taken by another worker's handler."""
    release = threading.Event()

    def body(payload: Any) -> None:
        release.wait(20)

    registry = TaskRegistry()
    registry.task("t")(body)
    try:
        async with working(backend, registry) as rig:
            holds = await claimed(backend)
            rig.background.start_soon(
                partial(rig.runner.run, registry.get("t"), holds.task, report_progress=nothing)
            )
            await trio.testing.wait_all_tasks_blocked()
            attempt = await claimed(backend)
            await rig.deliveries.send(attempt)
            await trio.testing.wait_all_tasks_blocked()
            assert rig.started == []
            yield rig, attempt
    finally:
        release.set()


async def nothing(value: Any) -> None: ...


async def test_what_waits_for_a_thread_goes_back_when_no_more_work_is_taken(
    backend: MemoryBackend,
) -> None:
    async with waiting_for_a_thread(backend) as (rig, attempt):
        rig.worker.give_back_unstarted()
        assert await rig.outcomes.receive() == Interrupted(attempt)
        assert rig.started == []


async def test_a_lease_lost_while_waiting_for_a_thread_is_no_crash(backend: MemoryBackend) -> None:
    async with waiting_for_a_thread(backend) as (rig, attempt):
        attempt.abort(AbortReason.LEASE_LOST)
        assert await rig.outcomes.receive() == Interrupted(attempt)


async def test_what_runs_goes_on_when_no_more_work_is_taken(backend: MemoryBackend) -> None:
    async with working(backend, handler(partial(trio.sleep, 10))) as rig:
        attempt = await claimed(backend)
        await rig.deliveries.send(attempt)
        await trio.testing.wait_all_tasks_blocked()
        rig.worker.give_back_unstarted()
        assert isinstance(await rig.outcomes.receive(), Succeeded)


async def test_what_could_not_be_started_comes_again_at_no_cost(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    registry = TaskRegistry()

    @registry.task("t", max_attempts=1)
    def t(payload: Any) -> None: ...

    monkeypatch.setattr("trio._threads.start_thread_soon", refuse)
    async with working(backend, registry) as rig:
        outcome = await rig.run(await claimed(backend))
        assert isinstance(outcome, Errored)
        assert isinstance(outcome.decision, SnoozeUntil)
        assert outcome.decision.delay == 5


# --- the end --------------------------------------------------------------------------------


async def test_it_ends_with_the_deliveries_and_closes_its_ends(backend: MemoryBackend) -> None:
    async with working(backend, handler(lambda: 1)) as rig:
        await rig.run(await claimed(backend))
        rig.deliveries.close()
        await rig.done.wait()
        with pytest.raises(trio.EndOfChannel):
            await rig.outcomes.receive()


async def test_it_works_off_what_it_has_when_the_poller_is_gone(backend: MemoryBackend) -> None:
    async with working(backend, handler(partial(trio.sleep, 10))) as rig:
        await rig.deliveries.send(await claimed(backend))
        rig.demand.close()
        rig.deliveries.close()
        assert isinstance(await rig.outcomes.receive(), Succeeded)
        await rig.done.wait()
