"""The submitter: the row first, then the message, then the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine import TaskError, TaskStatus
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import SubmitRequest, SubmitResult
from task_queue_engine.actors.submitter import _UNDER_WAY, Submitter
from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    Message,
    NewTask,
    QueueDepth,
    Rejected,
    TooLarge,
    TryAgain,
)
from task_queue_engine.backends.memory import MAX_DELAY, MemoryBackend, MemoryQueue
from task_queue_engine.errors import BackendUnavailable
from tests.actors.support import claimed, make_task, put, queue_gone, retry, status
from tests.actors.test_scheduler import scheduling


@dataclass
class Rig:
    submitter: Submitter
    submissions: trio.MemorySendChannel[SubmitRequest]
    health: ActorHealth
    done: trio.Event

    async def submit(self, *tasks: NewTask) -> tuple[SubmitResult, ...]:
        request = SubmitRequest(tasks, lambda: None)
        await self.submissions.send(request)
        return await request.results()


@asynccontextmanager
async def submitting(backend: MemoryBackend) -> AsyncIterator[Rig]:
    submissions_out, submissions_in = trio.open_memory_channel[SubmitRequest](100)
    health = ActorHealth()
    submitter = Submitter(
        submit=backend.submit,
        store=backend.store,
        queue_of=backend.queue,
        clock=backend.clock,
        retry=retry("submitter", health),
        submissions=submissions_in,
    )
    done = trio.Event()

    async def run() -> None:
        await submitter.run()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Rig(submitter, submissions_out, health, done)
        nursery.cancel_scope.cancel()


def new(backend: MemoryBackend, **fields: Any) -> NewTask:
    return NewTask(task=make_task(backend, **fields))


async def waiting(backend: MemoryBackend, queue: str = "default") -> int:
    return (await backend.queue(queue).depth()).waiting


async def test_it_stores_sends_and_answers(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        task = new(backend)
        assert await rig.submit(task) == (Created(),)
        assert await backend.store.get([task.task.id]) == [task.task]
        (delivery,) = await backend.queue("default").receive(1, wait=0, visibility=1)
        assert delivery.task_id == task.task.id
        assert rig.submitter.statistics().submitted == 1


async def test_nothing_is_answered_before_it_is_stored_and_sent(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        for operation in ("create", "send"):
            request = SubmitRequest((new(backend),), lambda: None)
            with backend.faults.block(operation) as gate:
                await rig.submissions.send(request)
                await gate.arrived.wait()
                with trio.move_on_after(60) as scope:
                    await request.results()
                assert scope.cancelled_caught
            assert await request.results() == (Created(),)


async def test_each_request_gets_its_own_answers_in_its_own_order(
    backend: MemoryBackend,
) -> None:
    async with submitting(backend) as rig:
        existing = new(backend)
        await rig.submit(existing)
        answers: dict[int, tuple[SubmitResult, ...]] = {}

        async def submit(n: int, *tasks: NewTask) -> None:
            answers[n] = await rig.submit(*tasks)

        async with trio.open_nursery() as nursery:
            with backend.faults.block("create") as gate:
                nursery.start_soon(submit, 0, new(backend))
                await gate.arrived.wait()
                nursery.start_soon(submit, 1, new(backend), existing)
                nursery.start_soon(submit, 2, existing, new(backend), new(backend))
                await trio.sleep(1)
        old = AlreadyExists(existing.task)
        assert answers == {
            0: (Created(),),
            1: (Created(), old),
            2: (old, Created(), Created()),
        }
        assert backend.faults.calls["create"] == 3, "what came together was stored together"
        assert rig.submitter.statistics().replayed == 2


async def test_what_exists_and_has_begun_is_not_sent_again(backend: MemoryBackend) -> None:
    attempt = await claimed(backend)
    async with submitting(backend) as rig:
        (answer,) = await rig.submit(NewTask(task=attempt.task))
        assert isinstance(answer, AlreadyExists)
        assert await waiting(backend) == 0


async def test_submitted_again_what_was_stored_and_never_sent_is_sent_at_once(
    backend: MemoryBackend,
) -> None:
    """The process that stored it died before it could send, and its client tries again. What has
    its mark is the scheduler's."""
    now = backend.clock.now()
    task = await put(backend, send=False)
    soon = await put(backend, send=False, run_at=now + timedelta(seconds=MAX_DELAY))
    later = await put(backend, send=False, run_at=now + timedelta(seconds=MAX_DELAY + 1))
    async with submitting(backend) as rig:
        answers = await rig.submit(*(NewTask(task=each) for each in (task, soon, later)))
        assert answers == (AlreadyExists(task), AlreadyExists(soon), AlreadyExists(later))
        due = await backend.store.due("default", before=now + timedelta(hours=1), limit=10)
        assert [(each.task.id, (each.due_at - now).total_seconds()) for each in due] == [
            (task.id, pytest.approx(150, abs=1)),
            (soon.id, pytest.approx(MAX_DELAY + 150, abs=1)),
        ]
        assert await waiting(backend) == 2


