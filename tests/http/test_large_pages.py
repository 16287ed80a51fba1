"""However much a task has left behind, its page stays one that a browser and a network bear."""

from __future__ import annotations

from datetime import UTC, datetime

from quart_trio.testing import TrioClient

from task_queue_engine.attempt_record import (
    AttemptHistory,
    AttemptOutcome,
    AttemptRecord,
    LogLine,
)
from task_queue_engine.task import TaskError, TaskStatus
from tests.http.browser import Browser
from tests.http.fakes import FakeEngine

MOST = 400_000
"""Bytes."""


async def test_a_task_that_has_much_of_everything(client: TrioClient, engine: FakeEngine) -> None:
    now = datetime.now(UTC)
    error = TaskError(type="Error" * 50, message="m" * 2048, traceback="t" * 8192)
    large = {f"key {number}": "v" * 20 for number in range(10_000)}
    attempts = tuple(
        AttemptRecord(
            number=number,
            outcome=AttemptOutcome.FAILED,
            started_at=now,
            ended_at=now,
            error=error,
            progress=large,
            logs=tuple(
                LogLine(time=now, level="INFO", logger="shop", message=f"{number} " + "l" * 320)
                for _ in range(100)
            ),
        )
        for number in range(1, 21)
    )
    deep: object = 1
    for _ in range(99):
        deep = [deep]
    task = engine.add(
        payload={"line": "x" * 100_000, "deep": deep},
        result=large,
        progress=large,
        error=error,
        status=TaskStatus.COMPLETED,
    )
    engine.histories[task.id] = AttemptHistory(attempts=attempts)

    page = await Browser(client).get(f"/dashboard/tasks/{task.id}")

    assert page.status == 200
    assert len(page.text) < MOST
    assert "20 llll" in page.text  # of the latest attempt all of it
    assert page.text.count("m" * 2048) == 20  # of each what went wrong
    assert {f"/tasks/{task.id}", f"/tasks/{task.id}/attempts"} <= page.links()
    assert len((await Browser(client).get("/dashboard/tasks")).text) < MOST
