from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.conformance.harness import HARNESSES, Harness


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(promise): only for backends that keep this promise")


@pytest.fixture(params=HARNESSES)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    async with HARNESSES[request.param](tmp_path) as made:
        for mark in request.node.iter_markers("needs"):
            if not getattr(made.promises, mark.args[0]):
                pytest.skip(f"this backend does not promise {mark.args[0]}")
        with trio.fail_after(30):
            yield made
