"""Whether the table is as the store needs it, and can be written."""

from __future__ import annotations

from functools import partial

from task_queue_engine.backends.aws.dynamodb.schema import INDEXES, Index, counter_ids
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.wire.concurrently import gather


async def check_table(table: TableClient) -> None:
    """Look for its key and its indexes.

    Raises:
        ConfigurationError, BackendRefused: it cannot be used, and why.
        BackendUnavailable: throttled or failing; another try may help.
    """
    lacking = f"there is no table {table.name} with the key id"
    key = {"Key": {"id": {"S": counter_ids()[0]}}}  # of any item
    await table.check("GetItem", key, lacking=lacking)
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
    """A read; where the last write failed, a write that changes nothing, to see whether one goes
    through again. A probe of what is well costs half a read unit.

    Raises:
        BackendUnavailable: no task could be written, and why.
    """
    item_id = counter_ids()[0]
    if table.last_write_failed:
        await table.update("ping", item_id, "REMOVE #nothing", names={"#nothing": "ping"})
    else:
        await table.get("ping", [item_id], consistent=False, attributes=("id",))
