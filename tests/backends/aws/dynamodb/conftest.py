from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.clock import ManualClock
from tests.backends.aws.dynamodb.faults import FaultyClient
from tests.backends.aws.dynamodb.tables import (
    AMAZONS_OWN,
    WITH_MOTO,
    Table,
    few_requests,
    table_on,
)
from tests.local_servers import require
from tests.sizes import LONG

CHECKING = {"test_opening.py", "test_workers.py"}
"""About the requests of an opening: what they find, and the server's clock in their answers."""
CHANGING = {"test_price.py"}
"""They change the table itself, not only what is in it; those that are CHECKING do too."""


@pytest.fixture(params=[*AMAZONS_OWN, "moto"] if WITH_MOTO else AMAZONS_OWN)
async def table(request: pytest.FixtureRequest) -> AsyncIterator[Table]:
    """On a server, "SERVER/WRITES" where that can take both ways to write."""
    name, _, writes = request.param.partition("/")
    checks = request.path.name in CHECKING
    is_new = checks or request.path.name in CHANGING
    with trio.fail_after(60), few_requests(checks=checks):
        async with table_on(require(name), writes, is_new=is_new) as made:
            yield made


# What they test reads, counts or opens: how an item was written makes no difference to it.
INDIFFERENT = {
    "test_counters.py",
    "test_crash_recovery.py",
    "test_foreign_items.py",
    "test_listing.py",
    "test_opening.py",
    "test_stranded.py",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def is_left_out(item: pytest.Item) -> bool:
        if LONG or item.path.name not in INDIFFERENT or not isinstance(item, pytest.Function):
            return False
        table = item.callspec.params.get("table", "") if hasattr(item, "callspec") else ""
        return str(table).endswith("/single") and item.path.parent == Path(__file__).parent

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        items[:] = [item for item in items if not is_left_out(item)]
        config.hook.pytest_deselected(items=left_out)


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
