"""Every test of this package runs once for each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.bench import Bench
from tests.conformance.harness import Harness, MemoryHarness, SqliteHarness

HARNESSES = [MemoryHarness, SqliteHarness]


@pytest.fixture(params=HARNESSES, ids=lambda harness: harness.name)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    made: Harness = request.param(tmp_path)
    return made


@pytest.fixture
async def bench(harness: Harness) -> AsyncIterator[Bench]:
    """An open backend with steps to drive it."""
    backend = harness.make()
    async with backend.open():
        yield Bench(harness, backend)
