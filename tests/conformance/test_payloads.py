"""All that JSON can say comes back as it went in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st

from task_queue_engine.lifecycle import Complete, Fail, Progress
from task_queue_engine.task import TaskError
from tests.conformance.bench import Bench

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "negative": -1,
    "beyond 64 bits": 2**64 + 1,
    "300 digits": 10**299 + 7,
    "fraction": 0.1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "minus zero": -0.0,
    "integral float": 1.0,
    "empty text": "",
    "text": 'zß水🍌 \u2028 \\ " / \t\r\n \x7f \u0001',
    "text like null": "null",
    "empty list": [],
    "empty object": {},
    "nested": {"a": [{"b": [None, {"c": {}}]}], "": {"ü": [[]]}},
    "keys": {"1": 1, "true": 2, "null": 3, "a.b": 4, "$": 5},
    "deep": json.loads("[" * 90 + "]" * 90),
}
every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())


def same(found: Any, value: Any) -> bool:
    """Equal, and of the same types: 1 is not 1.0, True is not 1."""
    return repr(found) == repr(value)


@every_value
async def test_payload_progress_and_result(bench: Bench, value: Any) -> None:
    task, _ = await bench.start(payload=value)
    assert same(task.payload, value)
    assert same((await bench.get(task)).payload, value)

    await bench.record(Progress(task_id=task.id, attempt=1, value=value))
    assert same((await bench.get(task)).progress, value)

    await bench.record(Complete(task_id=task.id, attempt=1, result=value))
    stored = await bench.get(task)
    assert same(stored.result, value)
    assert same(stored.payload, value)


async def test_many_more_values(bench: Bench) -> None:
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
    scalars = (
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | text
        | st.floats(allow_nan=False, allow_infinity=False)
    )  # fmt: skip
    values = st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20
    )
    payload = _sample(values, 60)
    task = await bench.create(payload=payload)
    assert same((await bench.get(task)).payload, payload)


def _sample(values: st.SearchStrategy[Any], count: int) -> list[Any]:
    """The same at every run, in one test function for all backends."""
    from hypothesis import Phase, given, seed, settings

    found: list[Any] = []

    @seed(1)
    @settings(max_examples=count, database=None, phases=[Phase.generate], deadline=None)
    @given(values)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


async def test_what_is_stored_is_nobody_elses_object(bench: Bench) -> None:
    payload: dict[str, Any] = {"list": [1]}
    task = await bench.create(payload=payload)
    payload["list"].append(2)
    assert (await bench.get(task)).payload == {"list": [1]}


async def test_an_error_comes_back_whole(bench: Bench) -> None:
    task, _ = await bench.start()
    error = TaskError(type="a.B", message="zß水🍌\n'\"", traceback=None)
    await bench.record(Fail(task_id=task.id, attempt=1, error=error))
    assert (await bench.get(task)).error == error


async def test_text_that_looks_like_something_else(bench: Bench) -> None:
    odd = "x'); DROP TABLE tasks; -- %s ? :1 \\"
    task, delivery = await bench.deliver(type=odd, payload={odd: odd})
    await bench.claim(delivery, odd)
    stored = await bench.get(task)
    assert (stored.type, stored.worker, stored.payload) == (odd, odd, {odd: odd})
