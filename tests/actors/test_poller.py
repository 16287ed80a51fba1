"""The poller: takes what workers ask for, hands on what is to run, gives back what is not."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from task_queue_engine import TaskStatus
from task_queue_engine.actors.messages import Ack, Acquired, Leave, Release
from task_queue_engine.backends.base import Delivery, QueueCapabilities
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from tests.actors.polling import polling
from tests.actors.support import LEASE, lose, put, receive, status

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
    async with polling(backend, keeper=False) as rig:
        with backend.faults.block("claim") as gate:
            task = await put(backend)
            await gate.arrived.wait()
            event = rig.lease_events.receive_nowait()
            assert isinstance(event, Acquired)
            assert [lease.delivery.task_id for lease in event.leases] == [task.id]
            assert event.leases[0].expires_at == pytest.approx(trio.current_time() + LEASE)


async def test_without_demand_nothing_is_received(backend: MemoryBackend) -> None:
    async with polling(backend, demand=0) as rig:
        await put(backend)
        await trio.sleep(3600)
        assert backend.faults.calls["receive"] == 0
        rig.free()
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
        rig.free()
        await rig.deliveries.receive()


async def test_a_batch_never_exceeds_what_the_queue_takes(backend: MemoryBackend) -> None:
    for _ in range(backend.queue("default").max_batch * 4):
        await put(backend)
    async with polling(backend, demand=backend.queue("default").max_batch * 4 + 1) as rig:
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


# --- not to run, trouble --------------------------------------------------------------------


async def test_a_duplicate_of_a_live_attempt_is_left_alone(backend: MemoryBackend) -> None:
    await put(backend)
    backend.faults.duplicate_deliveries(1)
    async with polling(backend, demand=2) as rig:
        await rig.deliveries.receive()
        assert isinstance(await rig.settlement(), Leave)
        assert rig.claimer.statistics().duplicates == 1


@pytest.mark.parametrize(("operation", "actor"), [("receive", "poller"), ("claim", "claimer")])
async def test_trouble_is_waited_out(backend: MemoryBackend, operation: str, actor: str) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage(operation):
            await put(backend)
            await trio.sleep(20)
            assert rig.health.troubles == (f"{actor}: {operation}: made to fail by a test",)
        attempt = await rig.deliveries.receive()
        assert (attempt.task.attempt, attempt.task.retry_count) == (1, 0)
    assert rig.health.troubles == ()


async def test_what_the_lease_keeper_gives_to_a_running_attempt_is_not_claimed(
    backend: MemoryBackend,
) -> None:
    """Nor does it take the place of anything else."""
    await put(backend)
    again = await receive(backend, visibility=5)
    async with polling(backend, demand=1) as rig:
        rig.adopting.add(again.delivery.message_id)
        await trio.sleep(6)
        assert backend.faults.calls["claim"] == 0
        statistics = rig.poller.statistics()
        assert (statistics.received, statistics.duplicates) == (1, 1)
        task = await put(backend)
        assert (await rig.deliveries.receive()).task.id == task.id


# --- stopping -------------------------------------------------------------------------------


async def test_a_stop_ends_the_long_poll_and_takes_nothing_more(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        await trio.sleep(1)
        rig.stop()
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
        rig.stop()
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
            rig.stop()
            if cut_after is not None:
                await trio.sleep(cut_after)
                rig.poller.cut_short()
            await rig.done.wait()
            assert trio.current_time() - before == pytest.approx(expected, abs=0.1)


async def test_what_has_not_started_does_not_wait_for_that(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryQueue, "capabilities", QueueCapabilities(poll_outlives_cancel=True))
    async with polling(backend, demand=0, prefetch=3) as rig:
        tasks = [await put(backend), await put(backend)]
        await trio.testing.wait_all_tasks_blocked()
        rig.stop()
        with trio.fail_after(1):
            settlements = await rig.settlements.receive()
        assert {lease.lease.delivery.task_id for lease in settlements} == {t.id for t in tasks}
        assert not rig.done.is_set()
        await rig.done.wait()


async def test_a_stop_while_no_worker_asks_for_work(backend: MemoryBackend) -> None:
    async with polling(backend, demand=0) as rig:
        await trio.sleep(1)
        rig.stop()
        rig.stop()
        with trio.fail_after(1):
            await rig.done.wait()


async def test_a_stop_during_an_outage_is_not_held_up(backend: MemoryBackend) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("receive"):
            await trio.sleep(100)
            rig.stop()
            with trio.fail_after(0.1):
                await rig.done.wait()


async def test_a_stop_during_a_failing_claim_gives_the_message_back(
    backend: MemoryBackend,
) -> None:
    async with polling(backend) as rig:
        with backend.faults.outage("claim"):
            await put(backend)
            await trio.sleep(20)
            rig.stop()
            with trio.fail_after(10):
                await rig.done.wait()
        assert await rig.settlement() == Release(await rig.lease())


async def test_what_lies_in_the_prefetch_buffer_is_given_back(
    backend: MemoryBackend,
) -> None:
    async with polling(backend, demand=1, prefetch=4) as rig:
        tasks = [await put(backend) for _ in range(5)]
        await trio.sleep(1)
        started = await rig.deliveries.receive()
        rig.stop()
        await rig.done.wait()
        settlements = [item async for batch in rig.settlements for item in batch]
        assert all(isinstance(settlement, Release) for settlement in settlements)
        returned = {settlement.lease.delivery.task_id for settlement in settlements}
        assert returned == {task.id for task in tasks} - {started.task.id}
        assert {status(backend, task_id) for task_id in returned} == {TaskStatus.PENDING}
        assert rig.claimer.statistics().returned == 4
        with pytest.raises(trio.EndOfChannel):
            rig.outcomes.receive_nowait()


async def test_the_buffer_is_claimed_as_workers_come_free_in_one_batch(
    backend: MemoryBackend,
) -> None:
    for _ in range(11):
        await put(backend)
    async with polling(backend, demand=1, prefetch=10) as rig:
        await trio.sleep(1)
        assert rig.claimer.statistics().waiting == 10
        assert backend.faults.calls["claim"] == 1
        with backend.faults.block("claim") as gate:
            rig.free()
            await gate.arrived.wait()
            rig.free(3)
        await trio.sleep(1)
        assert backend.faults.calls["claim"] == 3, "those that came free meanwhile are one batch"
        assert rig.claimer.statistics().claimed == 5
        assert (await backend.store.counts()).processing == 5


async def test_a_worn_message_is_replaced_and_not_claimed(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the broker's limit of receives would count as the task's limit of attempts. By a copy
    that waits: its task may kill the process that has yet to delete the worn one."""
    original = MemoryQueue._take

    def worn(queue: MemoryQueue, max_messages: int, visibility: float) -> list[Delivery]:
        return [
            replace(delivery, is_worn=delivery.receive_count == 2)
            for delivery in original(queue, max_messages, visibility)
        ]

    monkeypatch.setattr(MemoryQueue, "_take", worn)
    await put(backend)
    await receive(backend, visibility=1)
    async with polling(backend) as rig:
        settlement = await rig.settlement()
        assert isinstance(settlement, Release)
        assert settlement.delay == 1
        assert backend.faults.calls["claim"] == 0


