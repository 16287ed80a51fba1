"""Items that another program has put into the table, and what it finds there afterwards."""

from __future__ import annotations

import json
import logging
from typing import Any

import boto3
import pytest
import trio
from botocore.config import Config

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import AlreadyExists, Counts, ListQuery, NewTask, TryAgain
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    CancelledNow,
    Complete,
    DuplicateDelivery,
    ExtraCopy,
    Fail,
    Finished,
    Missing,
    Recorded,
    Reopened,
    Started,
)
from task_queue_engine.task import Task, TaskStatus, new_task_id
from tests.backends.aws.dynamodb.tables import Table, amazons_own
from tests.backends.aws.dynamodb.tasks import ERROR, create, get, make_task, request_of, start


def foreign(task_id: str, **attributes: Any) -> dict[str, Any]:
    """As the Go service stored a task."""
    return {
        "id": {"S": task_id},
        "type": {"S": "email"},
        "payload": {"S": "user@example.com"},
        "status": {"S": "PENDING"},
        "retry_count": {"N": "0"},
        "created_at": {"S": "2029-12-31T23:59:59.123456789Z"},
        "updated_at": {"S": "2029-12-31T23:59:59.123456789Z"},
    } | attributes


@pytest.fixture
async def task_id(table: Table) -> str:
    made = new_task_id()
    await table.put(foreign(made))
    return made


async def test_it_is_processed(store: DynamoStore, task_id: str) -> None:
    (found,) = await store.get([task_id])
    assert found is not None
    assert (found.type, found.payload, found.status) == (
        "email",
        "user@example.com",
        TaskStatus.PENDING,
    )

    (verdict,) = await store.claim([request_of(task_id)])
    assert isinstance(verdict, Started)
    assert (verdict.task.attempt, verdict.task.payload) == (1, "user@example.com")
    assert await store.claim([request_of(task_id)]) == [DuplicateDelivery()]
    assert await store.claim([request_of(task_id, message="m2")]) == [ExtraCopy()]

    ending = Complete(task_id=task_id, attempt=1, result={"sent": True})
    assert await store.record([ending]) == [Recorded(TaskStatus.COMPLETED)]
    assert await store.claim([request_of(task_id)]) == [Finished(TaskStatus.COMPLETED)]


async def test_it_is_counted_and_listed_from_its_start_on(store: DynamoStore, task_id: str) -> None:
    assert await store.counts() == Counts()
    await store.claim([request_of(task_id)])
    assert await store.counts() == Counts(processing=1)
    page = await store.list_tasks(ListQuery(status=TaskStatus.PROCESSING))
    assert [task.id for task in page.tasks] == [task_id]
    await store.record([Complete(task_id=task_id, attempt=1, result=None)])
    assert await store.counts() == Counts(completed=1)


@amazons_own
async def test_it_starts_once_however_many_try(store: DynamoStore, task_id: str) -> None:
    verdicts: list[Any] = []

    async def claim(message: str) -> None:
        verdicts.extend(await store.claim([request_of(task_id, message=message)]))

    async with trio.open_nursery() as nursery:
        for message in "abcde":
            nursery.start_soon(claim, message)
    assert sorted(type(verdict).__name__ for verdict in verdicts) == ["ExtraCopy"] * 4 + ["Started"]


async def test_it_can_be_cancelled_and_reopened(store: DynamoStore, task_id: str) -> None:
    assert isinstance((await store.cancel([task_id]))[0], CancelledNow)
    assert isinstance((await store.reopen([task_id]))[0], Reopened)
    assert await store.counts() == Counts(pending=1)


async def test_its_id_is_taken(store: DynamoStore, task_id: str, clock: ManualClock) -> None:
    (verdict,) = await store.create([NewTask(task=make_task(clock, id=task_id))])
    assert verdict == AlreadyExists(await get(store, task_id))


