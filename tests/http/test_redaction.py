"""TQE_REDACT: nothing of it leaves the server, by whatever route."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime

import msgspec
import pytest

from task_queue_engine.attempt_record import AttemptHistory, AttemptOutcome, AttemptRecord, LogLine
from task_queue_engine.engine.api import EngineApi, TaskApi
from task_queue_engine.http import create_app
from task_queue_engine.http.redaction import Redaction, redacting
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id
from task_queue_engine.task_events import LogEvent, ProgressEvent
from tests.http.browser import Browser
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.test_submit import JSON

PASSWORD, CARD, TOKEN = "correct\nhorse", 4242424242424242, "tok_9f8e7d"
PATHS = ("payload.password", "payload.cards.number", "result.token", "progress.user")
NO_TASK = new_task_id()
ESCAPED = ("correct\\nhorse", "correct\nhorse", str(CARD), TOKEN, "ada@example.com")


def leaks(text: str) -> list[str]:
    return [each for each in ESCAPED if each in text or each.replace("\\", "\\\\") in text]


def add_secret_task(engine: FakeEngine, status: TaskStatus = TaskStatus.FAILED) -> Task:
    said = f"bad password {PASSWORD!r} for card {CARD}"
    error = TaskError(type="ValueError", message=said, traceback=f"Traceback\n  {said}")
    task = engine.add(
        payload={"password": PASSWORD, "cards": [{"number": CARD}], "name": "Ada"},
        status=status,
        result={"token": TOKEN, "echo": [PASSWORD, CARD]},
        progress={"user": "ada@example.com", "note": f"as {PASSWORD}"},
        error=error,
        attempt=1,
    )
    now = datetime.now(UTC)
    line = LogLine(time=now, level="INFO", logger="shop", message=f"with {TOKEN} and {PASSWORD}")
    attempt = AttemptRecord(
        number=1,
        outcome=AttemptOutcome.FAILED,
        started_at=now,
        ended_at=now,
        error=error,
        progress=task.progress,
        logs=(line,),
    )
    engine.histories[task.id] = AttemptHistory(attempts=(attempt,))
    return task


async def test_nothing_of_it_is_shown(engine: FakeEngine) -> None:
    task = add_secret_task(engine)
    letter = engine.add_dead_letter(task)
    object.__setattr__(letter, "error", task.error)
    client = create_app(engine, make_settings(redact=",".join(PATHS))).test_client()
    browser = Browser(client)  # type: ignore[arg-type] # Quart-Trio's
    for path in (
        f"/tasks/{task.id}",
        f"/tasks/{task.id}?wait=0.01",
        f"/tasks/{task.id}/attempts",
        "/tasks",
        "/dead-letters",
        "/",
        "/dashboard/tasks",
        f"/dashboard/tasks/{task.id}",
        "/dashboard/dead-letters",
    ):
        page = await browser.get(path)
        assert page.status == 200
        assert leaks(page.text) == [], path
        assert path == "/" or "[redacted" in page.text, path
    retried = await client.post(f"/tasks/{task.id}/retry")
    cancelled = await client.delete(f"/tasks/{task.id}")
    for answer in (retried, cancelled):
        assert answer.status_code == 200
        assert leaks(await answer.get_data(as_text=True)) == []
    shown = await client.get(f"/tasks/{task.id}")
    assert json.loads(await shown.get_data())["payload"]["name"] == "Ada"


async def test_nor_when_it_is_submitted(engine: FakeEngine) -> None:
    client = create_app(engine, make_settings(redact=",".join(PATHS))).test_client()
    item = {"type": "anything", "payload": {"password": PASSWORD}}
    one = await client.post("/tasks", data=json.dumps(item), headers=JSON)
    many = await client.post("/tasks/batch", data=json.dumps({"tasks": [item]}), headers=JSON)

    for answer in (one, many):
        assert answer.status_code == 201
        assert leaks(await answer.get_data(as_text=True)) == []
    assert [task.payload for task in engine.stored] == [{"password": PASSWORD}] * 2


async def test_what_is_not_redacted_is_not_touched(engine: FakeEngine) -> None:
    assert redacting(engine, ()) is engine
    task = Redaction(("payload.none",)).task(engine.add(payload={"a": [1, "text", None, True]}))
    assert task.payload == {"a": [1, "text", None, True]}


@pytest.mark.parametrize(
    ("path", "payload", "shown"),
    [
        ("payload", "all of it", "[redacted]"),
        ("payload.a.b", {"a": {"b": 1, "c": 2}}, {"a": {"b": "[redacted]", "c": 2}}),
        ("payload.a.b", {"a": "text"}, {"a": "text"}),
        ("payload.a", {"a": None}, {"a": None}),
        ("payload.a", [{"a": 1}, {"b": 2}], [{"a": "[redacted]"}, {"b": 2}]),
        (
            "payload.a",
            {"a": {"deep": "word"}, "b": "a word"},
            {"a": "[redacted]", "b": "a [redacted]"},
        ),
        ("payload.pin", {"pin": "12", "b": "12 of 12"}, {"pin": "[redacted]", "b": "12 of 12"}),
        (
            "payload.n",
            {"n": 123456, "m": 123456, "x": 1234567},
            {"n": "[redacted]", "m": "[redacted]", "x": 1234567},
        ),
    ],
)
async def test_paths(engine: FakeEngine, path: str, payload: object, shown: object) -> None:
    assert Redaction((path,)).task(engine.add(payload=payload)).payload == shown


async def test_texts_are_withheld_where_there_is_too_much_to_look_for(engine: FakeEngine) -> None:
    many = [f"secret-{number}" for number in range(2000)]
    error = TaskError(type="ValueError", message="no secret-1999", traceback="secret-7")

    task = Redaction(("payload.all",)).task(engine.add(payload={"all": many}, error=error))

    assert task.error is not None
    assert "secret" not in task.error.message + (task.error.traceback or "")


async def test_every_method_of_the_engine_is_thought_of(engine: FakeEngine) -> None:
    """One that is new has to be redacted, or to be said to show nothing."""
    shown = redacting(engine, PATHS)
    # What goes through other methods of the engine, or is not reached by HTTP.
    inside = {"submit", "result"}
    for kind in (TaskApi, EngineApi):
        for name, _ in inspect.getmembers(kind):
            if not name.startswith("_") and name not in inside:
                assert hasattr(shown, name), f"http/redaction.py knows no {name}"


async def test_events_show_nothing_of_it(engine: FakeEngine) -> None:
    task = add_secret_task(engine, TaskStatus.PROCESSING)
    shown = redacting(engine, PATHS)
    stream = shown.events()
    now = datetime.now(UTC)
    about = {"type": task.type, "queue": task.queue, "attempt": 1}
    line = LogLine(time=now, level="INFO", logger="shop", message=f"with {PASSWORD}, {CARD}")
    said = {"user": "ada@example.com", "note": f"as {PASSWORD} for ada@example.com"}
    for task_id in (task.id, NO_TASK):  # of which nothing can be known
        engine.streams[0].put(LogEvent(task_id=task_id, line=line, **about))
        engine.streams[0].put(ProgressEvent(task_id=task_id, at=now, progress=said, **about))
    for _ in range(4):
        event = await anext(stream)
        text = msgspec.json.encode(event).decode()
        assert leaks(text) == []
        assert "[redacted" in text
    await stream.aclose()
    assert engine.streams[0].closed.is_set()


async def test_what_is_hidden_cannot_be_searched_for(engine: FakeEngine) -> None:
    client = create_app(engine, make_settings(redact=",".join(PATHS))).test_client()
    wanted = {"action": "retry", "filter": {"error": "correct"}, "dry_run": True}
    for answer in (
        await client.get("/tasks?error=correct"),
        await client.post("/tasks/actions", json=wanted),
    ):
        assert answer.status_code == 400
        assert (await answer.get_json())["field"].endswith("error")


class Login(msgspec.Struct):
    user: str
    password: str


class Checked(msgspec.Struct):
    password: str

    def __post_init__(self) -> None:
        raise ValueError(f"no user has the password {self.password!r}")


LONG = "sk_live_" + "".join(chr(97 + n % 26) for n in range(90))


@pytest.mark.parametrize(
    ("hidden", "text", "shown"),
    [
        ("Ada@Example.com", "no account ada@example.com", "no account [redacted]"),
        ("päss", f"sent {json.dumps('päss')}", 'sent "[redacted]"'),
        ("päss", f"sent {'päss'.encode()!r}", "sent b'[redacted]'"),
        ("a b/c@d", "GET /x?t=a+b%2Fc%40d", "GET /x?t=[redacted]"),
        ("a b/c@d", "GET /a%20b/c%40d", "GET /[redacted]"),
        # What was cut, by the engine or by who wrote it.
        (LONG, f"bad key {LONG[:40]}", "bad key [redacted]"),
        (LONG, f"{LONG[-30:]} is bad", "[redacted] is bad"),
        (LONG, f"'{LONG[:24]}...{LONG[-24:]}'", "'[redacted]...[redacted]'"),
        (LONG * 20, f"bad key {LONG * 20}", "bad key [redacted]"),
        ("https://hooks.example/T0/B1", "https://other.example", "https://other.example"),
    ],
)
async def test_spellings(engine: FakeEngine, hidden: str, text: str, shown: str) -> None:
    error = TaskError(type="ValueError", message=text, traceback=f"Traceback\n{text}")
    task = engine.add(payload={"key": hidden}, result={text: text}, error=error)

    seen = Redaction(("payload.key",)).task(task)

    assert seen.error is not None
    assert seen.error.message == shown
    assert seen.error.traceback == f"Traceback\n{shown}"
    assert seen.result == {shown: shown}


async def test_what_earlier_progress_said_is_hidden_in_all_texts(engine: FakeEngine) -> None:
    now = datetime.now(UTC)
    line = LogLine(time=now, level="INFO", logger="for.ada@example.com", message="ada@example.com")
    first = AttemptRecord(
        number=1,
        outcome=AttemptOutcome.RETRIED,
        started_at=now,
        progress={"user": "ada@example.com"},
        error=TaskError(type="ValueError", message="no ada@example.com"),
        logs=(line,),
    )
    task = engine.add(progress=None)

    seen = Redaction(PATHS).history(AttemptHistory(attempts=(first,)), task)

    assert leaks(msgspec.json.encode(seen).decode()) == []


async def test_a_stream_hides_what_progress_said_meanwhile(engine: FakeEngine) -> None:
    task = engine.add(status=TaskStatus.PROCESSING)
    about = {"type": task.type, "queue": task.queue, "attempt": 1, "task_id": task.id}
    now = datetime.now(UTC)
    stream = redacting(engine, PATHS).events()
    line = LogLine(time=now, level="INFO", logger="shop", message="as ada@example.com")
    for event in (
        ProgressEvent(at=now, progress={"user": "?"}, **about),
        ProgressEvent(at=now, progress={"user": "ada@example.com"}, **about),
        LogEvent(line=line, **about),
    ):
        engine.streams[0].put(event)

    for _ in range(3):
        assert leaks(msgspec.json.encode(await anext(stream)).decode()) == []
    await stream.aclose()


async def test_in_the_form_it_is_typed_unseen_and_not_sent_back(engine: FakeEngine) -> None:
    @engine.registry.task("login")
    async def login(payload: Login) -> None:
        del payload

    client = create_app(engine, make_settings(redact="payload.password")).test_client()
    browser = Browser(client)  # type: ignore[arg-type] # Quart-Trio's
    page = await browser.get("/dashboard/submit?type=login")
    given = {"payload.user": "ada", "payload.password": PASSWORD}
    refused = await browser.send("/dashboard/submit", on=page, type="login", delay="x", **given)

    for each in (page, refused):
        (field,) = (one for _, one in each.tags() if one.get("name") == "payload.password")
        assert field["type"] == "password"
    assert refused.status == 422
    assert leaks(refused.text) == []


async def test_a_refusal_does_not_repeat_it(engine: FakeEngine) -> None:
    @engine.registry.task("checked")
    async def checked(payload: Checked) -> None:
        del payload

    client = create_app(engine, make_settings(redact=",".join(PATHS))).test_client()
    item = {"type": "checked", "payload": {"password": PASSWORD}}
    one = await client.post("/tasks", data=json.dumps(item), headers=JSON)
    many = await client.post("/tasks/batch", data=json.dumps({"tasks": [item]}), headers=JSON)

    assert (one.status_code, many.status_code) == (422, 207)
    for answer in (one, many):
        text = await answer.get_data(as_text=True)
        assert leaks(text) == []
        assert "no user has the password" in text
    for broken in ('"\\ud800"', "[" * 2000 + "]" * 2000):
        answer = await client.post(
            "/tasks", data=f'{{"type": "checked", "payload": {broken}}}', headers=JSON
        )
        assert answer.status_code in (400, 422)
