"""A DynamoDB table as it is after some weeks of work: items that the store's own functions make of
rows, put there in batches. (A task that an engine runs takes a local server some 10 ms.)"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import trio

from benchmarks import weeks
from benchmarks.aws.setup import started
from local_aws.pairs import LocalAws
from task_queue_engine import __version__
from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord, LogLine
from task_queue_engine.backends.aws.dynamodb import attempt_slots
from task_queue_engine.backends.aws.dynamodb.item_format import Item, new_item
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id

QUEUE, TABLE = "elasticmq", "dynamodb-local"
"""The pair that is closest to AWS."""
_AT_ONCE = 25
"""Items of a BatchWriteItem."""
_WORKER = "old-host:4711:abcdef"


def filled(count: int) -> tuple[dict[str, str], datetime, dict[str, str]]:
    """A new table with so many tasks: the settings for it, when the first was made, some ids."""
    local = started(QUEUE, TABLE)
    made = local.provision(f"pages-{count}")
    first = datetime.now(UTC) - weeks.SPAN
    tasks = [_task(number, count, first) for number in range(1, count + 1)]
    trio.run(_put, local, made["DYNAMODB_TABLE"], tasks)
    ids = {"history": tasks[1].id, "ended": tasks[count // 3 // 10 * 10 + 1].id}
    return local.environment | made, first, ids


async def _put(local: LocalAws, table: str, tasks: Sequence[Task]) -> None:
    client = AwsClient(**local.client_options())
    async with client.open(), trio.open_nursery() as nursery:
        room = trio.CapacityLimiter(4)

        async def put(batch: Sequence[Task]) -> None:
            async with room:
                wanted = [{"PutRequest": {"Item": _item(task)}} for task in batch]
                while wanted:
                    try:
                        answer = await client.call(
                            "dynamodb", "BatchWriteItem", {"RequestItems": {table: wanted}}
                        )
                    except BackendUnavailable:  # the local server is busy
                        await trio.sleep(0.2)
                        continue
                    wanted = answer.get("UnprocessedItems", {}).get(table, [])

        for start in range(0, len(tasks), _AT_ONCE):
            nursery.start_soon(partial(put, tasks[start : start + _AT_ONCE]))


def _task(n: int, count: int, first: datetime) -> Task:
    at = first + timedelta(microseconds=n * weeks.step_us(count))
    if n <= 2 or n % 50 == 0:
        status = TaskStatus.FAILED
    elif n > count - count // 100:
        status = TaskStatus.PENDING
    else:
        status = TaskStatus.CANCELLED if n % 100 == 1 else TaskStatus.COMPLETED
    failed, pending = status is TaskStatus.FAILED, status is TaskStatus.PENDING
    attempt = 0 if status in (TaskStatus.PENDING, TaskStatus.CANCELLED) else 3 if failed else 1
    attempt = weeks.MOST_ATTEMPTS if n == 2 else attempt
    ended = None if pending else at + timedelta(seconds=1.5)
    error = TaskError(
        type="ConnectionError",
        message=f"no route to host {'rare' if n == 1 else n % 977}",
        traceback="Traceback (most recent call last):\n" + "  await client.send(message)\n" * 40,
    )
    return Task(
        id=new_task_id(),
        type=weeks.TYPES[n * 7 // 5 % len(weeks.TYPES)],
        queue=weeks.RARE if n == 1 else weeks.OTHER if pending or n % 10 == 5 else weeks.QUEUE,
        payload={"customer": n, "note": "x" * 150},
        status=status,
        attempt=attempt,
        max_attempts=max(attempt, 3),
        retry_count=attempt if failed else 0,
        created_at=at,
        updated_at=ended or at,
        started_at=at + timedelta(seconds=0.5) if attempt else None,
        finished_at=ended,
        worker=_WORKER if attempt else None,
        result={"rows": n} if status is TaskStatus.COMPLETED else None,
        error=error if failed else None,
    )


def _item(task: Task) -> Item:
    item = new_item(
        Row(task=task, version=__version__ if task.worker else None),
        payload_json=msgspec.json.encode(task.payload),
        token="made",
        retention=0.0,
        in_default_partition=task.status is TaskStatus.COMPLETED,
    )
    if task.attempt == weeks.MOST_ATTEMPTS and task.started_at is not None:
        line = LogLine(time=task.started_at, level="INFO", logger="app", message="looked it up")
        for number in range(1, task.attempt + 1):
            record = AttemptRecord(
                number=number,
                outcome=AttemptOutcome.RETRIED,
                worker=task.worker,
                version=__version__,
                started_at=task.started_at,
                ended_at=task.finished_at,
                error=task.error,
                logs=(line,) * weeks.LOG_LINES,
            )
            item[attempt_slots.name_of(record)] = attempt_slots.encode(record)
    return item
