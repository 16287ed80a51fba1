"""The poller: takes what workers ask for, claims it, sorts out what is not to run."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine import TaskStatus
from task_queue_engine.actors.health import Health
from task_queue_engine.actors.messages import (
    AbortReason,
    Ack,
    Acquired,
    Attempt,
    DeadLetterIt,
    Errored,
    Interrupted,
    LeaseEvent,
    Leave,
    Outcome,
    Release,
    Settlement,
)
from task_queue_engine.actors.poller import Poller
from task_queue_engine.backends.base import Message, QueueCapabilities
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from task_queue_engine.lifecycle import Complete, crash_error
from task_queue_engine.retry import SnoozeUntil
from tests.actors.support import LEASE, claim, patience, put, receive, status


@dataclass
class Rig:
    poller: Poller
    demand: trio.MemorySendChannel[int]
    deliveries: trio.MemoryReceiveChannel[Attempt]
    outcomes: trio.MemoryReceiveChannel[Outcome]
    settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]]
    leases: trio.MemoryReceiveChannel[LeaseEvent]
    health: Health
    done: trio.Event
    in_hand: set[tuple[str, int]]

    async def settlement(self) -> Settlement:
        (settlement,) = await self.settlements.receive()
        return settlement


@asynccontextmanager
async def polling(
    backend: MemoryBackend, *, demand: int = 1, prefetch: int = 0, room_for_leases: float = math.inf
) -> AsyncIterator[Rig]:
    demand_out, demand_in = trio.open_memory_channel[int](math.inf)
    deliveries_out, deliveries_in = trio.open_memory_channel[Attempt](prefetch)
    outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](100)
    settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](100)
    leases_out, leases_in = trio.open_memory_channel[LeaseEvent](room_for_leases)
    health = Health()
    in_hand: set[tuple[str, int]] = set()
    poller = Poller(
        queue=backend.queue("default"),
        store=backend.store,
        clock=backend.clock,
        worker_name="here",
        visibility=LEASE,
        poll_wait=20,
        patience=patience("poller", health),
        demand=demand_in,
        deliveries=deliveries_out,
        unstarted=deliveries_in.clone(),
        outcomes=outcomes_out,
        settlements=settlements_out,
        leases=leases_out,
        is_in_hand=lambda *attempt: attempt in in_hand,
        lease_in_hand=lambda message_id: None,
    )
    done = trio.Event()

    async def run() -> None:
        await poller.run()
        done.set()

    for _ in range(demand):
        demand_out.send_nowait(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Rig(
            poller,
            demand_out,
            deliveries_in,
            outcomes_in,
            settlements_in,
            leases_in,
            health,
            done,
            in_hand,
        )
        nursery.cancel_scope.cancel()


async def acquired(rig: Rig) -> Any:
    event = await rig.leases.receive()
    assert isinstance(event, Acquired)
    return event.leases[0]


# --- taking ---------------------------------------------------------------------------------


async def test_a_message_is_claimed_and_handed_on(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        task = await put(backend)
        attempt = await rig.deliveries.receive()
        assert attempt.task.id == task.id
        assert attempt.task.attempt == 1
        assert attempt.task.worker == "here"
        assert attempt.lease.attempt is attempt
        assert status(backend, task.id) is TaskStatus.PROCESSING


async def test_its_lease_is_kept_before_it_is_claimed(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        with backend.faults.block("claim") as gate:
            task = await put(backend)
            await gate.arrived.wait()
            event = rig.leases.receive_nowait()
            assert isinstance(event, Acquired)
            assert [lease.delivery.task_id for lease in event.leases] == [task.id]
            assert event.leases[0].expires_at == pytest.approx(trio.current_time() + LEASE)


async def test_without_demand_nothing_is_received(backend: MemoryBackend) -> None:
    async with polling(backend, demand=0) as rig:
        await put(backend)
        await trio.sleep(3600)
        assert backend.faults.calls["receive"] == 0
        await rig.demand.send(1)
        await rig.deliveries.receive()


async def test_no_more_is_received_than_was_asked_for(backend: MemoryBackend) -> None:
    for _ in range(10):
        await put(backend)
    async with polling(backend, demand=3) as rig:
        for _ in range(3):
            await rig.deliveries.receive()
        await trio.sleep(3600)
        with pytest.raises(trio.WouldBlock):
            rig.deliveries.receive_nowait()
        depth = await backend.queue("default").depth()
        assert (depth.waiting, depth.in_flight) == (7, 3)
        await rig.demand.send(1)
        await rig.deliveries.receive()


async def test_a_batch_never_exceeds_what_the_queue_takes(backend: MemoryBackend) -> None:
    async with polling(backend, demand=backend.queue("default").max_batch * 2 + 1) as rig:
        asked: list[int] = []
        queue = backend.queue("default")
        original = queue.receive

        async def spy(max_messages: int, **arguments: Any) -> Any:
            asked.append(max_messages)
            return await original(max_messages, **arguments)

        queue.receive = spy
        await trio.sleep(60)
        assert asked
        assert max(asked) == queue.max_batch
        assert not rig.done.is_set()


async def test_what_a_worker_cannot_run_leaves_its_place_to_another(
    backend: MemoryBackend,
) -> None:
    """Credit is given back for every message that came to nothing."""
    async with polling(backend, demand=1) as rig:
        for _ in range(20):
            task = await put(backend)
            await backend.store.cancel([task.id])
        for _ in range(20):
            assert isinstance(await rig.settlement(), Ack)
        task = await put(backend)
        assert (await rig.deliveries.receive()).task.id == task.id


# --- the claim table ------------------------------------------------------------------------


async def test_a_finished_task_is_deleted_and_not_run(backend: MemoryBackend) -> None:
    task = await put(backend)
    attempt = await claim(backend, await receive(backend, visibility=1))
    await backend.store.record([Complete(task_id=task.id, attempt=1, result=None)])
    assert attempt.task.id == task.id
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Ack)
        assert rig.poller.statistics().claimed == 0


async def test_a_cancelled_task_is_deleted_and_not_run(backend: MemoryBackend) -> None:
    task = await put(backend)
    await backend.store.cancel([task.id])
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Ack)


async def test_a_duplicate_of_a_live_attempt_is_left_alone(backend: MemoryBackend) -> None:
    await put(backend)
    backend.faults.duplicate_deliveries(1)
    async with polling(backend, demand=2) as rig:
        await rig.deliveries.receive()
        assert isinstance(await rig.settlement(), Leave)
        assert rig.poller.statistics().duplicates == 1


async def test_a_second_message_of_a_running_task_is_hidden_for_a_while(
    backend: MemoryBackend,
) -> None:
    task = await put(backend)
    await claim(backend, await receive(backend))
    await backend.queue("default").send([Message(task=task)])
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, Release)
        assert settlement.delay == LEASE


async def test_a_lapsed_attempt_is_taken_over(
    backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    task = await put(backend)
    await claim(backend, await receive(backend, visibility=5))
    async with polling(backend) as rig:
        attempt = await rig.deliveries.receive()
        assert attempt.task.id == task.id
        assert (attempt.task.attempt, attempt.task.retry_count) == (2, 1)
        assert rig.poller.statistics().taken_over == 1
    (line,) = caplog.messages
    assert task.id in line
    assert "starting it again" in line


async def test_a_task_that_outlived_its_attempts_is_dead_lettered_with_the_reason(
    backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    task = await put(backend, max_attempts=1)
    await claim(backend, await receive(backend, visibility=5))
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, DeadLetterIt)
        assert settlement.reason == "its worker died 1 times of 1 allowed"
        assert settlement.error is not None
        assert settlement.error.type.endswith("AttemptCrashed")
        assert rig.poller.statistics().quarantined == 1
    (line,) = caplog.messages
    assert task.id in line
    assert "FAILED" in line
    assert status(backend, task.id) is TaskStatus.FAILED


async def test_a_task_that_is_not_due_goes_back_until_it_is(backend: MemoryBackend) -> None:
    due = backend.clock.now() + timedelta(seconds=100)
    await put(backend, run_at=due)
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, Release)
        assert settlement.delay == pytest.approx(100)


async def test_a_wait_longer_than_the_queue_can_hold_is_cut_to_what_it_can(
    backend: MemoryBackend,
) -> None:
    await put(backend, run_at=backend.clock.now() + timedelta(days=2))
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, Release)
        assert settlement.delay == backend.queue("default").max_delay


async def test_a_message_without_a_task_is_dead_lettered(backend: MemoryBackend) -> None:
    task = await put(backend, send=False)
    backend.state.rows.clear()
    await backend.queue("default").send([Message(task=task)])
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, DeadLetterIt)
        assert settlement.reason == "no such task in the store"


async def test_a_last_chance_that_has_to_wait_leaves_its_place_to_another(
    backend: MemoryBackend,
) -> None:
    crashed = {"retry_count": 1, "max_attempts": 2, "error": crash_error(1, "dead")}
    await put(backend, **crashed)
    second = await put(backend, **crashed)
    async with polling(backend, demand=2) as rig:
        await rig.deliveries.receive()
        postponed = await rig.outcomes.receive()
        assert isinstance(postponed, Errored)
        assert isinstance(postponed.decision, SnoozeUntil), "at no cost"
        assert postponed.attempt.task.id == second.id
        fresh = await put(backend)
        assert (await rig.deliveries.receive()).task.id == fresh.id


# --- trouble --------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["receive", "claim"])
async def test_trouble_is_waited_out(backend: MemoryBackend, operation: str) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage(operation):
            await put(backend)
            await trio.sleep(20)
            assert rig.health.troubles == (f"poller: {operation}: made to fail by a test",)
        attempt = await rig.deliveries.receive()
        assert (attempt.task.attempt, attempt.task.retry_count) == (1, 0)
    assert rig.health.troubles == ()


async def test_leases_lost_while_the_claim_failed_are_given_up(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("claim"):
            await put(backend)
            (await acquired(rig)).lose()
            assert isinstance(await rig.settlement(), Release)
        task = await put(backend)
        assert (await rig.deliveries.receive()).task.id == task.id


async def test_an_attempt_claimed_under_a_lost_lease_is_stopped_before_it_starts(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        with backend.faults.block("claim") as gate:
            await put(backend)
            await gate.arrived.wait()
            (await acquired(rig)).lose()
        assert (await rig.deliveries.receive()).abort_reason is not None


async def test_an_attempt_cancelled_while_its_claim_was_under_way_does_not_start(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        with backend.faults.block("claim") as gate:
            await put(backend)
            await gate.arrived.wait()
            (await acquired(rig)).cancel_asked = True
        attempt = await rig.deliveries.receive()
        assert attempt.abort_reason is AbortReason.CANCELLED


# --- a claim whose answer was lost ----------------------------------------------------------


async def test_a_claim_whose_answer_was_lost_is_recognised_as_its_own(
    backend: MemoryBackend,
) -> None:
    """Else an attempt that never ran would count as a crash."""
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim")
        await put(backend, max_attempts=1)
        attempt = await rig.deliveries.receive()
        assert (attempt.task.attempt, attempt.task.retry_count) == (1, 0)
        assert rig.poller.statistics().duplicates == 0


async def test_a_duplicate_of_what_is_in_hand_here_is_not_taken_for_a_lost_answer(
    backend: MemoryBackend,
) -> None:
    backend.faults.duplicate_deliveries(1)
    task = await put(backend)
    async with polling(backend, demand=1) as rig:
        attempt = await rig.deliveries.receive()
        rig.in_hand.add((task.id, attempt.task.attempt))
        backend.faults.lose_answer("claim")
        rig.demand.send_nowait(1)
        assert isinstance(await rig.settlement(), Leave)


@pytest.mark.parametrize("trouble", ["lose_answer", "unavailable"])
async def test_of_two_duplicates_in_one_lost_claim_one_is_started(
    backend: MemoryBackend, trouble: str
) -> None:
    backend.faults.duplicate_deliveries(1)
    getattr(backend.faults, trouble)("claim")
    await put(backend)
    async with polling(backend, demand=2) as rig:
        await rig.deliveries.receive()
        assert isinstance(await rig.settlement(), Leave)


async def test_a_duplicate_of_somebody_elses_attempt_is_not_taken_for_a_lost_answer(
    backend: MemoryBackend,
) -> None:
    backend.faults.duplicate_deliveries(1)
    await put(backend)
    await claim(backend, await receive(backend))
    backend.faults.lose_answer("claim")
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Leave)


async def test_a_quarantine_whose_answer_was_lost_still_makes_a_dead_letter(
    backend: MemoryBackend,
) -> None:
    await put(backend, max_attempts=1)
    await claim(backend, await receive(backend))
    backend.queue("default").lapse_leases()
    backend.faults.lose_answer("claim")
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), DeadLetterIt)


async def test_a_trouble_while_it_looks_is_waited_out(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim", times=2)
        backend.faults.unavailable("get", times=3)
        await put(backend)
        assert (await rig.deliveries.receive()).task.retry_count == 0


# --- stopping -------------------------------------------------------------------------------


async def test_a_stop_ends_the_long_poll_and_takes_nothing_more(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        await trio.sleep(1)
        rig.poller.stop()
        with trio.fail_after(1):
            await rig.done.wait()
        await put(backend)
        await trio.sleep(60)
        assert (await backend.queue("default").depth()).waiting == 1
        with pytest.raises(trio.EndOfChannel):
            await rig.deliveries.receive()


async def test_a_poll_that_would_go_on_without_us_is_left_to_its_end(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryQueue, "capabilities", QueueCapabilities(poll_outlives_cancel=True))
    async with polling(backend) as rig:
        await trio.testing.wait_all_tasks_blocked()
        rig.poller.stop()
        await trio.sleep(5)
        assert not rig.done.is_set()
        task = await put(backend)
        settlement = await rig.settlement()
        assert isinstance(settlement, Release), "what it brings is given back"
        await rig.done.wait()
        assert status(backend, task.id) is TaskStatus.PENDING


async def test_it_ends_by_itself_or_when_it_is_cut_short(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryQueue, "capabilities", QueueCapabilities(poll_outlives_cancel=True))
    for cut_after, expected in [(None, 20), (3, 3)]:
        async with polling(backend) as rig:
            await trio.testing.wait_all_tasks_blocked()
            before = trio.current_time()
            rig.poller.stop()
            if cut_after is not None:
                await trio.sleep(cut_after)
                rig.poller.cut_short()
            await rig.done.wait()
            assert trio.current_time() - before == pytest.approx(expected, abs=0.1)


async def test_what_has_not_started_does_not_wait_for_that(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryQueue, "capabilities", QueueCapabilities(poll_outlives_cancel=True))
    async with polling(backend, demand=3, prefetch=2) as rig:
        tasks = [await put(backend), await put(backend)]
        await trio.testing.wait_all_tasks_blocked()
        rig.poller.stop()
        with trio.fail_after(1):
            outcomes = [await rig.outcomes.receive() for _ in tasks]
        assert all(isinstance(outcome, Interrupted) for outcome in outcomes)
        assert not rig.done.is_set()
        await rig.done.wait()
        with pytest.raises(trio.EndOfChannel):
            rig.outcomes.receive_nowait()


async def test_a_stop_while_nobody_asks_for_work(backend: MemoryBackend) -> None:
    async with polling(backend, demand=0) as rig:
        await trio.sleep(1)
        rig.poller.stop()
        rig.poller.stop()
        with trio.fail_after(1):
            await rig.done.wait()


async def test_a_stop_during_an_outage_is_not_held_up(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("receive"):
            await trio.sleep(100)
            rig.poller.stop()
            with trio.fail_after(0.1):
                await rig.done.wait()


async def test_a_stop_during_a_failing_claim_gives_the_message_back(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("claim"):
            await put(backend)
            await trio.sleep(20)
            rig.poller.stop()
            with trio.fail_after(10):
                await rig.done.wait()
        assert await rig.settlement() == Release(await acquired(rig))


async def test_what_no_worker_has_taken_is_given_back(backend: MemoryBackend) -> None:
    for _ in range(3):
        await put(backend)
    async with polling(backend, demand=3) as rig:
        await trio.sleep(1)
        rig.poller.stop()
        await rig.done.wait()
        for _ in range(3):
            assert isinstance(rig.outcomes.receive_nowait(), Interrupted)
        assert rig.poller.statistics().returned_unstarted == 3


async def test_what_lies_in_the_prefetch_buffer_is_given_back(backend: MemoryBackend) -> None:
    async with polling(backend, demand=5, prefetch=4) as rig:
        for _ in range(5):
            await put(backend)
        started = await rig.deliveries.receive()
        await trio.sleep(1)
        rig.poller.stop()
        await rig.done.wait()
        returned = [rig.outcomes.receive_nowait() for _ in range(4)]
        assert all(isinstance(outcome, Interrupted) for outcome in returned)
        assert started not in [outcome.attempt for outcome in returned]
        with pytest.raises(trio.EndOfChannel):
            await rig.deliveries.receive()


async def test_what_was_received_but_not_claimed_goes_back_unclaimed(
    backend: MemoryBackend,
) -> None:
    async with polling(backend, room_for_leases=0) as rig:
        task = await put(backend)
        await trio.sleep(1)
        rig.poller.stop()
        await acquired(rig)
        await rig.done.wait()
        assert isinstance(rig.settlements.receive_nowait()[0], Release)
        assert status(backend, task.id) is TaskStatus.PENDING
        assert backend.faults.calls["claim"] == 0


async def test_without_anybody_to_keep_leases_it_gives_back_and_ends(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        rig.leases.close()
        task = await put(backend)
        assert isinstance(await rig.settlement(), Release)
        await rig.done.wait()
        assert status(backend, task.id) is TaskStatus.PENDING
