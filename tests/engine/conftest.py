"""What every test of the engine starts from."""

from __future__ import annotations

import os

import pytest
from trio.testing import MockClock

from task_queue_engine import TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("TQE_", "SQS_", "AWS_", "DYNAMODB_")) or name == "WORKER_COUNT":
            monkeypatch.delenv(name)


@pytest.fixture
def backend(autojump_clock: MockClock) -> MemoryBackend:
    return MemoryBackend(clock=TrioClock())


@pytest.fixture
def tasks() -> TaskRegistry:
    return TaskRegistry()
