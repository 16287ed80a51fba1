"""The lease keeper: what is held stays ours, or what runs under it stops."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from msgspec import structs
from trio.testing import wait_all_tasks_blocked

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.lease_keeper import LeaseKeeper
from task_queue_engine.actors.messages import (
    AbortReason,
    Acquired,
    Attempt,
    CancelAsked,
    Lease,
    LeaseEvent,
    Settled,
)
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.lifecycle import Started
from tests.actors.support import LEASE, background, claim, claimed, loose_lease, put, receive


@dataclass
class Rig:
    keeper: LeaseKeeper
    events: trio.MemorySendChannel[LeaseEvent]
    health: ActorHealth
    done: trio.Event

    async def keep(self, *leases: Lease) -> None:
        await self.events.send(Acquired(leases))


def make_keeper(
    backend: MemoryBackend,
    events: trio.MemoryReceiveChannel[LeaseEvent],
    health: ActorHealth | None = None,
) -> LeaseKeeper:
    return LeaseKeeper(
        queue=backend.queue("default"),
        store=backend.store,
        visibility=LEASE,
        cancel_poll=1,
        health=health or ActorHealth(),
        events=events,
    )


@asynccontextmanager
async def keeping(backend: MemoryBackend) -> AsyncIterator[Rig]:
    events_out, events_in = trio.open_memory_channel[LeaseEvent](0)
    health = ActorHealth()
    keeper = make_keeper(backend, events_in, health)
    done = trio.Event()

    async def run() -> None:
        await keeper.run()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Rig(keeper, events_out, health, done)
        nursery.cancel_scope.cancel()


async def received(backend: MemoryBackend) -> Lease:
    await put(backend)
    return await receive(backend)


async def is_free(backend: MemoryBackend) -> bool:
    """Whether another worker could have the message now."""
    return bool(await backend.queue("default").receive(1, wait=0, visibility=LEASE))


# --- keeping --------------------------------------------------------------------------------


async def test_a_lease_is_kept_for_as_long_as_it_takes(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        lease = await received(backend)
        await rig.keep(lease)
        for _ in range(100):
            await trio.sleep(LEASE)
            assert not await is_free(backend)
        assert not lease.lost
        assert rig.keeper.statistics().held == 1
        assert rig.keeper.statistics().renewed > 100


async def test_without_leases_nothing_wakes_it(backend: MemoryBackend) -> None:
    def next_wake() -> float:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline

    async with keeping(backend) as rig:
        await wait_all_tasks_blocked()
        assert next_wake() > 1e6  # seconds: the limit of the test itself
        for _ in range(3):
            lease = await received(backend)
            await rig.keep(lease)
            await wait_all_tasks_blocked()
            assert next_wake() < LEASE
            await trio.sleep(2 * LEASE)
            assert not lease.lost
            await rig.events.send(Settled((lease,)))
            await trio.sleep(2 * LEASE)
            assert next_wake() > 1e6  # seconds: the limit of the test itself


async def test_short_work_costs_no_renewal(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        for _ in range(50):
            lease = await received(backend)
            await rig.keep(lease)
            await trio.sleep(5)
            await rig.events.send(Settled((lease,)))
        assert backend.faults.calls["extend"] == 0


async def test_what_is_settled_is_forgotten(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        leases = [await received(backend) for _ in range(3)]
        await rig.keep(*leases)
        await rig.events.send(Settled((leases[0], leases[2])))
        await rig.events.send(Settled((leases[0],)))
        assert rig.keeper.statistics().held == 1
        await trio.sleep(LEASE + 1)
        assert await is_free(backend)
        assert not leases[0].lost


async def test_a_duplicate_that_is_settled_takes_no_lease_from_the_original(
    backend: MemoryBackend,
) -> None:
    """The same delivery may be handed out twice, receipt and all."""
    async with keeping(backend) as rig:
        original = await received(backend)
        duplicate = Lease(original.delivery, original.expires_at)
        await rig.keep(original)
        await rig.keep(duplicate)
        await rig.events.send(Settled((duplicate,)))
        await trio.sleep(LEASE * 5)
        assert not original.lost
        assert not await is_free(backend)


async def test_many_leases_are_renewed_in_the_batches_the_queue_takes(
    backend: MemoryBackend,
) -> None:
    number = backend.queue("default").max_batch * 2 + 1
    async with keeping(backend) as rig:
        leases = [await received(backend) for _ in range(number)]
        await rig.keep(*leases)
        await trio.sleep(LEASE * 3)
        assert not any(lease.lost for lease in leases)
        assert not await is_free(backend)


# --- losing ---------------------------------------------------------------------------------


async def test_a_lease_the_queue_says_is_gone_stops_its_attempt(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        backend.queue("default").lapse_leases()
        await receive(backend)
        await trio.sleep(LEASE)
        assert attempt.lease.lost
        assert attempt.abort_reason is AbortReason.LEASE_LOST
        assert attempt.scope.cancel_called
        assert rig.keeper.statistics().lost == 1


async def test_a_stale_receipt_is_no_lost_lease_once_the_message_is_being_settled(
    backend: MemoryBackend,
) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        attempt.lease.settling = True
        await backend.queue("default").delete([attempt.lease.delivery])
        await trio.sleep(LEASE * 0.6)
        assert backend.faults.calls["extend"]
        assert not attempt.lease.lost
        assert rig.keeper.statistics().lost == 0


@pytest.mark.parametrize("trouble", ["down", "hanging", "try again"])
async def test_a_lease_that_cannot_be_renewed_stops_its_attempt_before_it_runs_out(
    backend: MemoryBackend, trouble: str
) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        ends = trio.current_time() + LEASE
        await rig.keep(attempt.lease)
        with trio.fail_after(LEASE):
            if trouble == "down":
                with backend.faults.outage("extend"):
                    await lost(attempt)
            elif trouble == "hanging":
                with backend.faults.block("extend"):
                    await lost(attempt)
            else:
                backend.faults.try_again("extend", items=100)
                await lost(attempt)
        assert attempt.abort_reason is AbortReason.LEASE_LOST
        assert ends - LEASE / 5 < trio.current_time() < ends
        assert not await is_free(backend)


async def lost(attempt: Any) -> None:
    while attempt.abort_reason is None:  # noqa: ASYNC110 - time costs nothing here
        await trio.sleep(0.1)


async def test_a_passing_trouble_loses_no_lease(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        for operation in (backend.faults.outage, backend.faults.block):
            with operation("extend"):
                await trio.sleep(LEASE / 3)
            await trio.sleep(LEASE)
        backend.faults.lose_answer("extend", times=2)
        await trio.sleep(LEASE * 3)
        assert attempt.abort_reason is None
        assert rig.health.troubles == ()


async def test_one_hanging_renewal_does_not_cost_the_other_leases(
    backend: MemoryBackend,
) -> None:
    size = backend.queue("default").max_batch
    async with keeping(backend) as rig:
        leases = [await received(backend) for _ in range(size * 8)]
        await rig.keep(*leases)
        hang_for(backend, leases[0])
        await trio.sleep(LEASE * 3)
        assert [lease.lost for lease in leases[size:]] == [False] * (size * 7)


def hang_for(backend: MemoryBackend, lease: Lease) -> None:
    """Calls that concern this lease hang, others do not."""
    queue = backend.queue("default")
    extend = queue.extend

    async def hanging(deliveries: Any, *, visibility: float) -> Any:
        if lease.delivery in deliveries:
            await trio.sleep_forever()
        return await extend(deliveries, visibility=visibility)

    queue.extend = hanging  # type: ignore[method-assign]


async def test_trouble_shows_and_is_over_when_it_is_over(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        for operation in ("extend", "cancel_requested"):
            with backend.faults.outage(operation):
                await trio.sleep(LEASE * 0.6)
                assert rig.health.troubles
            await trio.sleep(LEASE / 2)
            assert rig.health.troubles == ()


async def test_trouble_is_over_when_nothing_is_held_any_more(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        with backend.faults.outage("extend", "cancel_requested"):
            await trio.sleep(LEASE * 0.6)
            assert len(rig.health.troubles) == 2
            await rig.events.send(Settled((attempt.lease,)))
        await trio.sleep(LEASE)
        assert rig.health.troubles == ()


# --- answering ------------------------------------------------------------------------------


async def test_what_is_new_is_to_go_on(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        leases = (await received(backend), await received(backend))
        event = Acquired(leases)
        await rig.events.send(event)
        assert await event.reply.get() == leases
        assert rig.keeper.statistics().held == 2


async def test_a_message_that_comes_again_while_its_attempt_runs_goes_to_its_lease(
    backend: MemoryBackend,
) -> None:
    """As after a clock was set ahead: the attempt keeps it, under the new receipt."""
    async with keeping(backend) as rig:
        attempt, other = await claimed(backend), await claimed(backend)
        lease, old = attempt.lease, attempt.lease.delivery
        await rig.keep(lease, other.lease)
        backend.queue("default").lapse_leases()
        await trio.sleep(1)
        again = await receive(backend)
        fresh = loose_lease()
        event = Acquired((again, fresh))
        await rig.events.send(event)
        assert await event.reply.get() == (fresh,)
        assert lease.delivery is again.delivery
        assert lease.delivery is not old
        assert lease.expires_at == again.expires_at
        assert rig.keeper.statistics().held == 3
        await trio.sleep(LEASE * 3)
        assert not lease.lost, "what is renewed is the new receipt"


async def test_a_message_that_comes_again_while_it_waits_for_its_claim_is_not_claimed_twice(
    backend: MemoryBackend,
) -> None:
    """The second claim would count the first as a crash."""
    async with keeping(backend) as rig:
        lease = await received(backend)
        await rig.keep(lease)
        backend.queue("default").lapse_leases()
        again = await receive(backend)
        event = Acquired((again,))
        await rig.events.send(event)
        assert await event.reply.get() == ()
        assert lease.delivery is again.delivery


@pytest.mark.parametrize("state", ["aborted", "lost", "settling"])
async def test_only_what_goes_on_keeps_its_message(backend: MemoryBackend, state: str) -> None:
    async with keeping(backend) as rig:
        lease = await received(backend)
        await claim(backend, lease)
        if state == "aborted":
            assert lease.attempt is not None
            lease.attempt.abort(AbortReason.CANCELLED)
        lease.lost = state == "lost"
        lease.settling = state == "settling"
        await rig.keep(lease)
        old = lease.delivery
        backend.queue("default").lapse_leases()
        event = Acquired((await receive(backend),))
        await rig.events.send(event)
        assert await event.reply.get() == event.leases
        assert lease.delivery is old


async def test_a_duplicate_with_the_same_receipt_goes_on_to_the_claim(
    backend: MemoryBackend,
) -> None:
    async with keeping(backend) as rig:
        await put(backend)
        await receive(backend)
        backend.queue("default").lapse_leases()
        attempt = await claim(backend, await receive(backend))
        await rig.keep(attempt.lease)
        assert attempt.lease.delivery.receive_count == 2
        duplicate = Lease(attempt.lease.delivery, attempt.lease.expires_at)
        event = Acquired((duplicate,))
        await rig.events.send(event)
        assert await event.reply.get() == (duplicate,)


async def test_a_renewal_under_way_says_nothing_of_the_receipt_that_came_meanwhile(
    backend: MemoryBackend,
) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        with backend.faults.block("extend") as gate:
            await gate.arrived.wait()
            backend.queue("default").lapse_leases()
            await rig.keep(await receive(backend))
        await trio.sleep(0.01)
        assert not attempt.lease.lost, "the old receipt is stale for a good reason"


async def test_an_answer_takes_in_all_events_before_it(backend: MemoryBackend) -> None:
    """A cancel that came before the question counts when the answer is there."""
    events_out, events_in = trio.open_memory_channel[LeaseEvent](10)
    lease = await received(backend)
    asked = Acquired((loose_lease(),))
    for event in (Acquired((lease,)), CancelAsked(lease.delivery.task_id), asked):
        events_out.send_nowait(event)
    async with background(make_keeper(backend, events_in).run):
        await asked.reply.get()
        assert lease.cancel_asked


async def test_when_a_defect_ends_it_no_sender_waits_for_an_answer(
    backend: MemoryBackend,
) -> None:
    events_out, events_in = trio.open_memory_channel[LeaseEvent](10)
    backend.faults.defect("extend", RuntimeError("a defect"))
    events_out.send_nowait(Acquired(((await claimed(backend)).lease,)))
    replies: list[Any] = []

    async def run() -> None:
        with pytest.raises(ExceptionGroup):
            await make_keeper(backend, events_in).run()

    async def send_until_it_is_gone() -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                event = CancelAsked("some task")
                await events_out.send(event)
                replies.append(event.reply)

    with trio.fail_after(LEASE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            with backend.faults.block("extend") as gate:
                await gate.arrived.wait()
                nursery.start_soon(send_until_it_is_gone)
                await trio.lowlevel.checkpoint()
    refused = 0
    for reply in replies:
        try:
            with trio.fail_after(1):
                await reply.get()
        except trio.BrokenResourceError:
            refused += 1
    assert refused, "some were in the channel when it ended"


# --- cancelling -----------------------------------------------------------------------------


async def test_a_cancel_asked_here_stops_the_attempt_at_once(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt, other = await claimed(backend), await claimed(backend)
        await rig.keep(attempt.lease, other.lease)
        await rig.events.send(CancelAsked(attempt.task.id))
        await rig.events.send(CancelAsked("of another worker"))
        assert attempt.abort_reason is AbortReason.CANCELLED
        assert other.abort_reason is None


async def test_a_cancel_asked_elsewhere_is_found_in_the_store(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt, other = await claimed(backend), await claimed(backend)
        await rig.keep(attempt.lease, other.lease)
        await trio.sleep(10)
        await backend.store.cancel([attempt.task.id])
        await trio.sleep(1.1)
        assert attempt.abort_reason is AbortReason.CANCELLED
        assert other.abort_reason is None
        assert rig.keeper.statistics().cancels_seen == 1


@pytest.mark.parametrize("names_it", [True, False])
async def test_a_cancel_heard_of_from_elsewhere_is_looked_up_at_once(
    backend: MemoryBackend, names_it: bool
) -> None:
    """And not believed: what is said may be of an attempt before this one."""
    async with keeping(backend) as rig:
        attempt, other = await claimed(backend), await claimed(backend)
        await rig.keep(attempt.lease, other.lease)
        await trio.sleep(0.5)
        await backend.store.cancel([attempt.task.id])
        rig.keeper.hear_of_cancels([attempt.task.id, other.task.id] if names_it else None)
        await wait_all_tasks_blocked()
        assert attempt.abort_reason is AbortReason.CANCELLED
        assert other.abort_reason is None


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_cancel_from_elsewhere_finds_what_runs_beside_a_duplicate(
    backend: MemoryBackend, is_heard: bool
) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        duplicate = Lease(attempt.lease.delivery, attempt.lease.expires_at)
        await rig.keep(attempt.lease)
        await rig.keep(duplicate)
        await backend.store.cancel([attempt.task.id])
        if is_heard:
            rig.keeper.hear_of_cancels([attempt.task.id])
            await wait_all_tasks_blocked()
        else:
            await trio.sleep(2.1)
        assert attempt.abort_reason is AbortReason.CANCELLED
        assert rig.keeper.statistics().cancels_seen == 1


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_cancel_heard_of_before_the_claim_is_answered(
    backend: MemoryBackend, is_held: bool, is_asked: bool
) -> None:
    """The store has started the attempt, another process has seen it and asked for its cancel."""
    async with keeping(backend) as rig:
        lease = await received(backend)
        if is_held:
            await rig.keep(lease)
        attempt = await claim(backend, lease)
        lease.attempt = None
        if is_asked:
            await backend.store.cancel([attempt.task.id])
        rig.keeper.hear_of_cancels([attempt.task.id])
        await wait_all_tasks_blocked()
        if not is_held:
            lease.started = Started(attempt.task)
            await rig.keep(lease)
            await wait_all_tasks_blocked()
        assert lease.cancel_asked is is_asked, "the claimer looks at the lease"


async def test_a_cancel_asked_while_the_claim_is_under_way_keeps_it_from_starting(
    backend: MemoryBackend,
) -> None:
    async with keeping(backend) as rig:
        lease = await received(backend)
        await rig.keep(lease)
        # The store has started the attempt, the answer has not come yet.
        await rig.events.send(CancelAsked(lease.delivery.task_id))
        attempt = await claim(backend, lease)
        assert lease.cancel_asked
        assert attempt.abort_reason is None, "the claimer looks at the lease"


async def test_short_attempts_are_never_asked_about(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        for _ in range(20):
            attempt = await claimed(backend)
            await rig.keep(attempt.lease)
            await trio.sleep(0.9)
            await rig.events.send(Settled((attempt.lease,)))
        assert backend.faults.calls["cancel_requested"] == 0


async def test_ten_thousand_that_run_are_asked_about_in_no_time(backend: MemoryBackend) -> None:
    """Once a second, on the event loop: it must not take seconds."""
    first = await claimed(backend)
    attempts = []
    for n in range(10_000):
        lease = loose_lease(str(n))
        lease.attempt = Attempt(structs.replace(first.task, id=str(n)), lease)
        attempts.append(lease.attempt)
    async with keeping(backend) as rig:
        await rig.keep(*(attempt.lease for attempt in attempts))
        await trio.sleep(1.5)
        began = time.process_time()
        await trio.sleep(1)
        assert backend.faults.calls["cancel_requested"] > 0
        # Thirty milliseconds; with work for each of them that grows with their number, seconds.
        assert time.process_time() - began < 0.75


# --- the end --------------------------------------------------------------------------------


async def test_it_ends_with_its_events(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        await rig.keep(await received(backend))
        rig.events.close()
        with trio.fail_after(1):
            await rig.done.wait()


async def test_it_listens_while_a_renewal_hangs(backend: MemoryBackend) -> None:
    async with keeping(backend) as rig:
        attempt = await claimed(backend)
        await rig.keep(attempt.lease)
        with backend.faults.block("extend") as gate:
            await gate.arrived.wait()
            with trio.fail_after(0.1):
                await rig.events.send(CancelAsked(attempt.task.id))
                await trio.sleep(0.01)
            assert attempt.abort_reason is AbortReason.CANCELLED


async def test_a_defect_over_an_event_refuses_its_answer(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(keeper: LeaseKeeper, lease: Lease) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(LeaseKeeper, "_take", fail)
    events_out, events_in = trio.open_memory_channel[LeaseEvent](10)
    event = Acquired(((await claimed(backend)).lease,))
    with events_out:
        events_out.send_nowait(event)
        with pytest.raises(ExceptionGroup):
            await make_keeper(backend, events_in).run()
    with trio.fail_after(LEASE), pytest.raises(trio.BrokenResourceError):
        await event.reply.get()
