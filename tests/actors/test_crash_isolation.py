"""A task whose last chance it is after a crash runs beside no other whose worker died."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from task_queue_engine import Task, TaskError
from task_queue_engine.actors.crash_isolation import CrashIsolation
from task_queue_engine.actors.messages import Attempt
from task_queue_engine.clock import ManualClock, SystemClock
from task_queue_engine.lifecycle import crash_error
from task_queue_engine.retry import SnoozeUntil
from tests.actors.support import loose_lease


def attempt(*, crashes: int, of: int = 3, error: TaskError | None = None) -> Attempt:
    now = ManualClock().now()
    if crashes and error is None:
        error = crash_error(crashes, "dead")
    fields: dict[str, Any] = {"retry_count": crashes, "max_attempts": of, "error": error}
    task = Task(id="1", type="t", payload=1, created_at=now, updated_at=now, **fields)
    return Attempt(task, loose_lease())


def delays(
    isolation: CrashIsolation, *claimed: Attempt, recorded: bool = True
) -> list[float | None]:
    """Of what was claimed together: until each comes again; None: it runs.

    Args:
        recorded: the store has it of those that wait when this returns.
    """
    postponed = isolation.postpone(claimed)
    found: list[float | None] = []
    for one in claimed:
        decision = postponed[one].decision if one in postponed else None
        assert decision is None or isinstance(decision, SnoozeUntil)
        found.append(decision and decision.delay)
        one.recorded = recorded and decision is not None
    return found


async def test_what_never_crashed_always_runs(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    failed = TaskError(type="ValueError", message="bad")
    never = [attempt(crashes=0), attempt(crashes=0, of=1), attempt(crashes=2, error=failed)]
    assert delays(isolation, attempt(crashes=2), *never) == [None] * 4
    assert delays(isolation, *never) == [None] * 3


async def test_those_with_chances_left_run_together(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    for _ in range(2):
        assert delays(isolation, *(attempt(crashes=1) for _ in range(5))) == [None] * 5


async def test_a_last_chance_waits_for_the_others_to_end(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    others = [attempt(crashes=1), attempt(crashes=1, of=9)]
    assert delays(isolation, *others) == [None, None]
    for other in others:
        assert delays(isolation, attempt(crashes=2)) == [5.0]
        await trio.sleep(5)
        other.recorded = True
    assert delays(isolation, attempt(crashes=2)) == [None]


async def test_others_wait_for_a_last_chance_to_end(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    last = attempt(crashes=2)
    assert delays(isolation, last) == [None]
    for other in (attempt(crashes=1, of=9), attempt(crashes=2)):
        assert delays(isolation, other) == [5.0]
    last.recorded = True
    assert delays(isolation, attempt(crashes=2)) == [None]


async def test_none_starts_while_one_that_is_to_wait_is_still_claimed(
    autojump_clock: MockClock,
) -> None:
    """It may kill the process before the store has it that the other waits, whose claim would
    count then, as its last attempt."""
    isolation = CrashIsolation(SystemClock())
    first, second, third = (attempt(crashes=2) for _ in range(3))
    assert delays(isolation, first, second, third, recorded=False) == [1.0, 5.0, 6.0]
    for one in (first, second, third):
        assert delays(isolation, attempt(crashes=2)) == [1.0]
        assert delays(isolation, attempt(crashes=1, of=9)) == [1.0]
        one.recorded = True
    assert delays(isolation, attempt(crashes=2)) == [None]


async def test_those_with_chances_left_come_first(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    others = [attempt(crashes=1), attempt(crashes=1)]
    assert delays(isolation, others[0], attempt(crashes=2), others[1]) == [1.0, 5.0, 1.0]
    assert delays(isolation, *others) == [None, None]


async def test_what_comes_first_again_is_recorded_last(autojump_clock: MockClock) -> None:
    first, second = attempt(crashes=2), attempt(crashes=2)
    assert list(CrashIsolation(SystemClock()).postpone([first, second])) == [second, first]


async def test_each_last_chance_that_has_to_wait_gets_a_moment_of_its_own(
    autojump_clock: MockClock,
) -> None:
    """Else those of a large crash would find one another again and again, and none would start."""
    isolation = CrashIsolation(SystemClock())
    assert delays(isolation, attempt(crashes=2)) == [None]
    seen = [delays(isolation, *(attempt(crashes=2) for _ in range(5))) for _ in range(100)]
    assert [delay for each in seen for delay in each] == [5.0 + number for number in range(500)]
