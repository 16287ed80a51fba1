"""What most tests begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from task_queue_engine._version import __version__
from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import Created, NewTask, TryAgain
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import AttemptWrite, ClaimRequest, RecordVerdict, Started
from task_queue_engine.task import Task, TaskError, new_task_id

ERROR = TaskError(type="ValueError", message="no", traceback="Traceback ...")


def make_task(clock: Clock, **fields: Any) -> Task:
    now = clock.now()
    defaults: dict[str, Any] = {
        "id": new_task_id(),
        "type": "email",
        "payload": {"to": "user@example.com"},
        "created_at": now,
        "updated_at": now,
    }
    return Task(**(defaults | fields))


def known_of(clock: Clock, attempt: int = 1, **fields: Any) -> AttemptRecord:
    """What the worker of a running attempt sends along where it ends."""
    return AttemptRecord(
        **{
            "number": attempt,
            "outcome": AttemptOutcome.RUNNING,
            "worker": "w:1",
            "version": __version__,
            "started_at": clock.now(),
        }
        | fields
    )


def request_of(task_id: str, *, message: str = "m1", count: int = 1) -> ClaimRequest:
    return ClaimRequest(task_id=task_id, message_id=message, receive_count=count, worker="w:1")


async def create(store: DynamoStore, clock: Clock, number: int = 1, **fields: Any) -> list[Task]:
    tasks = [make_task(clock, **fields) for _ in range(number)]
    assert await store.create([NewTask(task=task) for task in tasks]) == [Created()] * number
    return tasks


async def start(store: DynamoStore, clock: Clock, number: int = 1, **fields: Any) -> list[Task]:
    tasks = await create(store, clock, number, **fields)
    verdicts = await store.claim([request_of(task.id) for task in tasks])
    started = [verdict.task for verdict in verdicts if isinstance(verdict, Started)]
    assert len(started) == number
    return started


async def get(store: DynamoStore, task_id: str) -> Task:
    (task,) = await store.get([task_id])
    assert task is not None
    return task


async def record_all(store: DynamoStore, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
    """`store.record`, where each has to be answered.

    Raises:
        BackendUnavailable: one was not.
    """
    verdicts: list[RecordVerdict] = []
    for verdict in await store.record(writes):
        if isinstance(verdict, TryAgain):
            raise BackendUnavailable(verdict.reason)
        verdicts.append(verdict)
    return verdicts
