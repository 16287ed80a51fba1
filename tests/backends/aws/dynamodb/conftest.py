from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.clock import ManualClock
from tests.backends.aws.dynamodb.faults import FaultyClient
from tests.backends.aws.dynamodb.tables import AMAZONS_OWN, WITH_MOTO, Table, table_on
from tests.local_servers import require


@pytest.fixture(params=[*AMAZONS_OWN, "moto"] if WITH_MOTO else AMAZONS_OWN)
async def table(request: pytest.FixtureRequest) -> AsyncIterator[Table]:
    """On a server, "SERVER/WRITES" where that can take both ways to write."""
    name, _, writes = request.param.partition("/")
    with trio.fail_after(60):
        async with table_on(require(name), writes) as made:
            yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def client(table: Table) -> FaultyClient:
    return FaultyClient(table.client)


@pytest.fixture
async def store(
    table: Table, client: FaultyClient, clock: ManualClock
) -> AsyncIterator[DynamoStore]:
    made = table.store(client, clock=clock)
    async with made.open():
        yield made
