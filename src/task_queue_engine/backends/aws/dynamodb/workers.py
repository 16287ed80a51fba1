"""Who runs: an item for each process, which no index of tasks holds.

They are found by their entries in `cancel-index`, under a value of its key that no task has. The
entry is written once, with the item: a sign of life costs what the item takes, mostly one write
unit. Times are DynamoDB's, as its answers tell them (`TableClient.clock_skew`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Condition, Delete
from task_queue_engine.backends.aws.dynamodb.item_format import Item, number, text
from task_queue_engine.backends.aws.dynamodb.process_marks import milliseconds, number_of
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.writers import Unanswered, Writer
from task_queue_engine.worker import LIVING_FOR, LOST_FOR, Worker, WorkerList, in_order

_PURPOSE = "workers"

_decode = msgspec.json.Decoder(Worker).decode


class DynamoWorkers:
    def __init__(self, table: TableClient, writer: Writer, *, now: Callable[[], datetime]) -> None:
        self._table = table
        self._writer = writer
        self._own_now = now

    def _now(self) -> datetime:
        return self._own_now() + timedelta(seconds=self._table.clock_skew())

    async def put(self, worker: Worker) -> None:
        now = self._now()
        encoded = msgspec.json.encode(msgspec.structs.replace(worker, last_seen=now))
        await self._table.update(
            _PURPOSE,
            _item_id(worker.id),
            "SET #worker = :worker, #seen = :seen, #expires = :expires, #shard = :shard",
            names={
                "#worker": "worker",
                "#seen": "last_seen",
                "#expires": schema.TTL_ATTRIBUTE,
                "#shard": schema.CANCEL_INDEX.hash_key,
            },
            values={
                ":worker": text(encoded.decode()),
                ":seen": number(milliseconds(now)),
                ":expires": number(int(now.timestamp() + LOST_FOR)),
                ":shard": text(schema.WORKER_SHARD),
            },
        )

    async def remove(self, worker_id: str) -> None:
        await self._delete([_deletion(_item_id(worker_id), Condition("last_seen", "exists"))])

    async def look(self) -> WorkerList:
        now = self._now()
        living_since = milliseconds(now - timedelta(seconds=LIVING_FOR))
        lost_since = milliseconds(now - timedelta(seconds=LOST_FOR))
        living: list[Worker] = []
        lost = 0
        for item in await self._items():
            seen = number_of(item, "last_seen")
            if seen < lost_since:
                continue
            worker = _worker_of(item, seen)
            if seen >= living_since:
                living.append(worker)
            elif worker.slots:
                lost += 1
        return WorkerList(workers=in_order(living), lost=lost)

    async def forget_lost(self) -> None:
        """DynamoDB's TTL does the same, days later, and not on a table without one."""
        before = milliseconds(self._now() - timedelta(seconds=LOST_FOR))
        await self._delete(
            [
                # Unless it has shown itself meanwhile.
                _deletion(item["id"]["S"], Condition("last_seen", "=", item["last_seen"]))
                for item in await self._items()
                if number_of(item, "last_seen") < before
            ]
        )

    async def _items(self) -> list[Item]:
        ids: list[str] = []
        start: Item | None = None
        while True:
            parameters: dict[str, Any] = {
                "IndexName": schema.CANCEL_INDEX.name,
                "KeyConditionExpression": "#shard = :shard",
                "ExpressionAttributeNames": {"#shard": schema.CANCEL_INDEX.hash_key},
                "ExpressionAttributeValues": {":shard": text(schema.WORKER_SHARD)},
            }
            if start is not None:
                parameters["ExclusiveStartKey"] = start
            document = await self._table.query(_PURPOSE, parameters)
            ids += [item["id"]["S"] for item in document["Items"]]
            start = document.get("LastEvaluatedKey")
            if start is None:
                break
        found = await self._table.get(_PURPOSE, ids, consistent=False) if ids else {}
        return [item for item in found.values() if {"worker", "last_seen"} <= item.keys()]

    async def _delete(self, deletions: list[Delete]) -> None:
        if not deletions:
            return
        for answer in await self._writer.write(_PURPOSE, deletions, explain=False):
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason


def _item_id(worker_id: str) -> str:
    return f"{schema.WORKER_PREFIX}{worker_id}"


def _deletion(item_id: str, condition: Condition) -> Delete:
    return Delete(task_id=item_id, conditions=(condition,))


def _worker_of(item: Item, seen: int) -> Worker:
    worker = _decode(item["worker"]["S"])
    return msgspec.structs.replace(worker, last_seen=datetime.fromtimestamp(seen / 1000, UTC))
