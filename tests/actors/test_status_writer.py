"""The status writer: what attempts came to becomes durable first, and settlements then."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine import TaskError, TaskStatus
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import (
    Ack,
    Attempt,
    ClaimEvent,
    Errored,
    Interrupted,
    LeaseEvent,
    Leave,
    Lost,
    MoveToDeadLetters,
    Outcome,
    Progressed,
    Recording,
    Release,
    Settled,
    Settlement,
    Stopped,
    Succeeded,
)
from task_queue_engine.actors.status_writer import StatusWriter
from task_queue_engine.backends.base import Finish, Finished, Steps, Taken, TakePlan, TryAgain
from task_queue_engine.backends.memory import MAX_DELAY, MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.lifecycle import AttemptWrite, Row
from task_queue_engine.retry import GiveUp, RetryAt, SnoozeUntil
from tests.actors.support import LEASE, claim, claimed, receive, retry, status

ERROR = TaskError(type="ValueError", message="bad")


@dataclass
class Rig:
    writer: StatusWriter
    outcomes: trio.MemorySendChannel[Outcome]
    settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]]
    leases: trio.MemoryReceiveChannel[LeaseEvent]
    claim_events: trio.MemoryReceiveChannel[ClaimEvent]
    health: ActorHealth
    done: trio.Event
    recorded: list[tuple[Outcome, TaskStatus]] = field(default_factory=list)

    async def write(self, outcome: Outcome) -> Settlement:
        await self.outcomes.send(outcome)
        (settlement,) = await self.settlements.receive()
        return settlement


@asynccontextmanager
async def writing(
    backend: MemoryBackend, *, linger: float = 0, steps: Steps | None = None
) -> AsyncIterator[Rig]:
    outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](0)
    settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](0)
    health = ActorHealth()
    recorded: list[tuple[Outcome, TaskStatus]] = []
    leases_out, leases_in = trio.open_memory_channel[LeaseEvent](math.inf)
    claim_events_out, claim_events_in = trio.open_memory_channel[ClaimEvent](math.inf)
    writer = StatusWriter(
        steps=steps or backend.steps("default"),
        max_delay=MAX_DELAY,
        linger=linger,
        retry=retry("status_writer", health),
        outcomes=outcomes_in,
        settlements=settlements_out,
        leases=leases_out,
        claim_events=claim_events_out,
        clock=backend.clock,
        on_recorded=lambda outcome, status: recorded.append((outcome, status)),
    )
    done = trio.Event()

    async def run() -> None:
        await writer.run()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Rig(
            writer,
            outcomes_out,
            settlements_in,
            leases_in,
            claim_events_in,
            health,
            done,
            recorded,
        )
        nursery.cancel_scope.cancel()


def stored(backend: MemoryBackend, attempt: Attempt) -> Row:
    row = backend.store.row(attempt.task.id)
    assert row is not None
    return row


def errored(backend: MemoryBackend, attempt: Attempt, decision: Any, delay: float = 0) -> Errored:
    run_at = backend.clock.now() + timedelta(seconds=delay)
    return Errored(attempt, ERROR, decision if decision is GiveUp else decision(run_at, delay))


# --- what becomes of each outcome -----------------------------------------------------------


async def test_a_success_is_stored_and_its_message_deleted(backend: MemoryBackend) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        outcome = Succeeded(attempt, {"sent": 1})
        assert await rig.write(outcome) == Ack(attempt.lease)
        task = stored(backend, attempt).task
        assert (task.status, task.result) == (TaskStatus.COMPLETED, {"sent": 1})
        assert rig.recorded == [(outcome, TaskStatus.COMPLETED)]
        assert rig.writer.statistics().completed == 1


async def test_a_final_failure_is_stored_and_its_message_dead_lettered_with_the_reason(
    backend: MemoryBackend,
) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        settlement = await rig.write(Errored(attempt, ERROR, GiveUp("no use")))
        assert settlement == MoveToDeadLetters(
            attempt.lease, "no use", task=attempt.task, error=ERROR
        )
        task = stored(backend, attempt).task
        assert (task.status, task.error, task.retry_count) == (TaskStatus.FAILED, ERROR, 1)
        assert rig.writer.statistics().failed == 1


async def test_the_log_says_in_one_line_which_task_failed_and_why(
    backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    error = TaskError(type="ValueError", message="bad\nFORGED LINE\x1b[2J")
    async with writing(backend) as rig:
        retried = await claimed(backend, max_attempts=3)
        await rig.write(Errored(retried, error, RetryAt(backend.clock.now(), 7.0)))
        failed = await claimed(backend)
        await rig.write(Errored(failed, error, GiveUp("no use")))
    first, second = caplog.records
    why = r"ValueError: bad\nFORGED LINE\x1b[2J"
    assert first.getMessage() == (
        f"t task {retried.task.id}: attempt failed (1 of 3), next in 7.0 s: {why}"
    )
    assert second.getMessage() == f"t task {failed.task.id} FAILED (no use): {why}"
    assert (first.levelname, second.levelname) == ("INFO", "WARNING")
    assert vars(second)["task_id"] == failed.task.id


def test_an_endless_error_message_is_cut_off_in_the_log() -> None:
    line = TaskError(type="ValueError", message="x" * 10_000).in_one_line(50)
    assert line == "ValueError: " + "x" * 38 + "..."


@pytest.mark.parametrize(("decision", "cost"), [(RetryAt, 1), (SnoozeUntil, 0)])
@pytest.mark.parametrize("delay", [0.0, 7.0, MAX_DELAY])
async def test_a_short_wait_rides_on_the_message(
    backend: MemoryBackend, decision: Any, cost: int, delay: float
) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        settlement = await rig.write(errored(backend, attempt, decision, delay))
        assert settlement == Release(attempt.lease, delay)
        row = stored(backend, attempt)
        assert (row.task.status, row.task.retry_count) == (TaskStatus.PENDING, cost)
        assert row.task.run_at == backend.clock.now() + timedelta(seconds=delay)
        assert row.due_at is None


@pytest.mark.parametrize("decision", [RetryAt, SnoozeUntil])
async def test_a_long_wait_lives_in_the_store(backend: MemoryBackend, decision: Any) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        settlement = await rig.write(errored(backend, attempt, decision, MAX_DELAY + 1))
        assert settlement == Ack(attempt.lease)
        row = stored(backend, attempt)
        assert row.due_at == row.task.run_at
        assert row.due_at == backend.clock.now() + timedelta(seconds=MAX_DELAY + 1)


async def test_an_interruption_gives_the_task_back_at_no_cost(backend: MemoryBackend) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        assert await rig.write(Interrupted(attempt)) == Release(attempt.lease, 0)
        task = stored(backend, attempt).task
        assert (task.status, task.retry_count, task.run_at) == (TaskStatus.PENDING, 0, None)
        assert rig.writer.statistics().interrupted == 1


async def test_a_stopped_attempt_is_cancelled_with_what_its_cleanup_said(
    backend: MemoryBackend,
) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        assert await rig.write(Stopped(attempt, ERROR)) == Ack(attempt.lease)
        task = stored(backend, attempt).task
        assert (task.status, task.error) == (TaskStatus.CANCELLED, ERROR)
        assert rig.writer.statistics().cancelled == 1


async def test_a_lost_attempt_changes_nothing_of_its_task_and_leaves_the_message(
    backend: MemoryBackend,
) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        before = stored(backend, attempt)
        assert await rig.write(Lost(attempt)) == Leave(attempt.lease)
        assert stored(backend, attempt) == before
        history = await backend.store.history(attempt.task.id)
        assert history is not None
        assert [one.outcome for one in history.attempts] == ["lost_lease"]
        assert rig.writer.statistics().fenced == 1


@pytest.mark.parametrize("kind", ["retry", "snooze", "interrupt"])
async def test_a_task_cancelled_meanwhile_does_not_come_back(
    backend: MemoryBackend, kind: str
) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        await backend.store.cancel([attempt.task.id])
        outcome: Outcome = {
            "retry": errored(backend, attempt, RetryAt, 5),
            "snooze": errored(backend, attempt, SnoozeUntil, MAX_DELAY + 1),
            "interrupt": Interrupted(attempt),
        }[kind]
        assert await rig.write(outcome) == Ack(attempt.lease)
        assert status(backend, attempt.task.id) is TaskStatus.CANCELLED


@pytest.mark.parametrize("late", [Succeeded, Interrupted, Stopped])
async def test_an_attempt_that_was_taken_over_changes_nothing(
    backend: MemoryBackend, late: Any
) -> None:
    async with writing(backend) as rig:
        old = await claimed(backend)
        backend.queue("default").lapse_leases()
        new = await claim(backend, await receive(backend))
        outcome = late(old, "stale") if late is Succeeded else late(old)
        assert await rig.write(outcome) == Leave(old.lease)
        row = stored(backend, new)
        assert (row.task.status, row.task.attempt) == (TaskStatus.PROCESSING, 2)
        assert rig.recorded == [(outcome, None)], "it came too late to count"
        assert rig.writer.statistics().fenced == 1
        await rig.write(Succeeded(new, "fresh"))
        assert stored(backend, new).task.result == "fresh"


# --- progress -------------------------------------------------------------------------------


async def test_progress_is_stored_and_settles_nothing(backend: MemoryBackend) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        await rig.outcomes.send(Progressed(attempt, {"done": 5}))
        await trio.sleep(1)
        assert stored(backend, attempt).task.progress == {"done": 5}
        with pytest.raises(trio.WouldBlock):
            rig.settlements.receive_nowait()


async def test_an_attempt_is_recorded_with_its_outcome_and_stays_so(
    backend: MemoryBackend,
) -> None:
    """What waits for it to be (`crash_isolation.py`) is not to go on at a report of progress."""
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        await rig.outcomes.send(Progressed(attempt, 1))
        await trio.sleep(1)
        assert not attempt.recorded
        await rig.write(Succeeded(attempt, None))
        assert attempt.recorded
        await rig.outcomes.send(Progressed(attempt, "late"))
        await trio.sleep(1)
        assert attempt.recorded


async def test_of_progress_that_comes_together_only_the_latest_is_written(
    backend: MemoryBackend,
) -> None:
    async with writing(backend, linger=1) as rig:
        first, second = await claimed(backend), await claimed(backend)
        for n in range(5):
            await rig.outcomes.send(Progressed(first, n))
            await rig.outcomes.send(Progressed(second, n * 10))
        await rig.outcomes.send(Succeeded(first, None))
        (settlement,) = await rig.settlements.receive()
        assert settlement == Ack(first.lease)
        assert stored(backend, first).task.status is TaskStatus.COMPLETED
        assert stored(backend, first).task.progress == 4
        assert stored(backend, second).task.progress == 40
        assert rig.writer.statistics().recorded == 3


async def test_progress_of_a_stale_attempt_is_dropped(backend: MemoryBackend) -> None:
    async with writing(backend) as rig:
        old = await claimed(backend)
        backend.queue("default").lapse_leases()
        new = await claim(backend, await receive(backend))
        await rig.outcomes.send(Progressed(old, "stale"))
        await trio.sleep(1)
        assert stored(backend, new).task.progress is None


# --- order and trouble ----------------------------------------------------------------------


async def test_nothing_is_settled_before_it_is_recorded(backend: MemoryBackend) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        with backend.faults.block("record") as gate:
            await rig.outcomes.send(Succeeded(attempt, 1))
            await gate.arrived.wait()
            await trio.sleep(100)
            with pytest.raises(trio.WouldBlock):
                rig.settlements.receive_nowait()
        assert await rig.settlements.receive() == (Ack(attempt.lease),)


async def test_while_the_store_is_down_it_waits_and_says_so(backend: MemoryBackend) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        with backend.faults.outage("record"):
            await rig.outcomes.send(Succeeded(attempt, 1))
            await trio.sleep(600)
            with pytest.raises(trio.WouldBlock):
                rig.settlements.receive_nowait()
            assert rig.health.troubles
            # Back-pressure: no further outcome is taken in meanwhile.
            with pytest.raises(trio.WouldBlock):
                rig.outcomes.send_nowait(Succeeded(attempt, 1))
        assert await rig.settlements.receive() == (Ack(attempt.lease),)
        assert rig.health.troubles == ()


@pytest.mark.parametrize("kind", ["success", "retry", "interrupt", "fail"])
async def test_a_write_whose_answer_was_lost_is_not_counted_twice(
    backend: MemoryBackend, kind: str
) -> None:
    async with writing(backend) as rig:
        attempt = await claimed(backend)
        outcome: Outcome = {
            "success": Succeeded(attempt, 1),
            "retry": errored(backend, attempt, RetryAt, 5),
            "interrupt": Interrupted(attempt),
            "fail": Errored(attempt, ERROR, GiveUp("no use")),
        }[kind]
        backend.faults.lose_answer("record")
        assert not isinstance(await rig.write(outcome), Leave)
        assert stored(backend, attempt).task.retry_count == (kind in ("retry", "fail"))
        assert rig.writer.statistics().fenced == 0


async def test_while_one_batch_is_written_the_next_one_gathers(backend: MemoryBackend) -> None:
    async with writing(backend) as rig, trio.open_nursery() as nursery:
        attempts = [await claimed(backend) for _ in range(20)]
        with backend.faults.block("record") as gate:
            for attempt in attempts:
                nursery.start_soon(rig.outcomes.send, Succeeded(attempt, None))
            await gate.arrived.wait()
            await trio.sleep(1)
        settled = 0
        while settled < len(attempts):
            settled += len(await rig.settlements.receive())
        assert backend.faults.calls["record"] <= 3


# --- side by side, where queue and store are two services ------------------------------------


class Uneven:
    """Steps that are slow for some tasks, and leave some undone."""

    max_batch = 100

    def __init__(self, backend: MemoryBackend) -> None:
        self._steps = backend.steps("default")
        self.is_one_transaction = self._steps.is_one_transaction
        self.undone: dict[str, int] = {}
        """How many times yet, by task."""
        self.held: dict[str, trio.Event] = {}
        self.calls: list[list[AttemptWrite]] = []

    async def take(self, plan: TakePlan, *, wait: float, visibility: float) -> list[Taken]:
        return await self._steps.take(plan, wait=wait, visibility=visibility)

    async def finish(self, items: Sequence[Finish]) -> list[Finished]:
        self.calls.append([item.write for item in items])
        for item in items:
            if item.write.task_id in self.held:
                await self.held[item.write.task_id].wait()
        undone = [item for item in items if self.undone.get(item.write.task_id, 0) > 0]
        for item in undone:
            self.undone[item.write.task_id] -= 1
        done = iter(await self._steps.finish([item for item in items if item not in undone]))
        again = Finished(TryAgain("throttled"))
        return [again if item in undone else next(done) for item in items]


async def test_a_late_batch_holds_up_none_behind_it(
    backend: MemoryBackend, one: MemoryBackend
) -> None:
    late, prompt = await claimed(backend), await claimed(backend)
    steps = Uneven(backend)
    steps.held[late.task.id] = trio.Event()
    async with writing(backend, steps=steps) as rig:
        await rig.outcomes.send(Succeeded(late, 1))
        await wait_all_tasks_blocked()
        await rig.outcomes.send(Succeeded(prompt, 2))
        assert await rig.settlements.receive() == (Ack(prompt.lease),)
        steps.held[late.task.id].set()
        assert await rig.settlements.receive() == (Ack(late.lease),)

    attempts = [await claimed(one), await claimed(one)]
    steps = Uneven(one)
    steps.held[attempts[0].task.id] = trio.Event()
    async with writing(one, steps=steps) as rig:
        await rig.outcomes.send(Succeeded(attempts[0], 1))
        await wait_all_tasks_blocked()
        with trio.move_on_after(60):
            await rig.outcomes.send(Succeeded(attempts[1], 2))
        assert len(steps.calls) == 1, "one thread writes: a second call would wait for it there"


async def test_batches_that_take_their_time_are_waited_for(backend: MemoryBackend) -> None:
    """What comes meanwhile shares a request."""
    steps = Uneven(backend)
    async with writing(backend, steps=steps) as rig, trio.open_nursery() as nursery:
        for _ in range(50):
            attempt = await claimed(backend)
            steps.held[attempt.task.id] = trio.Event()
            nursery.start_soon(rig.outcomes.send, Succeeded(attempt, 1))
            await wait_all_tasks_blocked()
            await trio.sleep(0.001)
            if len(steps.held) % 10 == 0:
                for event in steps.held.values():
                    event.set()
                await trio.lowlevel.checkpoint()
            while True:
                try:
                    rig.settlements.receive_nowait()
                except trio.WouldBlock:
                    break
        for event in steps.held.values():
            event.set()
        assert len(steps.calls) <= 12


async def test_what_is_left_undone_holds_up_nothing_of_its_batch(backend: MemoryBackend) -> None:
    attempts = [await claimed(backend) for _ in range(3)]
    steps = Uneven(backend)
    steps.undone[attempts[1].task.id] = 20
    async with writing(backend, steps=steps, linger=1) as rig:
        for attempt in attempts:
            await rig.outcomes.send(Succeeded(attempt, 1))
        prompt = (attempts[0], attempts[2])
        assert await rig.settlements.receive() == tuple(Ack(each.lease) for each in prompt)
        assert await rig.settlements.receive() == (Ack(attempts[1].lease),)
        assert {len(call) for call in steps.calls[1:]} == {1}
        kept_from_claiming = Recording(works=False)
        while True:
            try:
                assert rig.claim_events.receive_nowait() != kept_from_claiming
            except trio.WouldBlock:
                break
        assert rig.health.troubles == ()


async def test_one_attempts_writes_keep_their_order(backend: MemoryBackend) -> None:
    slow, other = await claimed(backend), await claimed(backend)
    steps = Uneven(backend)
    steps.held[slow.task.id] = trio.Event()
    async with writing(backend, steps=steps) as rig:
        await rig.outcomes.send(Progressed(slow, 1))
        await wait_all_tasks_blocked()
        for value in (2, 3):
            await rig.outcomes.send(Progressed(slow, value))
        await rig.outcomes.send(Succeeded(slow, "done"))
        assert await rig.write(Succeeded(other, 1)) == Ack(other.lease)
        del steps.held[slow.task.id]
        steps.undone[slow.task.id] = 3
        await trio.sleep(60)
        assert sum(write.task_id == slow.task.id for call in steps.calls for write in call) == 1
    steps = Uneven(backend)
    steps.undone[slow.task.id] = 3
    async with writing(backend, steps=steps, linger=0.001) as rig:
        await rig.outcomes.send(Progressed(slow, 1))
        await rig.outcomes.send(Progressed(slow, 2))
        assert await rig.write(Succeeded(slow, "done")) == Ack(slow.lease)
        assert stored(backend, slow).task.progress == 2


async def test_what_is_on_its_way_is_bounded(backend: MemoryBackend) -> None:
    steps = Uneven(backend)
    opened = trio.Event()
    async with writing(backend, steps=steps) as rig:
        taken = 0
        with trio.move_on_after(60):
            for _ in range(30):
                attempt = await claimed(backend)
                steps.held[attempt.task.id] = opened
                await wait_all_tasks_blocked()
                await rig.outcomes.send(Succeeded(attempt, 1))
                taken += 1
        assert taken == len(steps.calls) == 8


async def test_what_is_tried_on_is_bounded_as_well(backend: MemoryBackend) -> None:
    """One of each batch stays behind, and each holds a lease and a result."""
    steps = Uneven(backend)
    steps.max_batch = 2
    async with writing(backend, steps=steps, linger=1) as rig:
        taken = 0
        with trio.move_on_after(600):
            for _ in range(30):
                stuck, prompt = await claimed(backend), await claimed(backend)
                steps.undone[stuck.task.id] = 1_000_000
                await rig.outcomes.send(Succeeded(stuck, 1))
                await rig.outcomes.send(Succeeded(prompt, 1))
                assert await rig.settlements.receive() == (Ack(prompt.lease),)
                taken += 1
        assert taken == 8 * steps.max_batch


# --- the end --------------------------------------------------------------------------------


async def test_the_end_of_the_stream_flushes_what_lingers(backend: MemoryBackend) -> None:
    async with writing(backend, linger=1) as rig:
        attempt = await claimed(backend)
        await rig.outcomes.send(Succeeded(attempt, 1))
        rig.outcomes.close()
        before = trio.current_time()
        assert await rig.settlements.receive() == (Ack(attempt.lease),)
        assert trio.current_time() == before
        with pytest.raises(trio.EndOfChannel):
            await rig.settlements.receive()
        await rig.done.wait()
        assert rig.writer.statistics().flushes_by_end == 1


# --- where recording settles, too -----------------------------------------------------------


@pytest.fixture
async def one(autojump_clock: MockClock) -> AsyncIterator[MemoryBackend]:
    """Of which a step is one transaction."""
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=True)
    async with backend.open():
        yield backend


async def test_what_was_settled_with_its_record_is_done_with(one: MemoryBackend) -> None:
    async with writing(one) as rig:
        attempt = await claimed(one)
        await rig.outcomes.send(Succeeded(attempt, 1))
        assert await rig.leases.receive() == Settled((attempt.lease,))
        assert stored(one, attempt).task.status is TaskStatus.COMPLETED
        assert (await one.queue("default").depth()).in_flight == 0
        assert attempt.lease.settling
        with pytest.raises(trio.WouldBlock):
            rig.settlements.receive_nowait()


async def test_a_failure_and_a_retry_are_settled_with_their_record(one: MemoryBackend) -> None:
    async with writing(one) as rig:
        failed = await claimed(one)
        await rig.outcomes.send(Errored(failed, ERROR, GiveUp("no use")))
        await rig.leases.receive()
        (letter,) = await one.queue("default").dead_letters.take(limit=10)
        assert (letter.task_id, letter.reason, letter.attempts) == (failed.task.id, "no use", 1)
        retried = await claimed(one)
        await rig.outcomes.send(errored(one, retried, RetryAt, 7.0))
        await rig.leases.receive()
        depth = await one.queue("default").depth()
        assert (depth.waiting, depth.delayed, depth.in_flight) == (1, 1, 0)


async def test_an_attempt_that_goes_on_is_not_settled(one: MemoryBackend) -> None:
    async with writing(one) as rig:
        attempt = await claimed(one)
        await rig.outcomes.send(Progressed(attempt, 50))
        await trio.sleep(1)
        assert stored(one, attempt).task.progress == 50
        assert not attempt.lease.settling
        with pytest.raises(trio.WouldBlock):
            rig.leases.receive_nowait()


async def test_while_it_cannot_be_recorded_its_lease_is_kept_and_the_claimer_is_told(
    backend: MemoryBackend, one: MemoryBackend
) -> None:
    for way in (backend, one):
        async with writing(way) as rig:
            attempt = await claimed(way)
            with way.faults.outage("record", "finish"):
                await rig.outcomes.send(Succeeded(attempt, 1))
                assert await rig.claim_events.receive() == Recording(works=False)
                await trio.sleep(LEASE)
                assert not attempt.lease.settling, "as long as it is not, its lease is kept"
                with pytest.raises(trio.WouldBlock):
                    rig.claim_events.receive_nowait()
            assert await rig.claim_events.receive() == Recording(works=True)
