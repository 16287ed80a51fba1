"""What every test of the engine starts from."""

from __future__ import annotations

import os

import pytest
from trio.testing import MockClock

from task_queue_engine import TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from task_queue_engine.clock import TrioClock
from tests.engine.engines import MAX_DELAY


@pytest.fixture(autouse=True)
def _settings_of_these_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("TQE_", "SQS_", "AWS_", "DYNAMODB_")) or name == "WORKER_COUNT":
            monkeypatch.delenv(name)
    # Twelve times the default. Samples are half of what wakes an engine with nothing to do, and who
    # asks for metrics gets a fresh one.
    monkeypatch.setenv("TQE_METRICS_INTERVAL", "60")


BOTH_WAYS = {
    "test_cancelling",
    "test_claiming_ahead",
    "test_crashes",
    "test_outages",
    "test_random_runs",
    "test_shutdown",
}
"""Modules whose tests run on queue and store as two services, and once more on a backend whose
steps are one transaction; but for those marked `two_services`, which are about what happens between
the two."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "two_services: of a queue and a store that fail separately")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (
        "backend" in metafunc.fixturenames
        and metafunc.module.__name__.rpartition(".")[2] in BOTH_WAYS
        and metafunc.definition.get_closest_marker("two_services") is None
    ):
        ways = {"two services": False, "one transaction": True}
        metafunc.parametrize("backend", ways.values(), ids=ways, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, autojump_clock: MockClock) -> MemoryBackend:
    return MemoryBackend(clock=TrioClock(), is_one_transaction=getattr(request, "param", False))


@pytest.fixture
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the scheduler's, being too long for the queue, comes soon: the idle time until then
    shows nothing, and every second of it costs."""
    monkeypatch.setattr(MemoryQueue, "max_delay", MAX_DELAY)


@pytest.fixture
def tasks() -> TaskRegistry:
    return TaskRegistry()
