"""Deleting tasks that ended long ago, where DynamoDB's TTL does not do it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import trio

from task_queue_engine.backends.aws.dynamodb import conditional_writes
from task_queue_engine.backends.aws.dynamodb.item_format import (
    AttributeValue,
    MalformedItem,
    status_of,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition, status_shards
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    id_of_sort_key,
    moment_text,
    sort_key_of,
)
from task_queue_engine.backends.aws.dynamodb.status_index import WalkedPage, walk
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Writer
from task_queue_engine.task import TaskStatus

_PURPOSE = "expire"

# Entries read by one request: about 290 KB of the 1 MB that it takes at most.
_PAGE = 1000
# Deleted together, then counted: a call that runs out of time has counted all but the last chunk.
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class _Ended:
    task_id: str
    status: TaskStatus
    finished_at: AttributeValue


async def expire(
    table: TableClient,
    writer: Writer,
    *,
    finished_before: datetime,
    limit: int,
    count: Callable[[TaskStatus, None], None],
    timeout: float,
) -> int:
    """Delete up to `limit` tasks that ended before this; returns how many.

    Args:
        count: told of each that is no more.
        timeout: seconds that the deleting takes at most; it is not cancelled meanwhile.

    Raises:
        BackendUnavailable
    """
    ended = await _find_ended(table, ended_before=finished_before, limit=limit)
    deleted = 0
    with trio.CancelScope(shield=True, deadline=trio.current_time() + timeout):
        for start in range(0, len(ended), _CHUNK):
            chunk = ended[start : start + _CHUNK]
            answers = await writer.write(
                _PURPOSE,
                [
                    conditional_writes.remove(each.task_id, each.status, each.finished_at)
                    for each in chunk
                ],
                explain=False,
                deadline=trio.current_effective_deadline(),
            )
            for each, answer in zip(chunk, answers, strict=True):
                if isinstance(answer.result, Applied) and answer.result.item is not None:
                    count(each.status, None)
                    deleted += 1
    table.count(_PURPOSE, deleted)
    return deleted


async def _find_ended(table: TableClient, *, ended_before: datetime, limit: int) -> list[_Ended]:
    """Of each partition those that were created first. Reads past the unfinished and the lately
    finished among them."""
    before = moment_text(ended_before)
    found: list[_Ended] = []
    for partition in (IndexPartition.DEFAULT, IndexPartition.FAILED, IndexPartition.CANCELLED):
        for shard in status_shards(partition):
            after: str | None = ""
            while after is not None and len(found) < limit:
                page = await walk(
                    table,
                    _PURPOSE,
                    shard=shard,
                    after=after or None,
                    since_before=ended_before,
                    queue=None,
                    limit=_PAGE,
                )
                found += await _ended_of(table, page, before)
                after = page.after
                if after is not None and after > before:
                    break  # the rest was created after that
    return found[:limit]


async def _ended_of(table: TableClient, page: WalkedPage, before: str) -> list[_Ended]:
    ids = [id_of_sort_key(sort_key_of(entry)) for entry in page.entries]
    attributes = ("id", "status", "finished_at")
    rows = await table.get(_PURPOSE, ids, consistent=False, attributes=attributes)
    ended = []
    for item in (rows[task_id] for task_id in ids if task_id in rows):
        with suppress(MalformedItem):
            status = status_of(item)
            finished_at = item.get("finished_at", {}).get("S", before)
            if status.is_terminal and finished_at < before:
                ended.append(_Ended(item["id"]["S"], status, item["finished_at"]))
    return ended
