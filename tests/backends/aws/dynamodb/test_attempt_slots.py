"""Attempts as attributes of an item: what goes in comes out, and what makes room for what."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord, LogLine
from task_queue_engine.backends.aws.dynamodb import attempt_slots
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.item_size import item_size
from task_queue_engine.backends.aws.dynamodb.schema import MAX_ITEM_BYTES
from task_queue_engine.lifecycle import crash_error
from task_queue_engine.task import TaskError

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
KB = 1024


def noise(size: int, seed: int = 0) -> str:
    return random.Random(seed).randbytes(size // 2).hex()


def record(number: int = 1, **fields: Any) -> AttemptRecord:
    defaults: dict[str, Any] = {
        "number": number,
        "outcome": AttemptOutcome.RETRIED,
        "worker": "host:1",
        "version": "1.0",
        "started_at": NOW,
        "ended_at": NOW,
    }
    return AttemptRecord(**defaults | fields)


def line(message: str) -> LogLine:
    return LogLine(time=NOW, level="INFO", logger="shop", message=message)


@pytest.mark.parametrize(
    "made",
    [
        record(),
        record(worker=None, version=None, ended_at=None),
        record(progress=0),
        record(progress=False),
        record(progress=[None, {"a": 1.0}]),
        record(error=TaskError(type="E", message="m", traceback="t" * 3000)),
        record(logs=tuple(line(f"{n} ☃") for n in range(100)), logs_omitted=7),
        record(outcome=AttemptOutcome.CRASHED, error=crash_error(1, "host:1")),
        record(outcome=AttemptOutcome.CRASHED, error=TaskError(type="Other", message="m")),
    ],
)
def test_what_goes_in_comes_out(made: AttemptRecord) -> None:
    assert attempt_slots.decode(attempt_slots.encode(made)) == made


def test_attempts_take_little_room() -> None:
    """Each further write of an item is billed by its started KB."""
    failed = record(
        worker="ip-10-0-12-7:4321:a1b2c3",
        error=TaskError(type="ConnectionError", message="could not reach smtp.example.com"),
    )
    assert item_size({"attempt_1": attempt_slots.encode(failed)}) < 150
    logged = record(logs=tuple(line(f"sent mail {n}") for n in range(100)))
    assert item_size({"attempt_1": attempt_slots.encode(logged)}) < 1 * KB


def test_what_was_stored_can_be_read_for_good() -> None:
    """As the first version that had a history packed it."""
    stored = (
        "eLvLHuyvI94HGcAIsTJEcT9W1xsbQB1laAR1lKGRsYmpGYbr8SpEc70riqPz8oHcEli+RMmjenp6oNyB"
        "mQPw2YYrHRdn5BegWJyfl6pUG4ue4QxqAcayXeQ="
    )
    assert attempt_slots.decode({"B": stored}) == record(
        error=TaskError(type="E", message="no", traceback="Traceback ..."), logs=(line("one"),)
    )


@pytest.mark.parametrize(
    "value", [{"S": "{}"}, {"B": "eA=="}, {"B": "eJw="}, {"B": "ä"}, {"N": "1"}]
)
def test_what_cannot_be_read_is_passed_over(value: dict[str, Any]) -> None:
    """It may be another program's, or a newer version's."""
    item: Item = {"attempt_1": value, "attempt_2": attempt_slots.encode(record(2))}
    assert list(attempt_slots.in_item(item)) == [record(2)]


def full(payload: int, *records: AttemptRecord) -> Item:
    slots = {attempt_slots.name_of(each): attempt_slots.encode(each) for each in records}
    return {"id": {"S": "1"}, "payload": {"S": "x" * payload}, **slots}


def after(read: Item, sets: Item, removes: tuple[str, ...] = ()) -> dict[int, AttemptRecord]:
    removes = attempt_slots.make_room(read, sets, removes)
    item = {name: value for name, value in (read | sets).items() if name not in removes}
    assert item_size(item) <= MAX_ITEM_BYTES
    assert item["payload"] == read["payload"]
    return {each.number: each for each in attempt_slots.in_item(item)}


def test_where_there_is_room_nothing_goes() -> None:
    read = full(300 * KB, *(record(n, logs=(line(noise(4 * KB, n)),)) for n in range(1, 6)))
    sets: Item = {"result": {"S": "x" * 50 * KB}}
    found = after(read, sets)
    assert all(one.logs for one in found.values())
    assert set(sets) == {"result"}


def test_lines_go_first_then_tracebacks_then_the_middle() -> None:
    """With ever less room: each stage is seen, and one begins where the one before has ended."""
    everything = {1, 2, 3, 4, 5}
    stages = []
    for payload in range(300, 400):
        read = full(payload * KB - 20 * KB, *rich(8 * KB, 8 * KB))
        found = after(read, {"result": {"S": "x" * 20 * KB}})
        kept = set(found)
        logged = {n for n, one in found.items() if one.logs}
        traced = {n for n, one in found.items() if one.error and one.error.traceback}
        assert traced == everything or not logged
        assert kept == everything or not traced
        for left in (logged, traced, kept):  # what is gone lay in the middle
            gone = everything - left
            assert gone == set(range(min(gone, default=1), max(gone, default=0) + 1))
            assert not gone or 3 in gone
        assert all(one.logs or one.logs_omitted == 1 for one in found.values())
        stages.append((len(logged), len(traced), len(kept)))
    assert stages == sorted(stages, reverse=True)
    assert stages[0] == (5, 5, 5)
    assert stages[-1] == (0, 0, 0)
    for which in range(3):
        assert {stage[which] for stage in stages} & {1, 2, 3}, stages


def rich(traceback: int, logs: int) -> list[AttemptRecord]:
    return [
        record(
            n,
            error=TaskError(
                type="E", message=noise(8 * KB, n), traceback=noise(traceback, 200 + n)
            ),
            logs=(line(noise(logs, 100 + n)),),
        )
        for n in range(1, 6)
    ]
