"""A task whose last chance it is after a crash runs beside no other whose worker died."""

from __future__ import annotations

from typing import Any

from trio.testing import MockClock

from task_queue_engine import Task, TaskError
from task_queue_engine.actors.crash_isolation import CrashIsolation
from task_queue_engine.actors.messages import Attempt
from task_queue_engine.clock import ManualClock, SystemClock
from task_queue_engine.lifecycle import crash_error
from tests.actors.support import loose_lease


def attempt(*, crashes: int, of: int = 3, error: TaskError | None = None) -> Attempt:
    now = ManualClock().now()
    if crashes and error is None:
        error = crash_error(crashes, "dead")
    fields: dict[str, Any] = {"retry_count": crashes, "max_attempts": of, "error": error}
    task = Task(id="1", type="t", payload=1, created_at=now, updated_at=now, **fields)
    return Attempt(task, loose_lease())


async def test_what_never_crashed_always_runs(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    assert isolation.admit(attempt(crashes=2))
    assert isolation.admit(attempt(crashes=0))
    assert isolation.admit(attempt(crashes=0, of=1))
    failed = TaskError(type="ValueError", message="bad")
    assert isolation.admit(attempt(crashes=2, error=failed))


async def test_those_with_chances_left_run_together(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    assert all(isolation.admit(attempt(crashes=1)) for _ in range(5))


async def test_a_last_chance_waits_for_the_others_to_end(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    others = [attempt(crashes=1), attempt(crashes=1, of=9)]
    for other in others:
        assert isolation.admit(other)
    last = attempt(crashes=2)
    for other in others:
        assert not isolation.admit(last)
        other.lease.settling = True
    assert isolation.admit(last)


async def test_others_wait_for_a_last_chance_to_end(autojump_clock: MockClock) -> None:
    isolation = CrashIsolation(SystemClock())
    last = attempt(crashes=2)
    assert isolation.admit(last)
    for other in (attempt(crashes=1, of=9), attempt(crashes=2)):
        assert not isolation.admit(other)
    last.lease.settling = True
    assert isolation.admit(attempt(crashes=2))
