"""Several calls of each operation under way at the same time, as several batches of a stage are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import Counts, Created, CreateVerdict, NewTask, TryAgain
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    ClaimVerdict,
    Complete,
    ExtraCopy,
    Fenced,
    Recorded,
    RecordVerdict,
    Started,
)
from task_queue_engine.task import Task, TaskStatus
from tests.backends.aws.dynamodb.faults import FaultyClient, lost_answer, not_sent, nothing_wrong
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import make_task, record_all, request_of
from tests.sizes import size

pytestmark = pytest.mark.parametrize("table", ["dynamodb-local"], indirect=True)

T = TypeVar("T")

_BATCHES, _SIZE = 8, 30  # two requests a batch


async def all_at_once(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Each repeated until it is answered, as its actor would."""
    results: dict[int, T] = {}

    async def run(number: int) -> None:
        while number not in results:
            try:
                results[number] = await calls[number]()
            except BackendUnavailable:
                await trio.sleep(0.01)

    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            for number in range(len(calls)):
                nursery.start_soon(run, number)
    return [results[number] for number in range(len(calls))]


@pytest.mark.parametrize("seed", range(size(1, in_full=10)))
async def test_many_calls_in_flight_and_lost_answers_among_them(
    store: DynamoStore, client: FaultyClient, table: Table, clock: ManualClock, seed: int
) -> None:
    """Every task is created, started and recorded once, whoever else writes meanwhile, and the
    counts are those of the table."""
    chance = random.Random(seed)

    def trouble() -> None:
        client.disarm()
        for _ in range(40):
            client.arm(
                chance.choice([nothing_wrong, nothing_wrong, lost_answer, not_sent]),
                "BatchExecuteStatement",
            )

    batches = [[make_task(clock) for _ in range(_SIZE)] for _ in range(_BATCHES)]
    tasks = [task for batch in batches for task in batch]

    trouble()
    created = await all_at_once([_create(store, batch) for batch in batches])
    assert {verdict for each in created for verdict in each} == {Created()}

    # Each task by two messages, whose claims are under way together.
    trouble()
    claims = await all_at_once(
        [_claim(store, batch, message) for batch in batches for message in ("m1", "m2")]
    )
    verdicts = [verdict for each in claims for verdict in each]
    started = {one.task.id: one.task for one in verdicts if isinstance(one, Started)}
    assert set(started) == {task.id for task in tasks}
    assert all(task.attempt == 1 for task in started.values())
    kinds = Counter(type(verdict) for verdict in verdicts)
    assert kinds == {Started: len(tasks), ExtraCopy: len(tasks)}

    await store.flush_counts()
    assert await store.counts() == Counts(processing=len(tasks))

    trouble()
    # A zombie of another attempt writes in between.
    records = await all_at_once(
        [_record(store, batch, attempt) for batch in batches for attempt in (1, 2)]
    )
    assert {verdict for each in records[0::2] for verdict in each} == {
        Recorded(TaskStatus.COMPLETED)
    }
    assert {verdict for each in records[1::2] for verdict in each} == {Fenced()}

    client.disarm()
    # What this process knows, what it has written down for others, and what is in the table.
    everything = Counts(completed=len(tasks))
    assert await store.counts() == everything
    await store.flush_counts()
    other = table.store(clock=clock)
    async with other.open():
        assert await other.counts() == everything
        rows = await other.get([task.id for task in tasks])
    assert {row.status for row in rows if row is not None} == {TaskStatus.COMPLETED}
    assert None not in rows


def _create(
    store: DynamoStore, batch: Sequence[Task]
) -> Callable[[], Awaitable[list[CreateVerdict]]]:
    async def create() -> list[CreateVerdict]:
        verdicts = await store.create([NewTask(task=task) for task in batch])
        for i, verdict in enumerate(verdicts):
            while isinstance(verdict, TryAgain):
                with suppress(BackendUnavailable):
                    (verdict,) = await store.create([NewTask(task=batch[i])])
            verdicts[i] = verdict
        return verdicts

    return create


def _claim(
    store: DynamoStore, batch: Sequence[Task], message: str
) -> Callable[[], Awaitable[list[ClaimVerdict]]]:
    requests = [request_of(task.id, message=f"{message} of {task.id}") for task in batch]
    return lambda: store.claim(requests)


def _record(
    store: DynamoStore, batch: Sequence[Task], attempt: int
) -> Callable[[], Awaitable[list[RecordVerdict]]]:
    writes = [Complete(task_id=task.id, attempt=attempt, result=None) for task in batch]
    return lambda: record_all(store, writes)
