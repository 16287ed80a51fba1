"""Whether the table is as the store needs it, and can be written."""

from __future__ import annotations

from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb.schema import INDEXES, Index, counter_ids
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.errors import BackendUnavailable


async def check_table(table: TableClient) -> None:
    """Look for its key and its indexes.

    Raises:
        ConfigurationError, BackendRefused: it cannot be used, and why.
        BackendUnavailable: throttled or failing; another try may help.
    """
    lacking = f"there is no table {table.name} with the key id"
    await table.check("GetItem", _counter_key(), lacking=lacking)
    await gather([partial(_check_index, table, index) for index in INDEXES])


async def _check_index(table: TableClient, index: Index) -> None:
    query = {
        "IndexName": index.name,
        "KeyConditionExpression": "#key = :none",
        "ExpressionAttributeNames": {"#key": index.hash_key},
        "ExpressionAttributeValues": {":none": {"S": "none"}},
        "Limit": 1,
    }
    lacking = f"table {table.name} has no index {index.name} on {index.hash_key}"
    await table.check("Query", query, lacking=lacking)


async def ping(table: TableClient) -> None:
    """A write that changes nothing.

    Raises:
        BackendUnavailable: no task could be written, and why.
    """
    removal = {
        "TableName": table.name,
        **_counter_key(),
        "UpdateExpression": "REMOVE #nothing",
        "ExpressionAttributeNames": {"#nothing": "ping"},
    }
    try:
        await table.write("ping", "UpdateItem", removal)
    except AwsRequestFailed as error:
        raise BackendUnavailable(f"table {table.name}: {error}") from error


def _counter_key() -> dict[str, Any]:
    """Of an item that is no task's."""
    return {"Key": {"id": {"S": counter_ids()[0]}}}
