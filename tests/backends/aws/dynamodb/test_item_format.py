"""Between rows and items: nothing is lost, and what is stored can be read without this package."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from boto3.dynamodb.types import TypeDeserializer
from hypothesis import given
from hypothesis import strategies as st

from task_queue_engine.backends.aws.dynamodb import item_format
from task_queue_engine.backends.aws.dynamodb.item_size import item_size
from task_queue_engine.backends.aws.dynamodb.schema import MAX_ITEM_BYTES
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id

NOW = datetime(2030, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)

moments = st.datetimes(min_value=datetime.fromisoformat("1970-01-01"), timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)
errors = st.builds(TaskError, type=texts, message=texts, traceback=st.none() | texts)
tasks = st.builds(
    Task,
    id=st.uuids().map(str),
    type=texts,
    payload=payloads,
    status=st.sampled_from(TaskStatus),
    queue=st.from_regex(r"[a-z]{1,10}", fullmatch=True),
    retry_count=st.integers(0, 1000),
    attempt=st.integers(0, 1000),
    max_attempts=st.integers(1, 1000),
    timeout_seconds=st.none() | st.floats(0.001, 86_400),
    created_at=moments,
    updated_at=moments,
    run_at=st.none() | moments,
    started_at=st.none() | moments,
    finished_at=st.none() | moments,
    result=payloads,
    error=st.none() | errors,
    progress=payloads,
    worker=st.none() | texts,
    cancel_requested=st.booleans(),
)
rows = st.builds(
    Row,
    task=tasks,
    message_id=st.just("m"),
    receive_count=st.integers(1, 1000),
    due_at=st.none() | moments,
)


def make_task(**fields: Any) -> Task:
    defaults: dict[str, Any] = {
        "id": new_task_id(),
        "type": "email",
        "payload": {"to": "user@example.com"},
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Task(**(defaults | fields))


def item_of(task: Task, **row: Any) -> item_format.Item:
    return new_item(Row(task=task, **row))


def new_item(row: Row) -> item_format.Item:
    payload_json = msgspec.json.encode(row.task.payload)
    return item_format.new_item(row, payload_json=payload_json, token="t", retention=0)


@given(rows)
def test_what_goes_in_comes_out(row: Row) -> None:
    found = item_format.to_row(new_item(row))
    assert found == row
    # Equal is not enough: 1 == 1.0 == True.
    assert msgspec.json.encode(found.task) == msgspec.json.encode(row.task)


def test_the_version_is_that_of_the_worker_that_claimed() -> None:
    """An older process leaves there what it finds, and puts its own name beside it."""
    item = item_of(make_task(worker="host:1", status=TaskStatus.PROCESSING), version="1.2")
    assert item_format.to_row(item).version == "1.2"
    assert item_format.to_row(item | {"worker": {"S": "old:1"}}).version is None


@given(moments, moments)
def test_texts_of_times_compare_as_the_times_do(a: datetime, b: datetime) -> None:
    assert (item_format.moment_text(a) < item_format.moment_text(b)) == (a < b)
    assert (item_format.moment_text(a) == item_format.moment_text(b)) == (a == b)


@given(tasks)
def test_any_program_can_read_an_item(task: Task) -> None:
    """With boto3's own decoder, by the names of the API."""
    decode = TypeDeserializer().deserialize
    plain = {name: decode(value) for name, value in item_of(task).items()}
    shown = json.loads(msgspec.json.encode(task))

    for name in ("id", "type", "status", "queue", "retry_count", "attempt", "max_attempts"):
        assert plain[name] == shown[name]
    for name in ("created_at", "updated_at", "run_at", "started_at", "finished_at"):
        stored = plain.get(name)
        assert (stored and datetime.fromisoformat(stored)) == getattr(task, name)
    is_json = plain.get("payload_encoding") == "json"
    payload = json.loads(plain["payload"]) if is_json else plain["payload"]
    assert payload == shown["payload"]
    for name in ("result", "error", "progress"):
        assert (json.loads(plain[name]) if name in plain else None) == shown[name]
    assert plain.get("worker") == shown["worker"]
    assert plain.get("cancel_requested", False) == shown["cancel_requested"]


def test_text_is_stored_as_it_is() -> None:
    """As the Go service did: its payloads were strings."""
    item = item_of(make_task(payload="user@example.com"))
    assert item["payload"] == {"S": "user@example.com"}
    assert "payload_encoding" not in item


