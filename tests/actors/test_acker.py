"""The acker: every settlement is carried out, or its lease is lost."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from task_queue_engine import TaskError
from task_queue_engine.actors.acker import Acker
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import (
    Ack,
    Lease,
    LeaseEvent,
    Leave,
    MoveToDeadLetters,
    Release,
    Settled,
    Settlement,
)
from task_queue_engine.backends.base import Delivery, QueueCapabilities, QueueDepth, QueueVerdict
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from tests.actors.support import claimed, lose, put, receive, retry


@dataclass
class Rig:
    acker: Acker
    settlements: trio.MemorySendChannel[tuple[Settlement, ...]]
    leases: trio.MemoryReceiveChannel[LeaseEvent]
    health: ActorHealth
    done: trio.Event

    async def settled(self, number: int = 1) -> list[Lease]:
        """The next leases that are done with."""
        found: list[Lease] = []
        while len(found) < number:
            event = await self.leases.receive()
            assert isinstance(event, Settled)
            found.extend(event.leases)
        return found


@asynccontextmanager
async def acking(backend: MemoryBackend) -> AsyncIterator[Rig]:
    settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](0)
    leases_out, leases_in = trio.open_memory_channel[LeaseEvent](math.inf)
    health = ActorHealth()
    acker = Acker(
        queue=backend.queue("default"),
        clock=backend.clock,
        retry=lambda name: retry(name, health),
        settlements=settlements_in,
        leases=leases_out,
    )
    done = trio.Event()

    async def run() -> None:
        await acker.run()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Rig(acker, settlements_out, leases_in, health, done)
        nursery.cancel_scope.cancel()


async def received(backend: MemoryBackend) -> Lease:
    await put(backend)
    return await receive(backend)


async def depth(backend: MemoryBackend) -> QueueDepth:
    return await backend.queue("default").depth()


async def test_each_kind_of_settlement_does_what_it_says(backend: MemoryBackend) -> None:
    async with acking(backend) as rig:
        acked, released, left = [await received(backend) for _ in range(3)]
        attempt = await claimed(backend)
        error = TaskError(type="ValueError", message="bad")
        dead = MoveToDeadLetters(attempt.lease, "no use", task=attempt.task, error=error)
        await rig.settlements.send((Ack(acked), Release(released, 60), dead, Leave(left)))
        assert set(await rig.settled(4)) == {acked, released, left, attempt.lease}
        assert await depth(backend) == QueueDepth(waiting=1, in_flight=1, dead=1)
        (dead_letter,) = (await backend.queue("default").dead_letters.page(limit=10)).dead_letters
        assert dead_letter.task_id == attempt.task.id
        assert dead_letter.task_type == "t"
        assert dead_letter.reason == "no use"
        assert dead_letter.error == error
        assert dead_letter.attempts == 1
        assert dead_letter.at == backend.clock.now()
        statistics = rig.acker.statistics()
        assert (statistics.deleted, statistics.released) == (1, 1)
        assert (statistics.dead_lettered, statistics.left) == (1, 1)


async def test_a_released_message_comes_back_after_its_delay(backend: MemoryBackend) -> None:
    async with acking(backend) as rig:
        await rig.settlements.send((Release(await received(backend), 60),))
        await rig.settled()
        queue = backend.queue("default")
        assert await queue.receive(1, wait=59, visibility=1) == []
        assert len(await queue.receive(1, wait=2, visibility=1)) == 1


async def test_settlements_that_wait_are_carried_out_together(backend: MemoryBackend) -> None:
    async with acking(backend) as rig, trio.open_nursery() as nursery:
        with backend.faults.block("delete") as gate:
            for _ in range(12):
                nursery.start_soon(rig.settlements.send, (Ack(await received(backend)),))
            await gate.arrived.wait()
            await trio.sleep(1)
        await rig.settled(12)
        assert backend.faults.calls["delete"] <= 3


async def test_more_than_the_queue_takes_at_once(backend: MemoryBackend) -> None:
    number = backend.queue("default").max_batch * 2 + 3
    async with acking(backend) as rig:
        leases = [await received(backend) for _ in range(number)]
        await rig.settlements.send(tuple(Ack(lease) for lease in leases))
        assert await rig.settled(number) == leases
        assert backend.faults.calls["delete"] == 3
        assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=0)


@pytest.mark.parametrize("operation", ["delete", "release", "dead_letter"])
async def test_only_the_entries_that_failed_are_tried_again(
    backend: MemoryBackend, operation: str
) -> None:
    async with acking(backend) as rig:
        leases = [await received(backend) for _ in range(3)]
        kinds = {
            "delete": Ack,
            "release": Release,
            "dead_letter": lambda lease: MoveToDeadLetters(lease, "no use"),
        }
        backend.faults.try_again(operation, items=2)
        sizes = watch(backend, operation)
        await rig.settlements.send(tuple(kinds[operation](lease) for lease in leases))
        assert await rig.settled(3) == leases
        assert sizes == [3, 2]
        assert rig.health.troubles == ()


def watch(backend: MemoryBackend, operation: str) -> list[int]:
    """How many items each call of `operation` has, from now on."""
    sizes: list[int] = []
    queue = backend.queue("default")
    original = getattr(queue, operation)

    async def spy(items: list[object]) -> object:
        sizes.append(len(items))
        return await original(items)

    setattr(queue, operation, spy)
    return sizes


@pytest.mark.parametrize("operation", ["delete", "release", "dead_letter"])
async def test_while_the_queue_is_down_it_waits_and_the_leases_are_kept(
    backend: MemoryBackend, operation: str
) -> None:
    async with acking(backend) as rig:
        lease = await received(backend)
        kinds = {
            "delete": Ack(lease),
            "release": Release(lease),
            "dead_letter": MoveToDeadLetters(lease, "no use"),
        }
        with backend.faults.outage(operation):
            await rig.settlements.send((kinds[operation],))
            await trio.sleep(600)
            assert rig.health.troubles
            with pytest.raises(trio.WouldBlock):
                rig.leases.receive_nowait()
        assert await rig.settled() == [lease]
        assert rig.health.troubles == ()
        assert (await depth(backend)).in_flight == 0


@pytest.mark.parametrize("operation", ["delete", "release", "dead_letter"])
async def test_a_lease_is_marked_before_the_queue_is_asked(
    backend: MemoryBackend, operation: str
) -> None:
    """From then on a stale receipt is no lost lease."""
    async with acking(backend) as rig:
        lease, left = await received(backend), await received(backend)
        kinds = {
            "delete": Ack(lease),
            "release": Release(lease),
            "dead_letter": MoveToDeadLetters(lease, "no use"),
        }
        with backend.faults.block(operation) as gate:
            await rig.settlements.send((kinds[operation], Leave(left)))
            await gate.arrived.wait()
            assert lease.settling
            assert left.settling


async def test_a_lease_lost_meanwhile_is_not_tried_for_ever(backend: MemoryBackend) -> None:
    async with acking(backend) as rig:
        lost, held = [await received(backend) for _ in range(2)]
        with backend.faults.outage("delete"):
            await rig.settlements.send((Ack(lost), Ack(held)))
            await trio.sleep(20)
            lose(lost)
            lose(held)
            with trio.fail_after(10):
                assert await rig.settled(2) == [lost, held]
        assert rig.acker.statistics().stale == 2
        # It is idle now: it is in no trouble.
        assert rig.health.troubles == ()


@pytest.mark.parametrize("operation", ["delete", "release", "dead_letter"])
async def test_an_answer_that_got_lost_does_no_harm(backend: MemoryBackend, operation: str) -> None:
    async with acking(backend) as rig:
        lease = await received(backend)
        kinds = {
            "delete": Ack(lease),
            "release": Release(lease),
            "dead_letter": MoveToDeadLetters(lease, "no use"),
        }
        backend.faults.lose_answer(operation)
        await rig.settlements.send((kinds[operation],))
        assert await rig.settled() == [lease]
        after = await depth(backend)
        assert after.in_flight == 0
        assert after.waiting == (operation == "release")
        assert after.dead == (operation == "dead_letter")


async def test_a_message_that_another_worker_has_by_now_is_left_to_it(
    backend: MemoryBackend,
) -> None:
    async with acking(backend) as rig:
        old = await received(backend)
        backend.queue("default").lapse_leases()
        new = await receive(backend)
        await rig.settlements.send((Ack(old),))
        assert await rig.settled() == [old]
        assert (await depth(backend)).in_flight == 1
        assert rig.acker.statistics().stale == 1
        await rig.settlements.send((Ack(new),))
        await rig.settled()
        assert (await depth(backend)).in_flight == 0


async def test_what_the_queue_refuses_for_good_is_let_go(backend: MemoryBackend) -> None:
    async with acking(backend) as rig:
        lease = await received(backend)
        await rig.settlements.send((Release(lease, 10**9),))
        assert await rig.settled() == [lease]


async def test_it_drains_and_ends_with_the_stream(backend: MemoryBackend) -> None:
    async with acking(backend) as rig:
        lease = await received(backend)
        await rig.settlements.send((Ack(lease),))
        rig.settlements.close()
        await rig.done.wait()
        assert await rig.settled() == [lease]
        with pytest.raises(trio.EndOfChannel):
            await rig.leases.receive()


KINDS: dict[str, Callable[[Lease], Settlement]] = {
    "delete": Ack,
    "release": Release,
    "dead_letter": lambda lease: MoveToDeadLetters(lease, "no use"),
}


@pytest.mark.parametrize(
    ("down", "working"), [(a, b) for a in KINDS for b in KINDS if a != b], ids=str
)
async def test_trouble_with_one_kind_holds_up_no_other(
    backend: MemoryBackend, down: str, working: str
) -> None:
    async with acking(backend) as rig:
        stuck = [await received(backend) for _ in range(3)]
        fine = [await received(backend) for _ in range(3)]
        with backend.faults.outage(down):
            for one, other in zip(stuck, fine, strict=True):
                await rig.settlements.send((KINDS[down](one), KINDS[working](other)))
            with trio.fail_after(1):
                assert set(await rig.settled(3)) == set(fine)
            await trio.sleep(60)
            (trouble,) = rig.health.troubles
            assert trouble.startswith("acker")
            assert f"{down}: made to fail" in trouble
        assert set(await rig.settled(3)) == set(stuck)
        assert rig.health.troubles == ()


@pytest.mark.parametrize("down", ["release", "dead_letter"])
async def test_what_too_much_waits_for_is_let_go_and_comes_back(
    backend: MemoryBackend, down: str
) -> None:
    """The dead-letter queue is gone for good, and the line goes on with everything else."""
    number = 350
    async with acking(backend) as rig:
        with backend.faults.outage(down):
            with trio.fail_after(60):
                for _ in range(number):
                    await rig.settlements.send((KINDS[down](await received(backend)),))
                    await rig.settlements.send((Ack(await received(backend)),))
                held = 101  # a batch under way, and what may wait for it: their leases are kept
                await rig.settled(2 * number - held)
            statistics = rig.acker.statistics()
            assert statistics.deleted == number
            assert statistics.let_go == number - held
            assert rig.health.troubles != ()
        await rig.settled(held)
        assert (await depth(backend)).in_flight == statistics.let_go


async def test_at_the_end_a_dead_letter_queue_in_trouble_is_not_waited_for(
    backend: MemoryBackend,
) -> None:
    async with acking(backend) as rig:
        dead, fine = await received(backend), await received(backend)
        with backend.faults.outage("dead_letter"):
            await rig.settlements.send((MoveToDeadLetters(dead, "no use"), Ack(fine)))
            await trio.sleep(60)
            rig.settlements.close()
            with trio.fail_after(6):
                await rig.done.wait()
        assert set(await rig.settled(2)) == {dead, fine}
        assert rig.health.troubles == ()
        assert (await depth(backend)).in_flight == 1, "it comes back when its lease ends"


async def test_without_a_lease_keeper_it_goes_on_settling(
    backend: MemoryBackend,
) -> None:
    async with acking(backend) as rig:
        leases = [await received(backend) for _ in range(4)]
        rig.leases.close()
        await rig.settlements.send((Ack(leases[0]), Leave(leases[1])))
        await rig.settlements.send((Ack(leases[2]),))
        rig.settlements.close()
        await rig.done.wait()
        assert (await depth(backend)).in_flight == 2


async def test_where_requests_cost_money_settlements_wait_for_company(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryQueue, "capabilities", QueueCapabilities(settle_linger=0.1))
    asked: list[int] = []
    delete = MemoryQueue.delete

    async def counting(queue: MemoryQueue, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        asked.append(len(deliveries))
        return await delete(queue, deliveries)

    monkeypatch.setattr(MemoryQueue, "delete", counting)
    async with acking(backend) as rig:
        for _ in range(3):
            await rig.settlements.send((Ack(await received(backend)),))
            await trio.sleep(0.03)
        await rig.settled(3)
        assert asked == [3]
        began = trio.current_time()
        await rig.settlements.send((Ack(await received(backend)),))
        rig.settlements.close()
        await rig.done.wait()
        assert asked == [3, 1]
        assert trio.current_time() == began, "at the end of the line nothing waits"