async def test_repeated_for_ever_a_submission_causes_a_message_a_minute_at_most(
    backend: MemoryBackend,
) -> None:
    """From three processes at once, while the task waits for its worker."""
    task = new(backend)
    async with submitting(backend) as one, submitting(backend) as two, submitting(backend) as three:
        await one.submit(task)
        async with scheduling(backend):
            for _ in range(500):
                for rig in (one, two, three):
                    (answer,) = await rig.submit(NewTask(task=task.task))
                    assert isinstance(answer, AlreadyExists)
                await trio.sleep(0.02)
            assert await waiting(backend) == 2
            # Two of the three looked once more whether the mark was theirs.
            assert backend.faults.calls["change_due"] == 3 + 2, "a repetition costs nothing"
            for _ in range(1000):
                await one.submit(NewTask(task=task.task))
                await trio.sleep(0.6)
            assert await waiting(backend) <= 2 + 10


async def test_a_mark_whose_answer_is_lost_is_sent_for_all_the_same(backend: MemoryBackend) -> None:
    task = await put(backend, send=False)
    async with submitting(backend) as rig:
        backend.faults.lose_answer("change_due")
        assert await rig.submit(NewTask(task=task)) == (AlreadyExists(task),)
        assert await waiting(backend) == 1


async def test_a_mark_that_the_store_made_twice_is_its_own(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store whose answer was lost makes the change again by itself, and meets its own mark."""
    task = await put(backend, send=False)
    change_due = type(backend.store).change_due
    calls = 0

    async def twice(store: Any, items: Any) -> list[bool]:
        nonlocal calls
        calls += 1
        if calls == 1:
            await change_due(store, items)
        return await change_due(store, items)

    monkeypatch.setattr(type(backend.store), "change_due", twice)
    async with submitting(backend) as rig:
        assert await rig.submit(NewTask(task=task)) == (AlreadyExists(task),)
        assert await waiting(backend) == 1


async def test_a_queue_that_is_down_costs_another_no_try(backend: MemoryBackend) -> None:
    with queue_gone("mail"):
        async with submitting(backend) as rig:
            assert await rig.submit(new(backend, queue="mail")) == (Created(),)
            backend.faults.unavailable("send", times=2)
            assert await rig.submit(new(backend)) == (Created(),)
            assert await waiting(backend) == 1


async def test_what_the_queue_refuses_for_good_is_told_and_fails(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        backend.faults.reject("send")
        refused, fine = new(backend), new(backend)
        assert await rig.submit(refused, fine) == (Rejected("refused by a test"), Created())
        assert await waiting(backend) == 1
        assert status(backend, refused.task.id) is TaskStatus.FAILED
        (found,) = await backend.store.get([refused.task.id])
        assert found is not None
        assert found.error == TaskError(
            type="task_queue_engine.errors.MessageRefused", message="refused by a test"
        )


async def test_a_refused_task_that_cannot_be_ended_now_is_told_all_the_same(
    backend: MemoryBackend,
) -> None:
    async with submitting(backend) as rig:
        backend.faults.reject("send")
        backend.faults.unavailable("fail_pending")
        assert await rig.submit(new(backend)) == (Rejected("refused by a test"),)


async def test_what_the_queue_could_never_take_is_not_stored(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(queue: MemoryQueue, message: Message) -> TooLarge | None:
        return TooLarge(10, 5) if message.payload_json == b"12345678" else None

    monkeypatch.setattr(MemoryQueue, "too_large", too_large)
    async with submitting(backend) as rig:
        large, fine = new(backend, payload=12345678), new(backend)
        assert await rig.submit(large, fine, large) == (TooLarge(10, 5), Created(), TooLarge(10, 5))
        assert backend.store.row(large.task.id) is None
        assert await waiting(backend) == 1


async def test_what_is_too_large_is_told_and_not_sent(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        (result,) = await rig.submit(new(backend, payload="x" * 2**21))
        assert isinstance(result, TooLarge)
        assert await waiting(backend) == 0


async def test_more_tasks_than_the_store_or_the_queue_takes_at_once(
    backend: MemoryBackend,
) -> None:
    number = backend.store.max_batch * 2 + 5
    async with submitting(backend) as rig:
        results = await rig.submit(*(new(backend) for _ in range(number)))
        assert results == (Created(),) * number
        assert await waiting(backend) == number
        assert backend.faults.calls["create"] == backend.faults.calls["send"] == 3


async def test_tasks_go_to_their_own_queues(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        await rig.submit(new(backend), new(backend, queue="mail"), new(backend, queue="mail"))
        assert await waiting(backend) == 1
        assert await waiting(backend, "mail") == 2


async def test_a_short_delay_rides_on_the_message(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        run_at = backend.clock.now() + timedelta(seconds=60)
        await rig.submit(new(backend, run_at=run_at))
        queue = backend.queue("default")
        assert await queue.receive(1, wait=59, visibility=1) == []
        assert len(await queue.receive(1, wait=2, visibility=1)) == 1


async def test_a_delay_made_too_long_by_a_clock_set_back_is_sent_all_the_same(
    backend: MemoryBackend,
) -> None:
    async with submitting(backend) as rig:
        run_at = backend.clock.now() + timedelta(seconds=MAX_DELAY + 3600)
        await rig.submit(new(backend, run_at=run_at))
        assert await waiting(backend) == 1


async def test_what_is_due_later_is_not_sent_now(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        due = backend.clock.now() + timedelta(seconds=MAX_DELAY + 1)
        task = NewTask(task=make_task(backend, run_at=due), due_at=due)
        assert await rig.submit(task) == (Created(),)
        assert await backend.queue("default").depth() == QueueDepth(waiting=0, in_flight=0, dead=0)
        assert len(await backend.store.due("default", before=due, limit=10)) == 1


# --- trouble --------------------------------------------------------------------------------


async def test_while_the_store_is_down_it_answers_at_once(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        with backend.faults.outage("create"):
            before = trio.current_time()
            (result,) = await rig.submit(new(backend))
            assert isinstance(result, BackendUnavailable)
            assert trio.current_time() == before
        assert await rig.submit(new(backend)) == (Created(),)
        assert rig.submitter.statistics().refused == 1


async def test_one_task_the_store_could_not_take_is_not_sent(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        backend.faults.try_again("create", items=1)
        results = await rig.submit(new(backend), new(backend))
        assert [type(result) for result in results] == [TryAgain, Created]
        assert await waiting(backend) == 1


async def test_only_messages_that_failed_are_sent_again(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        backend.faults.try_again("send", items=2)
        assert await rig.submit(new(backend), new(backend), new(backend)) == (Created(),) * 3
        assert await waiting(backend) == 3
        assert backend.faults.calls["send"] == 2


async def test_a_passing_trouble_of_the_queue_is_waited_out(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        backend.faults.unavailable("send", times=2)
        assert await rig.submit(new(backend)) == (Created(),)
        assert await waiting(backend) == 1
        assert rig.submitter.statistics().unsent == 0


@pytest.mark.parametrize("run_in", [0, 60])
async def test_what_cannot_be_sent_is_left_to_the_scheduler(
    backend: MemoryBackend, run_in: float
) -> None:
    async with submitting(backend) as rig:
        now = backend.clock.now()
        run_at = now + timedelta(seconds=run_in) if run_in else None
        with backend.faults.outage("send"):
            assert await rig.submit(new(backend, run_at=run_at)) == (Created(),)
        soon = backend.clock.now()
        assert len(await backend.store.due("default", before=soon, limit=10)) == (run_in == 0)
        later = now + timedelta(seconds=60)
        assert len(await backend.store.due("default", before=later, limit=10)) == 1
        assert rig.submitter.statistics().unsent == 1
        assert rig.health.troubles == (), "the scheduler's from now on"


async def test_while_the_queue_is_down_no_caller_waits_long(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        with backend.faults.outage("send"):
            await rig.submit(new(backend))
            before = trio.current_time()
            for _ in range(10):
                await rig.submit(new(backend))
            assert trio.current_time() == before
        await rig.submit(new(backend))
        backend.faults.unavailable("send", times=2)
        await rig.submit(new(backend))
        assert rig.submitter.statistics().unsent == 11
        assert await waiting(backend) == 2


# --- the end --------------------------------------------------------------------------------


async def test_what_was_handed_over_is_carried_out_before_the_end(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        requests = [SubmitRequest((new(backend),), lambda: None) for _ in range(20)]
        for request in requests:
            rig.submissions.send_nowait(request)
        rig.submissions.close()
        await rig.done.wait()
        assert await waiting(backend) == 20
        for request in requests:
            assert await request.results() == (Created(),)


async def test_a_full_channel_makes_submitters_wait(backend: MemoryBackend) -> None:
    async with submitting(backend) as rig:
        with backend.faults.block("create"):
            for _ in range(_UNDER_WAY):
                await rig.submissions.send(SubmitRequest((new(backend),), lambda: None))
                await trio.testing.wait_all_tasks_blocked()
            assert backend.faults.calls["create"] == _UNDER_WAY
            for _ in range(100):
                rig.submissions.send_nowait(SubmitRequest((new(backend),), lambda: None))
            with pytest.raises(trio.WouldBlock):
                rig.submissions.send_nowait(SubmitRequest((new(backend),), lambda: None))
