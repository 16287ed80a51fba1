from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.aws.dynamodb.harness import DYNAMODB_HARNESSES
from tests.conformance.harness import HARNESSES, Harness

ALL = HARNESSES | DYNAMODB_HARNESSES


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(promise): only for backends that keep this promise")


@pytest.fixture(params=ALL)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    async with ALL[request.param](tmp_path) as made:
        for mark in request.node.iter_markers("needs"):
            if not getattr(made.promises, mark.args[0]):
                pytest.skip(f"this backend does not promise {mark.args[0]}")
        with trio.fail_after(30):
            yield made
