"""The claimer: what starts, what is settled without a start, and which claims were its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from task_queue_engine import TaskError, TaskStatus
from task_queue_engine.actors.messages import (
    AbortReason,
    Ack,
    Acquired,
    Errored,
    Interrupted,
    Leave,
    MoveToDeadLetters,
    Release,
)
from task_queue_engine.backends.base import Message
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.lifecycle import (
    ClaimRequest,
    Complete,
    Fail,
    Started,
    crash_error,
    decide_claim,
)
from task_queue_engine.registry import RunsIn
from task_queue_engine.retry import SnoozeUntil
from tests.actors.polling import Rig, known, polling
from tests.actors.support import LEASE, claim, lose, put, receive, status


async def test_a_finished_task_is_deleted_and_not_run(backend: MemoryBackend) -> None:
    task = await put(backend)
    attempt = await claim(backend, await receive(backend, visibility=1))
    await backend.store.record([Complete(task_id=task.id, attempt=1, result=None)])
    assert attempt.task.id == task.id
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Ack)
        assert rig.claimer.statistics().claimed == 0


async def test_a_cancelled_task_is_deleted_and_not_run(backend: MemoryBackend) -> None:
    task = await put(backend)
    await backend.store.cancel([task.id])
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Ack)


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
        assert rig.claimer.statistics().taken_over == 1
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
        assert isinstance(settlement, MoveToDeadLetters)
        assert settlement.reason == "its worker died 1 times of 1 allowed"
        assert settlement.error is not None
        assert settlement.error.type.endswith("AttemptCrashed")
        assert rig.claimer.statistics().quarantined == 1
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
        assert isinstance(settlement, MoveToDeadLetters)
        assert settlement.reason == "no such task in the store"


async def test_last_chances_that_have_to_wait_leave_their_places_to_others(
    backend: MemoryBackend,
) -> None:
    crashed = {"retry_count": 1, "max_attempts": 2, "error": crash_error(1, "dead")}
    first, second = [await put(backend, **crashed) for _ in range(2)]
    async with polling(backend, demand=2) as rig:
        for task in (second, first):
            postponed = await rig.outcomes.receive()
            assert isinstance(postponed, Errored)
            assert isinstance(postponed.decision, SnoozeUntil), "at no cost"
            assert postponed.attempt.task.id == task.id
        for _ in range(2):
            fresh = await put(backend)
            assert (await rig.deliveries.receive()).task.id == fresh.id


# --- what comes in between ------------------------------------------------------------------


async def test_leases_lost_while_the_claim_failed_are_given_up(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("claim"):
            await put(backend)
            lease = await rig.lease()
            while not backend.faults.calls["claim"]:
                await trio.lowlevel.checkpoint()
            lose(lease)
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
            lose(await rig.lease())
        assert (await rig.deliveries.receive()).abort_reason is not None


async def test_an_attempt_cancelled_while_its_claim_was_under_way_does_not_start(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        with backend.faults.block("claim") as gate:
            await put(backend)
            await gate.arrived.wait()
            (await rig.lease()).cancel_asked = True
        attempt = await rig.deliveries.receive()
        assert attempt.abort_reason is AbortReason.CANCELLED


# --- a claim whose answer was lost ----------------------------------------------------------


async def test_what_was_claimed_with_its_receive_waits_until_the_lease_keeper_has_seen_it(
    backend: MemoryBackend,
) -> None:
    """It may know of a cancel that came while the take was under way."""
    await put(backend)
    backend.is_one_transaction = True
    async with polling(backend, keeper=False) as rig:
        event = await rig.lease_events.receive()
        assert isinstance(event, Acquired)
        (lease,) = event.leases
        assert lease.started is not None
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            rig.deliveries.receive_nowait()
        lease.cancel_asked = True
        event.reply.give(event.leases)
        attempt = await rig.deliveries.receive()
        assert attempt.abort_reason is AbortReason.CANCELLED


async def test_a_claim_whose_answer_was_lost_is_recognised_as_its_own(
    backend: MemoryBackend,
) -> None:
    """Else an attempt that never ran would count as a crash."""
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim")
        await put(backend, max_attempts=1)
        attempt = await rig.deliveries.receive()
        assert (attempt.task.attempt, attempt.task.retry_count) == (1, 0)
        assert rig.claimer.statistics().duplicates == 0


async def test_a_duplicate_of_what_is_held_here_is_not_taken_for_a_lost_answer(
    backend: MemoryBackend,
) -> None:
    backend.faults.duplicate_deliveries(1)
    await put(backend)
    async with polling(backend, demand=1) as rig:
        await rig.deliveries.receive()
        backend.faults.lose_answer("claim")
        rig.free()
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


async def test_a_duplicate_of_another_workers_attempt_is_not_taken_for_a_lost_answer(
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
        assert isinstance(await rig.settlement(), MoveToDeadLetters)


async def test_a_trouble_while_it_looks_is_waited_out(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim", times=2)
        backend.faults.unavailable("get", times=3)
        await put(backend)
        assert (await rig.deliveries.receive()).task.retry_count == 0


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_however_many_answers_in_a_row_were_lost(backend: MemoryBackend, lost: int) -> None:
    running = await put(backend, max_attempts=1)
    dead = await put(backend, max_attempts=1)
    await receive(backend)  # the first
    await claim(backend, await receive(backend))
    backend.queue("default").lapse_leases()
    backend.faults.lose_answer("claim", times=lost)
    async with polling(backend, demand=2) as rig:
        attempt = await rig.deliveries.receive()
        assert attempt.key == (running.id, 1)
        assert attempt.task.retry_count == 0
        settlement = await rig.settlement()
        assert isinstance(settlement, MoveToDeadLetters)
        assert settlement.lease.delivery.task_id == dead.id
        assert settlement.reason == "its worker died 1 times of 1 allowed"
        assert settlement.error is not None
        assert rig.claimer.statistics().quarantined == 1
        assert rig.claimer.statistics().duplicates == 0
    assert backend.faults.calls["claim"] == 1 + lost + 1  # the test's own one is the first


async def test_an_answer_lost_again_while_the_store_is_down_in_between(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim")
        await put(backend, max_attempts=1)
        await claim_was_lost(rig, backend)
        with backend.faults.outage("claim"):
            await trio.sleep(20)
            backend.faults.lose_answer("claim")
        attempt = await rig.deliveries.receive()
        assert (attempt.task.attempt, attempt.task.retry_count) == (1, 0)


async def claim_was_lost(rig: Rig, backend: MemoryBackend) -> None:
    """The row is written, and the next try is still to come."""
    lease = await rig.lease()
    while status(backend, lease.delivery.task_id) is TaskStatus.PENDING:
        await trio.lowlevel.checkpoint()


async def test_a_takeover_whose_answer_was_lost_is_counted_once(backend: MemoryBackend) -> None:
    await put(backend)
    await claim(backend, await receive(backend))
    backend.queue("default").lapse_leases()
    backend.faults.lose_answer("claim", times=2)
    async with polling(backend) as rig:
        attempt = await rig.deliveries.receive()
        assert (attempt.task.attempt, attempt.task.retry_count) == (2, 1)
        assert rig.claimer.statistics().taken_over == 1


async def test_a_cancel_written_by_a_claim_whose_answer_was_lost(backend: MemoryBackend) -> None:
    task = await put(backend)
    await claim(backend, await receive(backend))
    await backend.store.cancel([task.id])
    backend.queue("default").lapse_leases()
    backend.faults.lose_answer("claim", times=2)
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Ack)
    row = backend.store.row(task.id)
    assert row is not None
    assert (row.task.status, row.task.retry_count) == (TaskStatus.CANCELLED, 1)


async def test_what_was_cancelled_elsewhere_between_two_tries_does_not_start(
    backend: MemoryBackend,
) -> None:
    """The row says so; the lease keeper would find it later than the handler starts."""
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim")
        task = await put(backend)
        await claim_was_lost(rig, backend)
        await backend.store.cancel([task.id])
        attempt = await rig.deliveries.receive()
        assert attempt.abort_reason is AbortReason.CANCELLED


async def test_what_was_taken_over_between_two_tries_is_left_to_its_new_owner(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim")
        await put(backend)
        await claim_was_lost(rig, backend)
        backend.queue("default").lapse_leases()
        delivery = (await receive(backend)).delivery
        request = ClaimRequest(
            task_id=delivery.task_id,
            message_id=delivery.message_id,
            receive_count=delivery.receive_count,
            worker="elsewhere",
        )
        assert isinstance((await backend.store.claim([request]))[0], Started)
        assert isinstance(await rig.settlement(), Leave)


async def test_a_task_that_failed_by_itself_makes_no_dead_letter_here(
    backend: MemoryBackend,
) -> None:
    """Its worker, which is alive, makes it."""
    task = await put(backend)
    backend.faults.duplicate_deliveries(1)
    await claim(backend, await receive(backend))
    error = TaskError(type="ValueError", message="bad")
    await backend.store.record([Fail(task_id=task.id, attempt=1, error=error)])
    backend.faults.lose_answer("claim")
    async with polling(backend) as rig:
        assert isinstance(await rig.settlement(), Leave)


async def test_a_stop_waits_to_hear_of_an_unanswered_claim(backend: MemoryBackend) -> None:
    """Given back without that it would count as a crash in the next engine."""
    async with polling(backend) as rig:
        with backend.faults.outage("claim"), backend.faults.outage("get"):
            task = await put(backend, max_attempts=1)
            await trio.sleep(20)
            await start_unanswered(rig, backend)
            rig.stop()
            await trio.sleep(10)
            assert not rig.done.is_set()
        with trio.fail_after(10):
            await rig.done.wait()
        outcome = rig.outcomes.receive_nowait()
        assert isinstance(outcome, Interrupted)
        assert outcome.attempt.task.id == task.id
        assert rig.claimer.statistics().returned == 1


async def start_unanswered(rig: Rig, backend: MemoryBackend) -> None:
    """What a claim does of which no more is heard."""
    lease = await rig.lease()
    request = ClaimRequest(
        task_id=lease.delivery.task_id,
        message_id=lease.delivery.message_id,
        receive_count=lease.delivery.receive_count,
        worker="here",
    )
    row = backend.store.row(lease.delivery.task_id)
    verdict, changed = decide_claim(row, request, backend.clock.now())
    assert isinstance(verdict, Started)
    assert changed is not None
    backend.state.rows[lease.delivery.task_id] = changed


async def test_until_the_grace_is_over(backend: MemoryBackend) -> None:
    """Then what is unclear is left: it may be another attempt's."""
    async with polling(backend) as rig:
        backend.faults.lose_answer("claim")
        with backend.faults.outage("get"):
            await put(backend)
            await trio.sleep(20)
            rig.stop()
            await trio.sleep(20)
            assert not rig.done.is_set()
            rig.claimer.cut_short()
            with trio.fail_after(10):
                await rig.done.wait()
        assert isinstance(await rig.settlement(), Leave)


