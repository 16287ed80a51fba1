"""A write whose answer was lost finds itself: when the client repeats the request, and when the
caller repeats the call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import AlreadyExists, Counts, Created, NewTask
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    Cancel,
    CancelledNow,
    CancelRequested,
    Complete,
    DuplicateDelivery,
    Exhausted,
    Fail,
    Finished,
    Interrupt,
    Progress,
    Recorded,
    Reopened,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import TaskStatus
from tests.backends.aws.dynamodb.faults import (
    Fault,
    FaultyClient,
    lost_answer,
    not_sent,
    nothing_wrong,
    sent_twice,
)
from tests.backends.aws.dynamodb.tasks import (
    ERROR,
    create,
    get,
    known_of,
    make_task,
    request_of,
    start,
)


@dataclass(frozen=True)
class Losing:
    """How an answer gets lost, and what the caller then does."""

    fault: Fault
    repeats: bool
    repetition_never_arrives: bool = False
    """The first one; the second one does."""

    async def __call__(
        self, client: FaultyClient, call: Callable[[], Any], *, write: int = 1
    ) -> Any:
        """
        Args:
            write: which of the call's writes is lost. (The second one where the row had to be
                looked at first.)
        """
        client.arm_writes(nothing_wrong, times=write - 1)
        client.arm_writes(self.fault)
        if self.repeats:
            with pytest.raises(BackendUnavailable):
                await call()
            client.disarm()
        try:
            if self.repetition_never_arrives:
                client.arm_writes(not_sent)
                with suppress(BackendUnavailable):
                    return await call()  # its look at the row was enough
                client.disarm()
            return await call()
        finally:
            client.disarm()


@pytest.fixture(
    params=["by the client", "by the caller", "by the caller, in vain at first", "never arrived"]
)
def losing(request: pytest.FixtureRequest) -> Losing:
    return {
        "by the client": Losing(sent_twice, repeats=False),
        "by the caller": Losing(lost_answer, repeats=True),
        "by the caller, in vain at first": Losing(
            lost_answer, repeats=True, repetition_never_arrives=True
        ),
        "never arrived": Losing(not_sent, repeats=True),
    }[request.param]


async def test_claim(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    """Else the delivery would look like a duplicate of itself, and the task would wait for its
    lease to run out and lose an attempt."""
    (task,) = await create(store, clock)

    verdicts = await losing(client, lambda: store.claim([request_of(task.id)]))

    assert verdicts == [Started(await get(store, task.id))]
    assert verdicts[0].task.attempt == 1
    assert await store.counts() == Counts(processing=1)
    assert await store.claim([request_of(task.id)]) == [DuplicateDelivery()]


async def test_claim_by_takeover(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (task,) = await start(store, clock)

    verdicts = await losing(client, lambda: store.claim([request_of(task.id, count=2)]), write=2)

    assert verdicts == [Started(await get(store, task.id), takeover=True)]
    assert (verdicts[0].task.attempt, verdicts[0].task.retry_count) == (2, 1)
    assert await store.counts() == Counts(processing=1)


async def test_claim_of_an_exhausted_task(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    """Else its message would be deleted as that of a finished task, not dead-lettered."""
    (task,) = await start(store, clock, max_attempts=1)

    verdicts = await losing(client, lambda: store.claim([request_of(task.id, count=2)]), write=2)

    assert verdicts == [Exhausted(await get(store, task.id))]
    assert await store.counts() == Counts(failed=1)


async def test_claim_of_a_task_to_be_cancelled(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (task,) = await start(store, clock)
    await store.cancel([task.id])
    verdicts = await losing(client, lambda: store.claim([request_of(task.id, count=2)]), write=2)
    assert verdicts == [Finished(TaskStatus.CANCELLED)]
    assert await store.counts() == Counts(cancelled=1)


async def test_a_duplicate_in_the_same_batch_is_not_the_lost_write(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (task,) = await create(store, clock)
    twice = [request_of(task.id)] * 2
    first, second = await losing(client, lambda: store.claim(twice))
    assert isinstance(first, Started)
    assert second == DuplicateDelivery()


async def test_another_process_does_not_take_the_lost_write_for_its_own(
    store: DynamoStore, table: Any, client: FaultyClient, clock: ManualClock
) -> None:
    (task,) = await create(store, clock)
    client.arm_writes(lost_answer)
    with pytest.raises(BackendUnavailable):
        await store.claim([request_of(task.id)])
    client.disarm()
    other = table.store(clock=clock)
    async with other.open():
        assert await other.claim([request_of(task.id)]) == [DuplicateDelivery()]


WRITES: dict[str, tuple[Callable[[ManualClock, str], AttemptWrite], TaskStatus]] = {
    "complete": (
        lambda c, i: Complete(task_id=i, attempt=1, result={"n": 1}),
        TaskStatus.COMPLETED,
    ),
    "fail": (lambda c, i: Fail(task_id=i, attempt=1, error=ERROR), TaskStatus.FAILED),
    "cancel": (lambda c, i: Cancel(task_id=i, attempt=1), TaskStatus.CANCELLED),
    "retry": (
        lambda c, i: ScheduleRetry(
            task_id=i, attempt=1, error=ERROR, run_at=c.now(), scheduled=True, record=known_of(c)
        ),
        TaskStatus.PENDING,
    ),
    "snooze": (
        lambda c, i: ScheduleSnooze(
            task_id=i, attempt=1, run_at=c.now(), scheduled=False, record=known_of(c)
        ),
        TaskStatus.PENDING,
    ),
    "interrupt": (
        lambda c, i: Interrupt(task_id=i, attempt=1, record=known_of(c)),
        TaskStatus.PENDING,
    ),
    "progress": (lambda c, i: Progress(task_id=i, attempt=1, value=0.5), TaskStatus.PROCESSING),
}


@pytest.mark.parametrize("kind", WRITES)
async def test_record(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing, kind: str
) -> None:
    (task,) = await start(store, clock)
    make, status = WRITES[kind]
    write = make(clock, task.id)

    verdicts = await losing(client, lambda: store.record([write]))

    assert verdicts == [Recorded(status)]
    found = await get(store, task.id)
    assert found.status is status
    assert found.retry_count == (1 if kind in ("fail", "retry") else 0)
    assert await store.counts() == Counts(**{status.lower(): 1})


@pytest.mark.parametrize("kind", ["retry", "snooze", "interrupt"])
async def test_record_where_a_cancel_request_waits(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing, kind: str
) -> None:
    """The lost write is the second one: the first was refused because of the request."""
    (task,) = await start(store, clock)
    await store.cancel([task.id])
    make, _ = WRITES[kind]
    write = make(clock, task.id)

    verdicts = await losing(client, lambda: store.record([write]), write=2)

    assert verdicts == [Recorded(TaskStatus.CANCELLED)]
    assert await store.counts() == Counts(cancelled=1)


async def test_a_batch_of_which_one_half_is_lost(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """Two requests, one of them unanswered: the call fails, and its repetition counts nothing
    twice."""
    tasks = await create(store, clock, 40)
    requests = [request_of(task.id) for task in tasks]
    client.arm_writes(lost_answer)
    with pytest.raises(BackendUnavailable):
        await store.claim(requests)
    client.disarm()

    verdicts = await store.claim(requests)

    assert [type(verdict) for verdict in verdicts] == [Started] * 40
    assert {verdict.task.attempt for verdict in verdicts} == {1}
    assert await store.counts() == Counts(processing=40)


async def test_create(store: DynamoStore, client: FaultyClient, clock: ManualClock) -> None:
    """Created, not AlreadyExists: else the submitter would not send the message."""
    task = make_task(clock)
    client.arm_writes(sent_twice)
    assert await store.create([NewTask(task=task)]) == [Created()]
    client.disarm()
    assert await store.create([NewTask(task=task)]) == [AlreadyExists(task)]
    assert await store.counts() == Counts(pending=1)


async def test_create_again_after_the_answer_was_lost(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    task = make_task(clock)
    client.arm_writes(lost_answer)
    with pytest.raises(BackendUnavailable):
        await store.create([NewTask(task=task)])
    client.disarm()
    assert await store.counts() == Counts()

    assert await store.create([NewTask(task=task)]) == [Created()]
    assert await store.counts() == Counts(pending=1)


async def test_an_idempotency_key_used_again_after_the_answer_was_lost(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """The submission that is stored is the first one: the second is compared with it."""
    first = make_task(clock, payload="first")
    client.arm_writes(lost_answer)
    with pytest.raises(BackendUnavailable):
        await store.create([NewTask(task=first)])
    client.disarm()
    clock.advance(1)
    second = make_task(clock, id=first.id, payload="second")
    assert await store.create([NewTask(task=second)]) == [AlreadyExists(first)]
    assert await store.counts() == Counts(pending=1)


async def test_cancel(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (waiting,) = await create(store, clock)
    verdicts = await losing(client, lambda: store.cancel([waiting.id]))
    assert verdicts == [CancelledNow(await get(store, waiting.id))]

    (running,) = await start(store, clock)
    verdicts = await losing(client, lambda: store.cancel([running.id]))
    assert verdicts == [CancelRequested(await get(store, running.id))]
    assert await store.counts() == Counts(cancelled=1, processing=1)


async def test_reopen(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (task,) = await create(store, clock)
    await store.cancel([task.id])
    verdicts = await losing(client, lambda: store.reopen([task.id]))
    assert verdicts == [Reopened(await get(store, task.id))]
    assert await store.counts() == Counts(pending=1)


async def test_reclaim(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (task,) = await start(store, clock)
    verdicts = await losing(client, lambda: store.reclaim([(task.id, 1)]))
    assert verdicts == [Recorded(TaskStatus.PENDING)]
    assert (await get(store, task.id)).retry_count == 1
    assert await store.counts() == Counts(pending=1)


async def test_fail_dead_lettered(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, losing: Losing
) -> None:
    (task,) = await start(store, clock)
    dead_letter = BrokerDeadLetter(task_id=task.id, message_id="m1", reason="given up")
    assert await losing(client, lambda: store.fail_dead_lettered([dead_letter])) == [
        Recorded(TaskStatus.FAILED)
    ]
    assert (await get(store, task.id)).retry_count == 1
    assert await store.counts() == Counts(failed=1)
