"""What a task is: ids, statuses, its JSON."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from task_queue_engine import Task, TaskError, TaskStatus
from task_queue_engine.task import is_task_id, new_task_id, task_id_for_key

NOW = datetime(2030, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_task_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert ids == sorted(ids)
    assert {uuid.UUID(task_id).version for task_id in ids} == {7}


def test_a_key_stands_for_one_id_for_good() -> None:
    # A changed value would make all keys ever used mean new tasks.
    assert task_id_for_key("order 42") == str(
        uuid.uuid5(uuid.UUID("6f1f3c9e-3f0b-5a53-9d0a-6f1f0a3f8f57"), "order 42")
    )
    assert task_id_for_key("order 42") != task_id_for_key("order 43")


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("task_queue_engine.retry.Discard", "Discard"),
        ("task_queue_engine.errors.AttemptTimeout", "AttemptTimeout"),
        ("shop.orders.Discard", "shop.orders.Discard"),
        ("ValueError", "ValueError"),
    ],
)
def test_an_error_is_shown_without_the_engines_modules(stored: str, shown: str) -> None:
    error = TaskError(type=stored, message="there is no such order")
    assert error.in_words == f"{shown}: there is no such order"
    assert error.in_one_line() == error.in_words
    assert error.type == stored  # as it is stored and sent


@given(st.text(max_size=50))
def test_whatever_is_called_an_id_is_spelled_as_one(text: str) -> None:
    if is_task_id(text):
        assert str(uuid.UUID(text)) == text


@pytest.mark.parametrize("make", [new_task_id, lambda: task_id_for_key("k")])
def test_ids_are_ids_in_one_spelling_only(make) -> None:
    task_id = make()
    assert is_task_id(task_id)
    for other in (task_id.upper(), task_id.replace("-", ""), f"{{{task_id}}}", f" {task_id}", ""):
        assert other == task_id or not is_task_id(other)


def test_statuses_are_plain_strings_and_three_are_terminal() -> None:
    assert TaskStatus.PENDING == "PENDING"
    assert f"{TaskStatus.FAILED}" == "FAILED"
    assert {status for status in TaskStatus if status.is_terminal} == {
        "COMPLETED",
        "FAILED",
        "CANCELLED",
    }


def test_its_json_is_that_of_the_api() -> None:
    task = Task(
        id="1",
        type="email",
        payload={"to": "user@example.com"},
        created_at=NOW,
        updated_at=NOW,
        error=TaskError(type="ValueError", message="bad"),
    )
    plain = msgspec.json.decode(msgspec.json.encode(task))
    assert plain == {
        "id": "1",
        "type": "email",
        "payload": {"to": "user@example.com"},
        "status": "PENDING",
        "queue": "default",
        "retry_count": 0,
        "attempt": 0,
        "max_attempts": 3,
        "timeout_seconds": None,
        "created_at": "2030-01-01T12:30:15.250000Z",
        "updated_at": "2030-01-01T12:30:15.250000Z",
        "run_at": None,
        "started_at": None,
        "finished_at": None,
        "result": None,
        "error": {"type": "ValueError", "message": "bad", "traceback": None},
        "progress": None,
        "worker": None,
        "cancel_requested": False,
    }
    assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task