async def test_one_with_a_place_in_the_index_and_no_attempt(
    table: Table, store: DynamoStore, task_id: str
) -> None:
    """A program that wants its tasks listed before they start."""
    (sample,) = await create(store, ManualClock())
    item = await table.item(sample.id)
    assert item is not None
    await table.put(
        foreign(
            task_id,
            status_shard=item["status_shard"],
            position=item["position"],
            not_before={"S": "0"},
        )
    )
    (verdict,) = await store.claim([request_of(task_id)])
    assert isinstance(verdict, Started)
    assert verdict.task.attempt == 1


async def test_one_with_all_but_a_place_in_the_index(
    table: Table, store: DynamoStore, task_id: str
) -> None:
    """It could be started without a look; no look at the index would ever find it again."""
    await table.put(foreign(task_id, not_before={"S": "0"}, attempt={"N": "0"}))
    (verdict,) = await store.claim([request_of(task_id)])
    assert isinstance(verdict, Started)
    page = await store.list_tasks(ListQuery(status=TaskStatus.PROCESSING))
    assert [task.id for task in page.tasks] == [task_id]
    assert await store.counts() == Counts(processing=1)


async def test_its_delay_is_kept_however_it_is_written(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """2030-01-01T01:30+02:00 is before 2030-01-01T00:00Z, though not as text."""
    due, later = new_task_id(), new_task_id()
    await table.put(foreign(due, run_at={"S": "2030-01-01T01:30:00+02:00"}))
    await table.put(foreign(later, run_at={"S": "2029-12-31T23:30:00-02:00"}))
    verdicts = await store.claim([request_of(due), request_of(later)])
    assert [type(verdict).__name__ for verdict in verdicts] == ["Started", "NotDue"]


@pytest.mark.parametrize(
    "broken",
    [{"status": {"S": "queued"}}, {"type": {"N": "1"}}, {"created_at": {"S": "yesterday"}}],
)
async def test_one_that_cannot_be_understood(
    table: Table,
    store: DynamoStore,
    task_id: str,
    broken: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    clock: ManualClock,
) -> None:
    """As if it were not there (its message is dead-lettered), and the log names what is wrong."""
    await table.put(foreign(task_id, **broken))
    (name,) = broken
    with caplog.at_level(logging.ERROR):
        assert await store.claim([request_of(task_id)]) == [Missing()]
    assert name in caplog.text
    assert task_id in caplog.text
    assert await store.get([task_id]) == [None]
    assert await store.cancel([task_id]) == [Missing()]
    (verdict,) = await store.create([NewTask(task=make_task(clock, id=task_id))])
    assert isinstance(verdict, TryAgain)


async def test_a_boto3_program_reads_what_the_api_says(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    done, failed = await start(store, clock, 2, payload={"to": ["a", "b"], "n": 1.5})
    (waiting,) = await create(store, clock, payload="user@example.com")
    await store.record(
        [
            Complete(task_id=done.id, attempt=1, result={"sent": 2}),
            Fail(task_id=failed.id, attempt=1, error=ERROR),
        ]
    )
    await store.flush_counts()

    def read() -> list[dict[str, Any]]:
        key, secret = table.server.credentials
        resource = boto3.resource(
            "dynamodb",
            endpoint_url=table.server.url,
            region_name=table.server.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}),
        )
        rows = resource.Table(table.name).scan(ConsistentRead=True)["Items"]
        return [row for row in rows if not row["id"].startswith("@")]

    rows = {row["id"]: row for row in await trio.to_thread.run_sync(read)}

    assert set(rows) == {done.id, failed.id, waiting.id}
    for task_id, row in rows.items():
        task: Task = await get(store, task_id)
        assert row["status"] == task.status
        assert (row["attempt"], row["retry_count"]) == (task.attempt, task.retry_count)
        text = row["payload"]
        assert (json.loads(text) if "payload_encoding" in row else text) == task.payload
    assert json.loads(rows[done.id]["result"]) == {"sent": 2}
    assert json.loads(rows[failed.id]["error"])["type"] == "ValueError"