@pytest.mark.parametrize("payload", ["17", '{"to": "x"}', "null", '"quoted"', ""])
def test_text_that_looks_like_json_stays_text(payload: str) -> None:
    assert item_format.to_task(item_of(make_task(payload=payload))).payload == payload


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"S": "x"}, "x"),
        ({"N": "17"}, 17),
        ({"N": "-1.5"}, -1.5),
        ({"BOOL": True}, True),
        ({"NULL": True}, None),
        ({"L": [{"N": "1"}, {"S": "a"}]}, [1, "a"]),
        ({"M": {"to": {"S": "x"}, "n": {"L": []}}}, {"to": "x", "n": []}),
        ({"SS": ["a", "b"]}, ["a", "b"]),
        ({"NS": ["1", "2.5"]}, [1, 2.5]),
        ({"B": "aGVsbG8="}, "aGVsbG8="),
    ],
)
def test_payloads_of_other_programs(value: item_format.AttributeValue, meant: Any) -> None:
    item = item_of(make_task(payload="x")) | {"payload": value}
    found = item_format.to_task(item).payload
    assert (found, type(found)) == (meant, type(meant))


SEVEN = ("id", "type", "payload", "status", "retry_count", "created_at", "updated_at")


def test_seven_attributes_are_enough() -> None:
    task = make_task(payload="user@example.com")
    item = {name: value for name, value in item_of(task).items() if name in SEVEN}
    assert item_format.to_task(item) == task
    assert not item_format.is_counted(item)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"S": "2030-01-02T03:04:05Z"}, NOW.replace(microsecond=0)),
        ({"S": "2030-01-02T03:04:05.678901234Z"}, NOW),
        ({"S": "2030-01-02T05:04:05.678901+02:00"}, NOW),
        ({"S": "2030-01-02 03:04:05.678901"}, NOW),
        ({"N": "1893553445"}, NOW.replace(microsecond=0)),
    ],
)
def test_times_of_other_programs(value: item_format.AttributeValue, meant: datetime) -> None:
    found = item_format.to_task(item_of(make_task()) | {"created_at": value}).created_at
    assert found == meant
    assert found.tzinfo is UTC


def test_times_of_other_zones_are_stored_in_utc() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=-7)))
    assert item_format.moment_text(there) == "2030-01-02T03:04:05.678901Z"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", None),
        ("type", {"N": "1"}),
        ("status", {"S": "pending"}),
        ("status", None),
        ("created_at", None),
        ("created_at", {"S": "yesterday"}),
        ("updated_at", {"BOOL": True}),
        ("retry_count", {"S": "many"}),
        ("attempt", {"N": "1.5"}),
        ("timeout_seconds", {"S": "long"}),
        ("result", {"S": "not json"}),
        ("error", {"S": "[]"}),
    ],
)
def test_what_cannot_be_understood_is_named(
    name: str, value: item_format.AttributeValue | None
) -> None:
    item = item_of(make_task())
    if value is None:
        del item[name]
    else:
        item[name] = value
    with pytest.raises(item_format.MalformedItem, match=name):
        item_format.to_row(item)


def test_a_finished_task_expires_where_there_is_a_retention() -> None:
    ended = make_task(status=TaskStatus.COMPLETED, finished_at=NOW)
    assert "expires_at" not in item_format.changeable(Row(task=ended), retention=0)
    expiring = item_format.changeable(Row(task=ended), retention=3600)
    assert expiring["expires_at"] == {"N": str(int(NOW.timestamp()) + 3600)}
    # As long as its dead letter: SQS keeps that for 14 days at most.
    failed = msgspec.structs.replace(ended, status=TaskStatus.FAILED)
    for retention, days in ((3600, 15), (20 * 86400, 20)):
        expiring = item_format.changeable(Row(task=failed), retention=retention)
        assert expiring["expires_at"] == {"N": str(int(NOW.timestamp()) + days * 86400)}
    waiting = make_task()
    assert "expires_at" not in item_format.changeable(Row(task=waiting), retention=3600)


def test_a_cancel_request_is_in_the_index_while_the_task_runs() -> None:
    running = make_task(status=TaskStatus.PROCESSING, started_at=NOW, cancel_requested=True)
    ended = msgspec.structs.replace(running, status=TaskStatus.COMPLETED, finished_at=NOW)
    assert "cancel_shard" in item_of(running)
    assert "cancel_shard" not in item_of(ended)


def test_size_is_as_the_manual_says() -> None:
    """AWS, "DynamoDB item sizes and formats": names and values, UTF-8."""
    assert item_size({"id": {"S": "abc"}}) == 5
    assert item_size({"né": {"S": "ü"}}) == 5
    assert item_size({"b": {"BOOL": True}}) == 2
    large = item_of(make_task(payload="x" * MAX_ITEM_BYTES))
    assert 0 < item_size(large) - MAX_ITEM_BYTES < 1024
