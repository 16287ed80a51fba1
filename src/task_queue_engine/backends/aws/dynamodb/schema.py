"""The table: its keys, its indexes, its limits. Provisioning, templates, the store and the tests
all read them here.

Attribute names are those of the API's JSON (`task.Task`); the ones below exist for the indexes and
for the store's own bookkeeping. docs/adr/0014 says why the table is as it is and what it costs.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.task import TaskStatus

KEY: Final = "id"

STATUS_SHARDS: Final = 10
"""How many keys each `IndexPartition` of `status-index` is spread over. A key takes 1,000 write
units a second (AWS, "Best practices for designing and using partition keys"), a task that runs once
writes 1: about 10,000 tasks/s. Engines that share a table must agree on it."""

DUE_SHARDS: Final = 4
"""Keys of `due-index`: 1,000 scheduled tasks/s (a key takes 1,000 write units a second, and a
scheduled task is put in, moved by its sender, which is two, and taken out), and four requests for
one look at it."""

COUNTER_SHARDS: Final = 4
"""Items the counters are spread over. Each is read at every `counts()`."""

# DynamoDB, "Naming rules".
_TABLE_NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}", re.ASCII)

MAX_ITEM_BYTES: Final = 400 * 1024
"""Names and values together (AWS, "Quotas in Amazon DynamoDB")."""

RESERVED_BYTES: Final = 16 * 1024
"""Kept free at creation: a task that could be stored must also be able to start and to fail."""

TTL_ATTRIBUTE: Final = "expires_at"
"""Seconds since 1970, on finished tasks where a retention is set: DynamoDB deletes them
for free."""

DEAD_LETTERS_KEPT: Final = 15 * 24 * 3600.0
"""Seconds after the end of a FAILED task for which SQS may have its dead letter: 14 days from its
sending at the longest, and a day in which the dead-letter queue may have been in trouble."""

COUNTER_PREFIX: Final = "@counts#"
"""Ids of counter items. No task id has such a form."""

SWEEP_ID: Final = "@sweep"
"""The item that says how far the sweep has come."""


RETENTION_ID: Final = "@retention"
"""The item that says how far the walk of `late_retention` has come."""
WALK_PREFIX: Final = "@stranded#"
"""Of the items, one a queue, that say how far the walk over unfinished tasks has come."""
WORKER_PREFIX: Final = "@worker#"
"""Of the items, one a process, that say who runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A global secondary index. All its keys are strings."""

    name: str
    hash_key: str
    range_key: str | None = None
    include: tuple[str, ...] = ()
    """Projected besides the keys. Only what changes together with the index's own keys: anything
    else would cost a write unit of the index at every change."""

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.hash_key,) if self.range_key is None else (self.hash_key, self.range_key)

    @property
    def key_schema(self) -> list[dict[str, str]]:
        kinds = ("HASH", "RANGE")
        return [
            {"AttributeName": name, "KeyType": kind}
            for name, kind in zip(self.keys, kinds, strict=False)
        ]

    @property
    def projection(self) -> dict[str, Any]:
        if not self.include:
            return {"ProjectionType": "KEYS_ONLY"}
        return {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(self.include)}


STATUS_INDEX: Final = Index(
    name="status-index",
    hash_key="status_shard",  # "ROUTINE#7": its partition and its shard
    range_key="position",  # "<created_at>#<id>"
    include=("type", "queue", "status_at"),
)
DUE_INDEX: Final = Index(name="due-index", hash_key="due_shard", range_key="due_at")
CANCEL_INDEX: Final = Index(name="cancel-index", hash_key="cancel_shard")

INDEXES: Final = (STATUS_INDEX, DUE_INDEX, CANCEL_INDEX)

CANCEL_SHARD: Final = "REQUESTED"
"""The value of `cancel_shard` on running tasks with a request to cancel them."""
WORKER_SHARD: Final = "WORKERS"
"""The value of `cancel_shard` on the items of workers, which are found by it: a table that is there
gets no new index, and this one is sparse and asked for by its value alone."""


def check_table_name(name: str | None) -> str:
    """
    Raises:
        ConfigurationError: naming DYNAMODB_TABLE: it is not set, or no table can be called so.
    """
    if name is None:
        raise ConfigurationError(
            "is not set: the name of the table of tasks (tqe provision makes one)",
            variable="DYNAMODB_TABLE",
        )
    if not _TABLE_NAME.fullmatch(name):
        raise ConfigurationError(
            "must be a table's name, 3 to 255 of A-Z, a-z, 0-9, '_', '-' and '.' (no ARN), not "
            f"{name[:100]!r}",
            variable="DYNAMODB_TABLE",
        )
    return name


def create_table_parameters(name: str) -> dict[str, Any]:
    """For CreateTable: on-demand capacity, the key, the indexes."""
    attributes = sorted({KEY, *(key for index in INDEXES for key in index.keys)})
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": KEY, "KeyType": "HASH"}],
        "AttributeDefinitions": [
            {"AttributeName": attribute, "AttributeType": "S"} for attribute in attributes
        ],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index.name,
                "KeySchema": index.key_schema,
                "Projection": index.projection,
            }
            for index in INDEXES
        ],
    }


def time_to_live_parameters(name: str) -> dict[str, Any]:
    """For UpdateTimeToLive."""
    return {
        "TableName": name,
        "TimeToLiveSpecification": {"Enabled": True, "AttributeName": TTL_ATTRIBUTE},
    }


def shard_of(task_id: str, shards: int) -> int:
    """The same everywhere and for good."""
    return zlib.crc32(task_id.encode()) % shards


class IndexPartition(StrEnum):
    """Where `status-index` has a task. An entry that moves costs two write units, so not every
    change of status moves it: the row's `status` is the truth, and a reader of the index looks at
    the rows."""

    # The value is stored: tables are full of it, and it cannot follow the name.
    DEFAULT = "ROUTINE"
    """New, running or COMPLETED: a task that runs once, soon, is never anywhere else. What has not
    ended when the sweep comes by goes to OPEN."""
    OPEN = "OPEN"
    """Not finished, and moved out of DEFAULT."""
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


PARTITION_OF: Final = {
    TaskStatus.PENDING: IndexPartition.OPEN,
    TaskStatus.PROCESSING: IndexPartition.OPEN,
    TaskStatus.COMPLETED: IndexPartition.DEFAULT,
    TaskStatus.FAILED: IndexPartition.FAILED,
    TaskStatus.CANCELLED: IndexPartition.CANCELLED,
}
"""Where a task goes that changes to this status; a new one may stay in DEFAULT."""


_SHARDS = {
    partition: [f"{partition.value}#{shard}" for shard in range(STATUS_SHARDS)]
    for partition in IndexPartition
}


def status_shard(partition: IndexPartition, task_id: str) -> str:
    return _SHARDS[partition][shard_of(task_id, STATUS_SHARDS)]


def status_shards(partition: IndexPartition) -> list[str]:
    return list(_SHARDS[partition])


def due_shard(task_id: str) -> str:
    return f"DUE#{shard_of(task_id, DUE_SHARDS)}"


def due_shards() -> list[str]:
    return [f"DUE#{shard}" for shard in range(DUE_SHARDS)]


def counter_ids() -> list[str]:
    return [f"{COUNTER_PREFIX}{shard}" for shard in range(COUNTER_SHARDS)]
