"""From a submission to a task: defaults, limits, and every refusal by field."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from task_queue_engine import InvalidTask, Settings, Submission, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import NewTask
from task_queue_engine.clock import ManualClock
from task_queue_engine.engine.submission import TaskBuilder
from task_queue_engine.errors import PayloadTooLarge, UnknownTaskType
from task_queue_engine.retry import MAX_SECONDS
from task_queue_engine.task import is_task_id, task_id_for_key

NOW = ManualClock().now()
MAX_DELAY = 900.0


@dataclass
class Mail:
    to: str


def build(**fields: Any) -> NewTask:
    registry = TaskRegistry()

    @registry.task("plain")
    async def plain(payload: Any) -> None: ...

    @registry.task("own", max_attempts=7, timeout=12)
    async def own(payload: Any) -> None: ...

    @registry.task("mail")
    async def mail(payload: Mail) -> None: ...

    settings = Settings(_env_file=None, max_attempts=4, task_timeout=50, max_body_bytes=2000)
    builder = TaskBuilder(
        registry=registry, settings=settings, clock=ManualClock(), max_delay=MAX_DELAY
    )
    submission = Submission(**({"task": "plain", "payload": 1} | fields))
    definition = builder.definition(submission)
    return builder.build(definition, submission, builder.pack(definition, submission))


def test_a_plain_one_takes_the_engines_defaults() -> None:
    new = build(payload={"a": 1})
    task = new.task
    assert is_task_id(task.id)
    assert (task.type, task.payload, task.status) == ("plain", {"a": 1}, TaskStatus.PENDING)
    assert (task.max_attempts, task.timeout_seconds) == (4, 50.0)
    assert (task.created_at, task.updated_at, task.run_at) == (NOW, NOW, None)
    assert (task.queue, task.attempt, task.retry_count) == ("default", 0, 0)
    assert new.due_at is None


def test_its_types_own_come_before_the_engines_and_its_own_before_those() -> None:
    task = build(task="own").task
    assert (task.max_attempts, task.timeout_seconds) == (7, 12.0)
    task = build(task="own", max_attempts=1, timeout=timedelta(seconds=3)).task
    assert (task.max_attempts, task.timeout_seconds) == (1, 3.0)


def test_a_key_gives_its_id() -> None:
    assert build(idempotency_key="k").task.id == task_id_for_key("k")
    assert build().task.id != build().task.id


@pytest.mark.parametrize(
    ("delay", "in_store"), [(0.001, False), (900, False), (900.001, True), (10**8, True)]
)
def test_a_delay_waits_where_it_fits(delay: float, in_store: bool) -> None:
    new = build(delay=delay)
    assert new.task.run_at == NOW + timedelta(seconds=delay)
    assert new.due_at == (new.task.run_at if in_store else None)
    assert build(delay=timedelta(seconds=delay)).task.run_at == new.task.run_at
    assert build(run_at=NOW + timedelta(seconds=delay)).due_at == new.due_at


def test_no_delay_is_none() -> None:
    assert build(delay=0).task.run_at is None
    assert build(run_at=NOW).task.run_at is None
    assert build(run_at=NOW - timedelta(days=1)).task.run_at is None
    assert build(run_at=datetime.min.replace(tzinfo=UTC)).task.run_at is None


def test_what_is_stored_is_what_was_checked() -> None:
    payload: dict[str, Any] = {"items": [1, (2, 3)], "at": NOW}
    stored = build(payload=payload).task.payload
    payload["items"].append(4)
    assert stored == {"items": [1, [2, 3]], "at": "2030-01-01T00:00:00Z"}
    assert build(task="mail", payload=Mail("Ada")).task.payload == {"to": "Ada"}
    for value in (None, True, "x", 5, 1.5):
        assert (
            build(payload=value).task.payload is value or build(payload=value).task.payload == value
        )


def test_a_payload_at_the_limit_and_over_it() -> None:
    build(payload="x" * 1998)
    with pytest.raises(PayloadTooLarge) as caught:
        build(payload="x" * 1999)
    assert (caught.value.size, caught.value.limit) == (2001, 2000)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": "unheard-of"}, "type"),
        ({"task": ""}, "type"),
        ({"task": lambda payload: None}, "type"),
        ({"task": "mail", "payload": {"to": 5}}, "payload.to"),
        ({"task": "mail", "payload": None}, "payload"),
        ({"payload": float("nan")}, "payload"),
        ({"payload": object()}, "payload"),
        ({"delay": -0.001}, "delay_seconds"),
        ({"delay": float("nan")}, "delay_seconds"),
        ({"delay": float("inf")}, "delay_seconds"),
        ({"delay": MAX_SECONDS * 2}, "delay_seconds"),
        ({"delay": "5"}, "delay_seconds"),
        ({"delay": True}, "delay_seconds"),
        ({"delay": timedelta(-1)}, "delay_seconds"),
        ({"run_at": datetime(2031, 1, 1)}, "run_at"),  # noqa: DTZ001 - the point
        ({"run_at": datetime.max.replace(tzinfo=UTC)}, "run_at"),
        ({"run_at": "2031-01-01T00:00:00Z"}, "run_at"),
        ({"run_at": NOW, "delay": 1}, "run_at"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1001}, "max_attempts"),
        ({"max_attempts": 2.0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"timeout": 0}, "timeout_seconds"),
        ({"timeout": -1}, "timeout_seconds"),
        ({"timeout": float("inf")}, "timeout_seconds"),
        ({"timeout": "1"}, "timeout_seconds"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "\t"}, "idempotency_key"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"idempotency_key": "\ud800"}, "idempotency_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        build(**fields)
    assert caught.value.field == field
    assert caught.value.reason


def test_an_unknown_type_is_its_own_error() -> None:
    with pytest.raises(UnknownTaskType, match="registered: mail, own, plain"):
        build(task="unheard-of")
