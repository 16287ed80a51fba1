"""Where a payload is checked: at once, or in a thread that leaves the loop its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pydantic
import pytest
import trio

from task_queue_engine import InvalidTask, TaskRegistry
from task_queue_engine.execution.checks import (
    LARGE,
    SLOW,
    WAITED,
    PayloadChecks,
    is_large,
    is_small_json,
)

THREADS: list[int] = []
LET_GO = threading.Event()


class Noted(pydantic.BaseModel):
    """Notes where it is checked, and takes as long as it is told."""

    seconds: float = 0
    waits: float = 0
    more: Any = None

    @pydantic.model_validator(mode="after")
    def _note(self) -> Noted:
        THREADS.append(threading.get_ident())
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        time.sleep(self.waits)
        if isinstance(self.more, str) and self.more.startswith("hang"):
            LET_GO.wait(60)
        if self.more == "interrupt":
            raise KeyboardInterrupt
        return self


@pytest.fixture
def tasks() -> Iterator[TaskRegistry]:
    tasks = TaskRegistry()

    @tasks.task("noted")
    async def noted(payload: Noted) -> None: ...

    @tasks.task("other")
    async def other(payload: Noted) -> None: ...

    THREADS.clear()
    LET_GO.clear()
    yield tasks
    LET_GO.set()


@pytest.fixture
def definition(tasks: TaskRegistry) -> Any:
    return tasks.get("noted")


async def test_small_and_quick_is_checked_at_once(definition: Any) -> None:
    checks = PayloadChecks()
    assert await checks.convert(definition, {"more": "x"}) == Noted(more="x")
    assert set(THREADS) == {threading.get_ident()}


async def test_large_is_checked_in_a_thread(definition: Any) -> None:
    await PayloadChecks().convert(definition, {"more": "x" * LARGE})
    assert threading.get_ident() not in THREADS


async def test_a_type_that_is_slow_is_checked_in_a_thread_from_then_on(definition: Any) -> None:
    checks = PayloadChecks()
    for _ in range(2):
        await checks.convert(definition, {"seconds": 5 * SLOW})
    assert set(THREADS) == {threading.get_ident()}
    THREADS.clear()
    await checks.convert(definition, {})
    assert threading.get_ident() not in THREADS


async def test_a_type_whose_checks_wait_is_checked_in_a_thread_from_then_on(
    definition: Any,
) -> None:
    """It takes no CPU, and holds the loop all the same."""
    checks = PayloadChecks()
    for _ in range(2):
        await checks.convert(definition, {"waits": 2 * WAITED})
    THREADS.clear()
    await checks.convert(definition, {})
    assert threading.get_ident() not in THREADS


async def test_checks_that_do_not_come_back_hold_up_their_own_type_alone(
    tasks: TaskRegistry,
) -> None:
    checks = PayloadChecks()
    hanging, other = tasks.get("noted"), tasks.get("other")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(checks.convert, hanging, {"more": "hang" + "x" * LARGE})
        with trio.fail_after(30):
            await checks.convert(other, {"more": "x" * LARGE})
        nursery.cancel_scope.cancel()
    with trio.fail_after(30):  # nor a healthy one of the same type, once their callers have left
        await checks.convert(hanging, {"more": "x" * LARGE})
    # Known by now as one that hangs: on the loop it would hang that.
    with trio.move_on_after(0.1) as scope:
        await checks.convert(hanging, {"more": "hang"})
    assert scope.cancelled_caught


async def test_an_interrupt_of_its_own_ends_nothing(definition: Any) -> None:
    with pytest.raises(InvalidTask):
        await PayloadChecks().convert(definition, {"more": "interrupt", "seconds": 0} | BIG)


BIG = {"padding": "x" * LARGE}


@pytest.mark.parametrize(
    ("payload", "large"),
    [
        (None, False),
        ({"to": "ada@example.com", "n": [1, 2, {"a": None}]}, False),
        ("x" * LARGE, True),
        ([0] * LARGE, True),
        ({"a": [["x" * 40] * 10] * 20}, True),
        ({"x" * LARGE: 1}, True),
        (msgspec.Raw(b"1"), False),
        (msgspec.Raw(b" " * LARGE + b"1"), True),
        (msgspec.Raw(b"[1" + b",1" * (LARGE // 16) + b"]"), True),
        (object(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_large(payload: Any, large: bool) -> None:
    assert is_large(payload) is large


def test_members_of_encoded_json_that_no_check_goes_through_cost_nothing() -> None:
    assert is_small_json(msgspec.Raw(b"[1" + b",1" * (LARGE // 16) + b"]"))