async def test_a_claim_under_lost_leases_that_went_unanswered_costs_nothing(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("claim"), backend.faults.outage("get"):
            await put(backend, max_attempts=1)
            await trio.sleep(20)
            await start_unanswered(rig, backend)
            rig.claimer._in_hand[0].lost = True
            await trio.sleep(20)
        attempt = await rig.deliveries.receive()
        assert attempt.abort_reason is AbortReason.LEASE_LOST, "which its worker gives back"


async def test_a_stop_while_it_looks_costs_its_neighbours_nothing(backend: MemoryBackend) -> None:
    known, unclear = await put(backend), await put(backend)
    calls = 0
    original = backend.store.claim

    async def claim_one_then_fail(requests: list[ClaimRequest]) -> object:
        """As a store may that writes row by row."""
        nonlocal calls
        calls += 1
        if calls == 1:
            await original([request for request in requests if request.task_id == unclear.id])
            backend.faults.unavailable("claim")
        return await original(requests)

    backend.store.claim = claim_one_then_fail  # type: ignore[assignment,method-assign]
    async with polling(backend, demand=2) as rig:
        with backend.faults.outage("get"):
            await trio.sleep(20)
            rig.stop()
            rig.claimer.cut_short()
            with trio.fail_after(10):
                await rig.done.wait()
        outcome = rig.outcomes.receive_nowait()
        assert isinstance(outcome, Interrupted)
        assert outcome.attempt.task.id == known.id
        assert isinstance(await rig.settlement(), Leave)


async def test_a_quarantine_that_cannot_be_looked_at_comes_back_to_find_its_dead_letter(
    backend: MemoryBackend,
) -> None:
    task = await put(backend, max_attempts=1)
    await claim(backend, await receive(backend))
    backend.queue("default").lapse_leases()
    backend.faults.lose_answer("claim")
    async with polling(backend) as rig:
        with backend.faults.outage("get"):
            await trio.sleep(20)
            assert status(backend, task.id) is TaskStatus.FAILED
            rig.stop()
            rig.claimer.cut_short()
            await rig.done.wait()
        # For all it knows another worker has it.
        assert isinstance(await rig.settlement(), Leave)
    backend.queue("default").lapse_leases()
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, MoveToDeadLetters)
        assert settlement.error is not None


