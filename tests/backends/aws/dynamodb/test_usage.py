"""What the store says it has asked of DynamoDB."""

from __future__ import annotations

from typing import Any

import pytest

from task_queue_engine.backends.base import NewTask
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import Complete
from tests.backends.aws.dynamodb.faults import FaultyClient
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import make_task, start


async def test_the_price_is_counted(table: Table, client: FaultyClient, clock: ManualClock) -> None:
    """By step and by task type, with the units that DynamoDB says it took."""

    async def charging(send: Any, parameters: Any) -> dict[str, Any]:
        answer = await send(parameters)
        answer.pop("ConsumedCapacity", None)
        if "Statements" not in parameters:
            return answer | {"ConsumedCapacity": {"TableName": "t", "CapacityUnits": 3.0}}
        each = {"TableName": "t", "CapacityUnits": 3.0}
        return answer | {"ConsumedCapacity": [each] * len(parameters["Statements"])}

    async with (store := table.store(client, clock=clock)).open():
        client.arm_writes(charging, times=100)
        emails = await start(store, clock, 4, type="email")
        (export,) = await start(store, clock, 1, type="export")
        await store.record(
            [Complete(task_id=task.id, attempt=1, result=1) for task in (*emails, export)]
        )
        await store.get([export.id])
        usage = store.usage()

    by_step = usage.by_step
    assert {name: by_step[name].items for name in ("create", "claim", "record", "get")} == {
        "create": 5,
        "claim": 5,
        "record": 5,
        "get": 1,
    }
    assert by_step["record"].write_units == 15
    assert by_step["get"].read_units > 0
    by_type = usage.by_task_type
    assert by_type["email"].items == 12
    assert by_type["email"].write_units == 36
    assert by_type["export"].write_units == 9
    requests = by_type["email"].requests + by_type["export"].requests
    whole = sum(by_step[name].requests for name in ("create", "claim", "record"))
    assert requests == pytest.approx(whole)
    if table.writes == "batch":
        assert (by_step["claim"].requests, by_step["record"].requests) == (2, 1)


async def test_what_is_asked_for_in_vain_is_paid_too(store: Any, clock: ManualClock) -> None:
    task = make_task(clock)
    await store.create([NewTask(task=task)])
    await store.create([NewTask(task=task)])
    assert store.usage().by_step["create"].requests >= 2
    assert store.usage().by_task_type["email"].items == 2