async def test_a_lease_lost_in_the_buffer_is_never_claimed(backend: MemoryBackend) -> None:
    async with polling(backend, demand=0, prefetch=1) as rig:
        await put(backend)
        lost = await rig.lease()
        lose(lost)
        rig.free()
        assert await rig.settlement() == Leave(lost)
        assert backend.faults.calls["claim"] == 0
        fresh = await put(backend)
        assert (await rig.deliveries.receive()).task.id == fresh.id


async def test_what_was_received_but_not_claimed_goes_back_unclaimed(
    backend: MemoryBackend,
) -> None:
    async with polling(backend, keeper=False, room_for_events=0) as rig:
        task = await put(backend)
        await trio.sleep(1)
        rig.stop()
        await rig.lease()
        await rig.done.wait()
        assert isinstance(rig.settlements.receive_nowait()[0], Release)
        assert status(backend, task.id) is TaskStatus.PENDING
        assert backend.faults.calls["claim"] == 0


async def test_without_a_lease_keeper_it_gives_back_and_ends(
    backend: MemoryBackend,
) -> None:
    async with polling(backend, keeper=False) as rig:
        rig.lease_events.close()
        task = await put(backend)
        assert isinstance(await rig.settlement(), Release)
        rig.stop()
        await rig.done.wait()
        assert status(backend, task.id) is TaskStatus.PENDING


async def test_a_lease_keeper_that_ends_before_it_answers(backend: MemoryBackend) -> None:
    await put(backend)
    await receive(backend, visibility=1)
    async with polling(backend, keeper=False) as rig:
        event = await rig.lease_events.receive()
        assert isinstance(event, Acquired)
        await trio.sleep(60)
        assert not rig.done.is_set()
        rig.lease_events.close()
        event.reply.refuse()
        assert await rig.settlement() == Release(event.leases[0])
        rig.stop()
        await rig.done.wait()
