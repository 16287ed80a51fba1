"""The conformance suite: what the engine relies on in a backend, as tests for pytest.

The author of a backend installs this package with its extra `testing`, writes one test module, and
runs it like any other:

    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest
    import trio

    from my_backend import MyBackend
    from task_queue_engine.testing import ManualClock
    from task_queue_engine.testing.conformance import *  # the tests, Harness and Promises


    @pytest.fixture
    async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
        clock = ManualClock()
        backend = MyBackend(tmp_path / "one", clock=clock)
        async with backend.open():
            with trio.fail_after(30):  # what hangs fails
                yield Harness(
                    backend,
                    clock=clock,
                    make_another=lambda: MyBackend(tmp_path / "another", clock=clock),
                )

Each test gets a harness of its own with an empty backend, open, with the queues "default" and
"other". The tests stand in classes, one for each file of this package: `pytest -k TestClaim` runs
those of `claim.py`. They run on trio by themselves, in whatever mode pytest-trio is.

**What a backend cannot promise** is said, not left out by name:

    yield Harness(..., promises=Promises(in_order=False, exact_depth=False))

Tests that need such a promise are then skipped (which one stands above the test: pytest-trio drops
the reason of a skip). `Promises` is the whole list of what may be missing, and the engine can do
without any of it. A test that fails otherwise means that the backend would lose, repeat or strand
a task. Begin with what fails in `TestQueue`, then `TestClaim`: the others build on them. A failure
shows inside an ExceptionGroup where the fixture has a nursery; the assertion is in its last lines.

**Time.** The suite moves `ManualClock` by hand, so a backend takes its time of day from a `Clock`.
One whose leases run on a server's clock gets a subclass of `Harness` with a short `visibility`, and
an `advance` that waits, or has the server's clock moved, and moves `clock` along.

**Against the model.** A backend that promises everything can also be compared with the memory
backend on random programs of operations:

    from task_queue_engine.testing.conformance.model import check_against_model

    def test_same_answers_as_the_model() -> None:
        check_against_model(lambda folder, clock: MyBackend(folder / "tasks", clock=clock))

**Several backends** in one run: give the fixture `params`. To leave out tests before they run that
need a missing promise, ask `needs.unmet_needs` in `pytest_collection_modifyitems`.
"""

from __future__ import annotations

import pkgutil
from types import ModuleType

import pytest

# Before they are imported, so that a failed assertion shows what it compared.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
)

from task_queue_engine.testing.conformance import (  # noqa: E402  # after the call above
    broker_dead_letters,
    claim,
    counts,
    dead_letters,
    finish,
    history,
    listing,
    opening,
    payloads,
    queue,
    record,
    requests,
    schedule,
    stranded,
    submit,
    take,
    take_actions,
    traces,
    waiting,
    workers,
)
from task_queue_engine.testing.conformance.harness import (  # noqa: E402  # after the call above
    Harness,
    Promises,
)

__all__ = [
    "Harness",
    "Promises",
    "TestBrokerDeadLetters",
    "TestClaim",
    "TestCounts",
    "TestDeadLetters",
    "TestFinish",
    "TestHistory",
    "TestListing",
    "TestOpening",
    "TestPayloads",
    "TestQueue",
    "TestRecord",
    "TestRequests",
    "TestSchedule",
    "TestStranded",
    "TestSubmit",
    "TestTake",
    "TestTakeActions",
    "TestTraces",
    "TestWaiting",
    "TestWorkers",
]


_ON_TRIO = pytest.mark.trio


def _tests_of(module: ModuleType) -> type:
    """The tests of a module as a class, so that tests of one name in two modules do not hide each
    other where all are imported into one."""
    name = module.__name__.rpartition(".")[2].title().replace("_", "")
    tests = {
        name: staticmethod(test) for name, test in vars(module).items() if name.startswith("test_")
    }
    return type(f"Test{name}", (), {"__doc__": module.__doc__, "pytestmark": _ON_TRIO, **tests})


TestBrokerDeadLetters = _tests_of(broker_dead_letters)
TestClaim = _tests_of(claim)
TestCounts = _tests_of(counts)
TestDeadLetters = _tests_of(dead_letters)
TestFinish = _tests_of(finish)
TestHistory = _tests_of(history)
TestListing = _tests_of(listing)
TestOpening = _tests_of(opening)
TestPayloads = _tests_of(payloads)
TestQueue = _tests_of(queue)
TestRecord = _tests_of(record)
TestRequests = _tests_of(requests)
TestSchedule = _tests_of(schedule)
TestStranded = _tests_of(stranded)
TestSubmit = _tests_of(submit)
TestTake = _tests_of(take)
TestTakeActions = _tests_of(take_actions)
TestTraces = _tests_of(traces)
TestWaiting = _tests_of(waiting)
TestWorkers = _tests_of(workers)
