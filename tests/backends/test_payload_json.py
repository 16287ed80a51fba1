"""A payload is encoded once, where it is checked; what is stored and sent are those bytes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import apsw
import msgspec
import pytest
import trio

from task_queue_engine import Engine, Settings, Submission, TaskRegistry
from task_queue_engine.backends.aws.sqs.message_format import outgoing
from task_queue_engine.backends.base import Message, NewTask, SubmitVerdict
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import ManualClock
from task_queue_engine.engine.submission import TaskBuilder

PAYLOADS: dict[str, Any] = {
    "object": {"to": "user@example.com", "n": [1, 2.5, None, True]},
    "text": "plain",
    "odd text": '\ufffe \u2028 " \\ ☃ 🎈',
    "null": None,
    "number": -0.0,
    "spelled freely": {"raw": msgspec.Raw(b'{ "a" : 1.50E1 }')},
}
each_payload = pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())


def plain_tasks() -> TaskRegistry:
    registry = TaskRegistry()

    @registry.task("plain")
    async def plain(payload: Any) -> None: ...

    return registry


def build(payload: Any) -> NewTask:
    settings = Settings(_env_file=None)
    builder = TaskBuilder(
        registry=plain_tasks(), settings=settings, clock=ManualClock(), max_delay=900.0
    )
    submission = Submission(task="plain", payload=payload)
    definition = builder.definition(submission)
    return builder.build(definition, submission, builder.pack(definition, submission))


@contextmanager
def counted_encodings() -> Iterator[list[str]]:
    """Calls of msgspec's encoders, in this thread and in those started meanwhile."""
    calls: list[str] = []

    def see(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__.endswith("encode"):
            owner = getattr(function, "__self__", None)
            if "msgspec" in f"{type(owner).__module__}{function.__module__}":
                calls.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def test_a_submission_encodes_its_payload_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[NewTask] = []
    submit = SqliteBackend.submit

    async def remembering(backend: SqliteBackend, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        submitted.extend(tasks)
        return await submit(backend, tasks)

    monkeypatch.setattr(SqliteBackend, "submit", remembering)
    with counted_encodings() as calls:
        msgspec.json.encode(1)
        msgspec.json.Encoder().encode(1)
        assert len(calls) == 2, "the counting itself"
        engine = Engine(
            plain_tasks(),
            Settings(_env_file=None),
            backend=SqliteBackend(tmp_path / "tasks.db"),
            consume=False,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            calls.clear()
            await engine.submit("plain", {"to": "user@example.com"})
            # The row of the process is written whenever its time comes.
            ours = [call for call in calls if "sqlite/workers.py" not in call]
            assert len(ours) == 1, calls
            await engine.stop()
    (new,) = submitted
    assert new.payload_json == b'{"to":"user@example.com"}'


@each_payload
def test_its_bytes_are_those_of_what_handlers_get(payload: Any) -> None:
    new = build(payload)
    assert new.payload_json == msgspec.json.encode(new.task.payload)
    assert msgspec.json.decode(new.payload_json) == new.task.payload


@each_payload
async def test_what_is_stored_are_these_bytes(tmp_path: Path, payload: Any) -> None:
    new = build(payload)
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        await backend.store.create([new])
        stored = apsw.Connection(str(tmp_path / "tasks.db")).execute("SELECT payload FROM tasks")
        assert stored.fetchall() == [(new.payload_json,)]


@each_payload
def test_what_is_sent_is_the_tasks_json(payload: Any) -> None:
    """Byte for byte as it is where only the task is known."""
    new = build(payload)
    carried = outgoing(Message(task=new.task, payload_json=new.payload_json))
    assert carried == outgoing(Message(task=new.task))


def test_a_task_alone_is_encoded_when_it_is_made_new() -> None:
    task = build({"a": 1}).task
    assert NewTask(task=task).payload_json == b'{"a":1}'
