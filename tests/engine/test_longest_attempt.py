"""Timeouts that the queue cannot keep a lease for (SQS: 12 hours from the receive)."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine import Engine, InvalidTask, Settings, Submission, TaskRegistry
from task_queue_engine.backends.aws.sqs.queue import SqsQueue
from task_queue_engine.backends.base import QueueCapabilities
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.engine.longest_attempt import longest_timeout
from task_queue_engine.errors import ConfigurationError, RegistryError
from tests.engine.engines import running, settings

HOUR = 3600.0


@pytest.fixture
def sqs_like(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> MemoryBackend:
    """Holds a message as long as SQS does."""
    capabilities = QueueCapabilities(max_hold=SqsQueue.capabilities.max_hold)
    monkeypatch.setattr(type(backend.queue("default")), "capabilities", capabilities)
    return backend


async def refused(
    tasks: TaskRegistry, backend: MemoryBackend, *, consume: bool = True, **values: Any
) -> None:
    """It does not come to running."""
    with trio.fail_after(60):
        await Engine(tasks, settings(**values), backend=backend, consume=consume).run()


async def start(tasks: TaskRegistry, backend: MemoryBackend, **values: Any) -> None:
    async with running(tasks, backend, **values):
        pass


def test_sqs_holds_a_message_for_twelve_hours() -> None:
    assert SqsQueue.capabilities.max_hold == 12 * HOUR


@pytest.mark.parametrize("consume", [True, False], ids=["worker", "api"])
async def test_a_type_with_too_long_a_timeout_does_not_start(
    sqs_like: MemoryBackend, consume: bool
) -> None:
    tasks = TaskRegistry()

    @tasks.task("long", timeout=13 * HOUR)
    async def long(payload: Any) -> None: ...

    with pytest.raises(RegistryError, match=r"'long': its timeout of 46800 s .* at most 43110 s"):
        await refused(tasks, sqs_like, consume=consume, visibility_timeout=30)


async def test_the_default_of_types_that_have_none(sqs_like: MemoryBackend) -> None:
    tasks = TaskRegistry()

    @tasks.task("plain")
    async def plain(payload: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"^TQE_TASK_TIMEOUT: 50000 s is longer than"):
        await refused(tasks, sqs_like, task_timeout=50_000)


async def test_a_default_that_no_type_uses_is_no_matter(sqs_like: MemoryBackend) -> None:
    """As for `tqe list`, which knows no types."""
    await start(TaskRegistry(), sqs_like, task_timeout=50_000)


async def test_a_submission_that_asks_for_too_long_a_timeout(sqs_like: MemoryBackend) -> None:
    tasks = TaskRegistry()

    @tasks.task("plain")
    async def plain(payload: Any) -> None: ...

    async with running(tasks, sqs_like, visibility_timeout=30) as engine:
        with pytest.raises(InvalidTask, match=r"timeout_seconds: is longer than .* 43110 s"):
            await engine.submit_task(Submission(task="plain", payload=1, timeout=43_111))
        await engine.submit_task(Submission(task="plain", payload=1, timeout=43_110))


async def test_elsewhere_nothing_is_refused(backend: MemoryBackend) -> None:
    tasks = TaskRegistry()

    @tasks.task("long", timeout=1000 * HOUR)
    async def long(payload: Any) -> None: ...

    await start(tasks, backend)


@pytest.mark.parametrize(
    ("visibility", "longest"),
    [
        (30.0, 12 * HOUR - 90),
        (HOUR, 11 * HOUR - 60),
        (12 * HOUR, 4 * HOUR - 60),  # is over before the lease is renewed for the first time
    ],
)
def test_a_lease_that_is_renewed_must_end_in_time(visibility: float, longest: float) -> None:
    assert longest_timeout(12 * HOUR, visibility) == pytest.approx(longest)


def test_the_default_timeout_fits_the_longest_lease() -> None:
    default = Settings.model_fields["task_timeout"].default
    assert default < longest_timeout(12 * HOUR, 12 * HOUR)
