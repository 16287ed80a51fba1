"""What goes in comes out: all of JSON, in payloads, results, progress and errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from task_queue_engine.backends.base import Created, NewTask, TooLarge
from task_queue_engine.lifecycle import Complete, Fail, Progress
from task_queue_engine.task import TaskError, task_id_for_key
from task_queue_engine.testing.conformance.harness import Harness

JSON: dict[str, Any] = {
    "null": None,
    "false": False,
    "true": True,
    "zero": 0,
    "negative": -7,
    "beyond 64 bits": 2**64 + 1,
    "very big": 10**300 + 7,
    "very small": -(10**300) - 7,
    "float": 0.1 + 0.2,
    "tiny float": 5e-324,
    "huge float": 1.7976931348623157e308,
    "whole float": 1.0,
    "negative zero": -0.0,
    "empty text": "",
    "text": "user@example.com",
    "unicode": "Zażółć gęślą jaźń ☃ 🎈 \u2028 \ufeff",
    "quotes": "' \" \\ ' -- ; DROP TABLE tasks",
    "controls": "tab\tnewline\nbell\x07",
    "empty list": [],
    "empty object": {},
    "nested": {"a": [{"b": [[[]]]}, {}, None, {"": ["", {"c": {"d": 1}}]}]},
    "keys": {"": 1, " ": 2, "ключ": 3, '"': 4, "a.b": 5, "$": 6},
    "long text": "ü" * 20_000,
    "long list": list(range(5000)),
}


@pytest.mark.parametrize("value", JSON.values(), ids=JSON.keys())
async def test_round_trip(harness: Harness, value: Any) -> None:
    def same(found: Any) -> bool:
        return found == value and type(found) is type(value) and repr(found) == repr(value)

    running, _ = await harness.start(payload=value)
    assert same(running.payload)
    await harness.store.record([Progress(task_id=running.id, attempt=1, value=value)])
    assert same((await harness.get(running.id)).progress)
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=value)])
    task = await harness.get(running.id)
    assert same(task.payload)
    assert same(task.progress)
    assert same(task.result)


async def test_what_was_handed_in_can_be_changed_afterwards(harness: Harness) -> None:
    payload = {"list": [1]}
    task = await harness.create(payload=payload)
    payload["list"].append(2)
    assert (await harness.get(task.id)).payload == {"list": [1]}


async def test_every_field_survives(harness: Harness) -> None:
    moment = datetime(2031, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
    task = harness.make_task(
        id=task_id_for_key("order-17"),
        type="report.monthly:v2",
        queue="default",
        max_attempts=17,
        timeout_seconds=0.1 + 0.2,
        created_at=moment,
        updated_at=moment + timedelta(microseconds=1),
        run_at=moment + timedelta(days=36_500),
    )
    await harness.create(task)
    assert await harness.get(task.id) == task


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
    ids=str,
)
async def test_times_are_exact(harness: Harness, moment: datetime) -> None:
    task = await harness.create(created_at=moment, updated_at=moment, run_at=moment)
    found = await harness.get(task.id)
    assert (found.created_at, found.updated_at, found.run_at) == (moment, moment, moment)
    assert found.created_at.tzinfo is UTC


async def test_errors_survive(harness: Harness) -> None:
    error = TaskError(type="a.b.Error", message="ünïcode '\" \n", traceback="line\n" * 500)
    running, _ = await harness.start(type="with 'quotes' \" and ☃")
    await harness.store.record([Fail(task_id=running.id, attempt=1, error=error)])
    task = await harness.get(running.id)
    assert task.error == error
    assert task.type == "with 'quotes' \" and ☃"


async def test_a_row_that_is_too_large_fails_alone(harness: Harness) -> None:
    small, also_small = harness.make_task(), harness.make_task()
    large = harness.make_task(payload="x" * (2 * 2**20))

    verdicts = await harness.store.create(
        [NewTask(task=small), NewTask(task=large), NewTask(task=also_small)]
    )

    assert verdicts[0] == verdicts[2] == Created()
    assert isinstance(verdicts[1], TooLarge)
    assert verdicts[1].size > verdicts[1].limit
    found = await harness.store.get([small.id, large.id, also_small.id])
    assert found == [small, None, also_small]
    assert (await harness.store.counts()).pending == 2


async def test_a_large_payload_goes_through_a_whole_life(harness: Harness) -> None:
    payload = {"text": "ü" * 100_000}
    running, _ = await harness.start(payload=payload)
    assert running.payload == payload
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=payload)])
    task = await harness.get(running.id)
    assert task.payload == task.result == payload


async def test_the_same_id_twice_in_one_batch(harness: Harness) -> None:
    first = harness.make_task(payload="first")
    second = harness.make_task(id=first.id, payload="second")
    verdicts = await harness.store.create(
        [NewTask(task=harness.make_task()), NewTask(task=first), NewTask(task=second)]
    )
    assert verdicts[:2] == [Created(), Created()]
    assert verdicts[2].task == first  # type: ignore[union-attr]  # AlreadyExists
    assert (await harness.store.counts()).pending == 2