async def test_a_lost_answer_is_recognised_without_a_lease_keeper(backend: MemoryBackend) -> None:
    """It died, and the engine ends: what never ran costs nothing all the same."""
    async with polling(backend, keeper=False) as rig:
        backend.faults.lose_answer("claim")
        task = await put(backend, max_attempts=1)
        await claim_was_lost(rig, backend)
        rig.lease_events.close()
        rig.stop()
        outcome = await rig.outcomes.receive()
        assert isinstance(outcome, Interrupted)
        assert outcome.attempt.task.id == task.id


async def test_what_would_wait_for_a_thread_is_not_claimed_and_others_pass_it(
    backend: MemoryBackend,
) -> None:
    """PROCESSING means that a handler runs: what waits costs nothing when the worker dies."""
    registry = known("quick")

    @registry.task("heavy")
    def heavy(payload: Any) -> None: ...

    first, second = [await put(backend, type="heavy") for _ in range(2)]
    quick = await put(backend, type="quick")
    async with polling(backend, demand=3, registry=registry, places={RunsIn.THREAD: 1}) as rig:
        started = {(await rig.deliveries.receive()).task.id for _ in range(2)}
        assert started == {first.id, quick.id}
        rig.free(after="quick")
        await trio.testing.wait_all_tasks_blocked()
        assert status(backend, second.id) is TaskStatus.PENDING
        assert rig.claimer.statistics().waiting == 1
        rig.free(after="heavy")
        assert (await rig.deliveries.receive()).task.id == second.id


