"""Which backends the suite runs on, and what each of them does not promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import ManualClock
from task_queue_engine.testing.conformance import Harness, Promises
from task_queue_engine.testing.conformance.needs import unmet_needs
from tests.backends.aws.dynamodb.conformance import DYNAMODB, DYNAMODB_HARNESSES
from tests.backends.aws.dynamodb.tables import WITH_MOTO
from tests.backends.aws.sqs.conformance import AWS_HARNESSES, PAIR_HARNESSES, QUIRKS, SQS
from tests.sizes import LONG

# Queue and store as two services; `memory-in-one` is the other way.
MEMORY = Promises(steps_are_one_transaction=False)
SQLITE = Promises(ages_workers=False)


@asynccontextmanager
async def memory_harness(_: Path) -> AsyncIterator[Harness]:
    clock = ManualClock()
    backend = MemoryBackend(clock=clock)
    async with backend.open():
        yield Harness(
            backend,
            clock=clock,
            promises=MEMORY,
            make_another=lambda: MemoryBackend(clock=clock),
        )


@asynccontextmanager
async def memory_in_one_harness(_: Path) -> AsyncIterator[Harness]:
    clock = ManualClock()
    backend = MemoryBackend(clock=clock, is_one_transaction=True)
    async with backend.open():
        yield Harness(
            backend,
            clock=clock,
            make_another=lambda: MemoryBackend(clock=clock, is_one_transaction=True),
        )


@asynccontextmanager
async def sqlite_harness(folder: Path) -> AsyncIterator[Harness]:
    clock = ManualClock()
    backend = SqliteBackend(folder / "tasks.db", clock=clock)
    async with backend.open():
        yield Harness(
            backend,
            clock=clock,
            promises=SQLITE,
            make_another=lambda: SqliteBackend(folder / "another.db", clock=clock),
        )


# The code that others go through as well, on one more server: its own quirks are all it can show.
ELSEWHERE = {*AWS_HARNESSES, "dynamodb-ministack"}
if not WITH_MOTO:
    ELSEWHERE |= {"aws-moto", "dynamodb-moto"}

HARNESSES: dict[str, Callable[[Path], AbstractAsyncContextManager[Harness]]] = {
    name: harness
    for name, harness in {
        "memory": memory_harness,
        "memory-in-one": memory_in_one_harness,
        "sqlite": sqlite_harness,
        **DYNAMODB_HARNESSES,
        **AWS_HARNESSES,
        **PAIR_HARNESSES,
    }.items()
    if LONG or name not in ELSEWHERE
}

PROMISES = {
    "memory": MEMORY,
    "sqlite": SQLITE,
    **dict.fromkeys(AWS_HARNESSES | PAIR_HARNESSES, SQS),
    **dict.fromkeys(DYNAMODB_HARNESSES, DYNAMODB),
}
"""Of those that do not promise everything."""

OF_THE_QUEUE = {"TestDeadLetters", "TestQueue", "TestWaiting"}
OF_THE_STORE = {
    "TestBrokerDeadLetters",
    "TestClaim",
    "TestCounts",
    "TestListing",
    "TestRecord",
    "TestRequests",
    "TestSchedule",
    "TestWorkers",
}
OF_BOTH = {"TestOpening", "TestPayloads", "TestSubmit", "TestTake", "TestTakeActions"}
"""In batches on the whole backend."""
READING = {
    "TestBrokerDeadLetters",
    "TestCounts",
    "TestListing",
    "TestOpening",
    "TestStranded",
    "TestTake",
    "TestTakeActions",
}
"""How it was written makes no difference to them."""
OF_A_ROW = {"TestHistory", "TestTraces"}
THROUGH_STEPS = {"test_it_comes_with_what_is_taken", "test_one_that_was_claimed_with_its_receive"}
"""Those of `OF_A_ROW` that take and submit as the whole backend does it."""

# What would test the memory backend once more, which stands in for the other half.
LEFT_OUT: dict[str, set[str]] = {
    **dict.fromkeys(DYNAMODB_HARNESSES, OF_THE_QUEUE),
    **dict.fromkeys(AWS_HARNESSES, OF_THE_STORE | {"TestStranded"}),
}
if not LONG:
    # The store takes batches in `dynamodb` and single writes in `dynamodb-single`, both on Amazon's
    # own server. The whole backend opens queues as well, which is a third of such a test: there,
    # what is of the store alone would be tested once more.
    LEFT_OUT["dynamodb"] = OF_THE_QUEUE | OF_BOTH
    LEFT_OUT["dynamodb-single"] = OF_THE_QUEUE | READING
    LEFT_OUT |= dict.fromkeys(("aws-elasticmq", "aws-moto", "aws-fauxqs"), OF_THE_STORE | OF_A_ROW)
    # A second server for queues: what tells it from the first is how it leases and redrives.
    LEFT_OUT["aws-fauxqs"] = LEFT_OUT["aws-fauxqs"] | {"TestFinish", "TestPayloads", "TestStranded"}


def applies(
    test: Callable[..., Awaitable[None]],
    group: type | None,
    harness: str,
    arguments: Mapping[str, object],
) -> bool:
    is_left_out = group is not None and group.__name__ in LEFT_OUT.get(harness, ())
    if is_left_out and (LONG or test.__name__ not in THROUGH_STEPS):
        return False
    return not unmet_needs(test, arguments, PROMISES.get(harness, Promises()))


# First, since names of cases begin with the backend.
@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "harness" in metafunc.fixturenames:
        names = [name for name in HARNESSES if applies(metafunc.function, metafunc.cls, name, {})]
        metafunc.parametrize("harness", names, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    beside: list[pytest.Item] = []
    for item in items:
        if reason := QUIRKS.get(item.name):
            item.add_marker(pytest.mark.xfail(reason=reason))
        arguments = item.callspec.params if hasattr(item, "callspec") else {}
        name = arguments.get("harness")
        if name is not None and not applies(item.function, item.cls, name, arguments):
            beside.append(item)  # for an argument of its own
    if beside:
        left_out = set(beside)
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=beside)


@pytest.fixture
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    async with HARNESSES[request.param](tmp_path) as made:
        assert made.promises == PROMISES.get(request.param, Promises())
        with trio.fail_after(30):
            yield made
