"""What every test of the command line starts from: an empty directory and an empty environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.runner import Server, Shop


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("TQE_", "SQS_", "AWS_", "DYNAMODB_", "SMTP_")) or name in (
            "WORKER_COUNT",
            "PORT",
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A directory with a team's tasks and nothing else."""
    return Shop(tmp_path)


@pytest.fixture
def server(shop: Shop) -> Iterator[Server]:
    """`tqe serve` for it."""
    with shop.serve() as server:
        yield server