async def test_of_places_that_are_taken_no_poll_under_way_knows_too_little(
    autojump_clock: MockClock,
) -> None:
    """Where what is received is claimed at once, a receive waits by what was known when it began:
    what has been handed over just before has its places."""
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=True)
    registry = known("quick")

    @registry.task("heavy")
    def heavy(payload: Any) -> None: ...

    async with backend.open():
        running = await put(backend, type="heavy")
        async with polling(backend, demand=4, registry=registry, places={RunsIn.THREAD: 1}) as rig:
            assert (await rig.deliveries.receive()).task.id == running.id
            await trio.testing.wait_all_tasks_blocked()
            waits, quick = await put(backend, type="heavy"), await put(backend, type="quick")
            assert (await rig.deliveries.receive()).task.id == quick.id
            await trio.testing.wait_all_tasks_blocked()
            assert status(backend, waits.id) is TaskStatus.PENDING
            rig.free(after="heavy")
            assert (await rig.deliveries.receive()).task.id == waits.id


async def test_what_was_not_claimed_for_want_of_a_thread_goes_back_at_a_stop(
    backend: MemoryBackend,
) -> None:
    registry = known()

    @registry.task("heavy")
    def heavy(payload: Any) -> None: ...

    for _ in range(2):
        await put(backend, type="heavy")
    async with polling(backend, demand=2, registry=registry, places={RunsIn.THREAD: 1}) as rig:
        await rig.deliveries.receive()
        await trio.testing.wait_all_tasks_blocked()
        rig.stop()
        settlement = await rig.settlement()
        assert isinstance(settlement, Release)
        assert settlement.delay == 0
