"""POST /tasks: what is taken, what is refused, and that nothing is stored of what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from quart_trio.testing import TrioClient

from task_queue_engine.errors import BackendUnavailable, EngineNotRunning, MessageRefused
from task_queue_engine.http import create_app
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine

JSON = {"Content-Type": "application/json"}


async def submit(client: TrioClient, body: Any, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/tasks", data=data, headers=JSON | named)


async def problem_of(response: Any, status: int) -> dict[str, Any]:
    """The problem, after checking the members every one has."""
    assert response.status_code == status, await response.get_data()
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = json.loads(await response.get_data())
    assert problem["status"] == status
    assert problem["error"] == problem["detail"] != ""
    assert problem["title"]
    assert problem["type"].startswith("/docs#") or problem["type"] == "about:blank"
    return problem


async def test_a_task_is_stored_and_shown(client: TrioClient, engine: FakeEngine) -> None:
    response = await submit(client, {"type": "email", "payload": {"to": "a@example.com"}})

    assert response.status_code == 201
    assert response.content_type == "application/json"
    task = json.loads(await response.get_data())
    assert [stored.id for stored in engine.stored] == [task["id"]]
    assert response.headers["Location"] == f"/tasks/{task['id']}"
    assert "Idempotent-Replayed" not in response.headers
    assert (task["type"], task["payload"]) == ("email", {"to": "a@example.com"})
    assert (task["status"], task["retry_count"]) == ("PENDING", 0)
    assert datetime.fromisoformat(task["created_at"]).tzinfo == UTC
    assert "updated_at" in task


async def test_options_reach_the_engine(client: TrioClient, engine: FakeEngine) -> None:
    response = await submit(
        client,
        {
            "type": "anything",
            "payload": 0,
            "run_at": "2040-01-01T02:00:00+02:00",
            "max_attempts": 2,
            "timeout_seconds": 1.5,
        },
    )

    assert response.status_code == 201
    (task,) = engine.stored
    assert task.run_at == datetime(2040, 1, 1, tzinfo=UTC)
    assert (task.max_attempts, task.timeout_seconds) == (2, 1.5)


async def test_a_delay_becomes_a_time(client: TrioClient, engine: FakeEngine) -> None:
    response = await submit(client, {"type": "anything", "payload": 1, "delay_seconds": 3600})

    assert response.status_code == 201
    (task,) = engine.stored
    assert task.run_at is not None
    assert 3500 < (task.run_at - datetime.now(UTC)).total_seconds() <= 3600


@pytest.mark.parametrize("payload", [0, False, {}, [], "x", {"a": None}])
async def test_falsy_payloads_are_payloads(
    client: TrioClient, engine: FakeEngine, payload: Any
) -> None:
    response = await submit(client, {"type": "anything", "payload": payload})

    assert response.status_code == 201
    assert [task.payload for task in engine.stored] == [payload]


@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", "Application/JSON"])
async def test_json_by_any_spelling(client: TrioClient, content_type: str) -> None:
    response = await client.post(
        "/tasks",
        data=b'{"type": "anything", "payload": 1}',
        headers={"Content-Type": content_type},
    )

    assert response.status_code == 201


def one(**members: Any) -> dict[str, Any]:
    return {"type": "anything", "payload": 1} | members


def raw(payload: bytes) -> bytes:
    return b'{"type": "anything", "payload": ' + payload + b"}"


BAD: list[tuple[str, Any, int, str, str]] = [
    ("empty body", b"", 400, "body", "JSON"),
    ("broken JSON", b'{"type": "anything", ', 400, "body", "JSON"),
    ("trailing junk", b'{"type": "anything", "payload": 1} x', 400, "body", "JSON"),
    ("a list", b"[]", 400, "body", "object"),
    ("a string", b'"task"', 400, "body", "object"),
    ("null", b"null", 400, "body", "object"),
    ("byte order mark", b"\xef\xbb\xbf{}", 400, "body", "JSON"),
    ("type missing", {"payload": 1}, 422, "type", "missing"),
    ("type empty", {"type": "", "payload": 1}, 422, "type", "length >= 1"),
    ("type not text", {"type": 5, "payload": 1}, 422, "type", "str"),
    ("type null", {"type": None, "payload": 1}, 422, "type", "str"),
    ("payload missing", {"type": "anything"}, 422, "payload", "missing"),
    ("payload null", {"type": "anything", "payload": None}, 422, "payload", "empty"),
    ("payload empty", {"type": "anything", "payload": ""}, 422, "payload", "empty"),
    ("unknown type", {"type": "nope", "payload": 1}, 422, "type", "registered: anything, email"),
    ("wrong payload", {"type": "email", "payload": {"to": 5}}, 422, "payload.to", "str"),
    ("payload lacks a member", {"type": "email", "payload": {}}, 422, "payload", "to"),
    ("misspelt member", one(delay_second=5), 422, "delay_second", "not a known member"),
    ("member of the server's", one(id="x"), 422, "id", "set by the server"),
    ("status of the server's", one(status="PENDING"), 422, "status", "set by the server"),
    ("key in the body", one(idempotency_key="k"), 422, "idempotency_key", "not a known"),
    ("NaN", raw(b"NaN"), 400, "body", "JSON"),
    ("infinite", raw(b"1e999"), 422, "payload", "out of range"),
    ("minus infinity", raw(b"-Infinity"), 400, "body", "JSON"),
    ("5,000-digit integer", raw(b"9" * 5000), 422, "payload", "out of range"),
    ("309-digit integer", raw(b"9" * 5 + b"0" * 304), 422, "payload", "308 digits"),
    ("200,000 arrays", raw(b"[" * 100_000 + b"]" * 100_000), 400, "body", "deep"),
    ("200 arrays", raw(b"[" * 200 + b"]" * 200), 422, "payload", "deep"),
    ("unclosed arrays", raw(b"[" * 200_000), 400, "body", "deep"),
    ("lone surrogate", raw(rb'"\ud800"'), 400, "body", "surrogate"),
    ("lone low surrogate", raw(rb'"a\udc00b"'), 400, "body", "surrogate"),
    ("NUL, escaped", raw(rb'"a\u0000b"'), 422, "payload", "NUL"),
    ("NUL, raw", raw(b'"a\x00b"'), 400, "body", "JSON"),
    ("not UTF-8", raw(b'"\xff\xfe"'), 400, "body", "UTF-8"),
    ("not UTF-8 as a name", b'{"\xff": 1}', 400, "body", "UTF-8"),
    ("surrogate as UTF-8", raw(b'"\xed\xa0\x80"'), 400, "body", "UTF-8"),
    ("negative delay", one(delay_seconds=-1), 422, "delay_seconds", ">= 0"),
    ("endless delay", one(delay_seconds=1e300), 422, "delay_seconds", "<="),
    ("delay as text", one(delay_seconds="5"), 422, "delay_seconds", "float"),
    ("delay as a truth", one(delay_seconds=True), 422, "delay_seconds", "bool"),
    ("run_at without a zone", one(run_at="2040-01-01T00:00:00"), 422, "run_at", "timezone"),
    ("run_at not a time", one(run_at="tomorrow"), 422, "run_at", "RFC3339"),
    ("run_at a number", one(run_at=5), 422, "run_at", "datetime"),
    ("run_at has no UTC", one(run_at="0001-01-01T00:00:00+14:00"), 422, "run_at", "years"),
    ("run_at after the end", one(run_at="9999-12-31T23:59:59-14:00"), 422, "run_at", "years"),
    (
        "two times",
        one(delay_seconds=1, run_at="2040-01-01T00:00:00Z"),
        422,
        "run_at",
        "delay_seconds",
    ),
    ("no attempts", one(max_attempts=0), 422, "max_attempts", ">= 1"),
    ("half an attempt", one(max_attempts=1.5), 422, "max_attempts", "int"),
    ("too many attempts", one(max_attempts=1001), 422, "max_attempts", "<= 1000"),
    ("no time", one(timeout_seconds=0), 422, "timeout_seconds", "> 0"),
    ("payload over the engine's limit", one(payload="x" * 150_000), 413, "payload", "limit"),
]


@pytest.mark.parametrize(
    ("body", "status", "field", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
async def test_bad_submissions_are_named_and_not_stored(
    client: TrioClient, engine: FakeEngine, body: Any, status: int, field: str, says: str
) -> None:
    response = await submit(client, body)

    problem = await problem_of(response, status)
    assert problem["field"] == field
    assert says in problem["error"]
    assert engine.stored == []


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/jsonx",
    ],
)
async def test_other_content_is_refused(
    client: TrioClient, engine: FakeEngine, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post(
        "/tasks", data=b'{"type": "anything", "payload": 1}', headers=headers
    )

    problem = await problem_of(response, 415)
    assert problem["field"] == "Content-Type"
    assert response.headers["Accept-Post"] == "application/json"
    assert engine.stored == []


async def test_compressed_bodies_are_refused(client: TrioClient, engine: FakeEngine) -> None:
    response = await submit(client, one(), Content_Encoding="gzip")

    assert (await problem_of(response, 415))["field"] == "Content-Encoding"
    assert engine.stored == []


class TestIdempotencyKey:
    async def test_a_repeat_is_the_same_task(self, client: TrioClient, engine: FakeEngine) -> None:
        first = await submit(client, one(), Idempotency_Key="order-17")
        second = await submit(client, one(), Idempotency_Key="order-17")

        assert (first.status_code, second.status_code) == (201, 201)
        assert await first.get_data() == await second.get_data()
        assert "Idempotent-Replayed" not in first.headers
        assert second.headers["Idempotent-Replayed"] == "true"
        assert second.headers["Location"] == first.headers["Location"]
        assert len(engine.stored) == 1

    async def test_quoted_as_the_draft_has_it_or_bare(
        self, client: TrioClient, engine: FakeEngine
    ) -> None:
        await submit(client, one(), Idempotency_Key=r'"a\"b"')
        await submit(client, one(), Idempotency_Key='a"b')

        assert len(engine.stored) == 1

    @pytest.mark.parametrize("change", [{"payload": 2}, {"type": "email"}])
    async def test_reused_for_something_else(
        self, client: TrioClient, engine: FakeEngine, change: dict[str, Any]
    ) -> None:
        payload = {"to": "a@example.com"}
        await submit(client, one(payload=payload), Idempotency_Key="k")
        response = await submit(client, one(payload=payload) | change, Idempotency_Key="k")

        problem = await problem_of(response, 422)
        assert problem["type"] == "/docs#idempotency-key-reused"
        assert problem["task_id"] == engine.stored[0].id
        assert len(engine.stored) == 1

    async def test_still_in_flight(self, client: TrioClient, engine: FakeEngine) -> None:
        engine.hold = trio.Event()
        async with trio.open_nursery() as nursery:

            async def first() -> None:
                assert (await submit(client, one(), Idempotency_Key="k")).status_code == 201

            nursery.start_soon(first)
            await engine.reached.wait()
            response = await submit(client, one(), Idempotency_Key="k")
            engine.hold.set()

        problem = await problem_of(response, 409)
        assert problem["type"] == "/docs#idempotency-key-in-flight"
        assert int(response.headers["Retry-After"]) >= 1
        assert len(engine.stored) == 1

    @pytest.mark.parametrize("key", ["", '""', "x" * 256, "schl\xfcssel", "tab\tbed"])
    async def test_not_a_key(self, client: TrioClient, engine: FakeEngine, key: str) -> None:
        response = await submit(client, one(), Idempotency_Key=key)

        problem = await problem_of(response, 400)
        assert problem["field"] == "Idempotency-Key"
        assert "1 to 255 printable ASCII" in problem["error"]
        assert engine.stored == []

    async def test_two_keys(self, client: TrioClient, engine: FakeEngine) -> None:
        response = await client.post(
            "/tasks",
            data=json.dumps(one()).encode(),
            headers=[*JSON.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
        )

        assert "more than once" in (await problem_of(response, 400))["error"]
        assert engine.stored == []

    async def test_255_characters_are_a_key(self, client: TrioClient, engine: FakeEngine) -> None:
        assert (await submit(client, one(), Idempotency_Key="x" * 255)).status_code == 201
        assert len(engine.stored) == 1


async def test_trouble_with_the_backend_is_temporary(
    client: TrioClient, engine: FakeEngine
) -> None:
    engine.failure = BackendUnavailable("the database is locked", retry_after=2.5)
    problem = await problem_of(response := await submit(client, one()), 503)
    assert "locked" in problem["error"]
    assert response.headers["Retry-After"] == "3"

    engine.failure = MessageRefused("an-id", "too large")
    problem = await problem_of(await submit(client, one()), 422)
    assert problem["type"].endswith("#message-refused")
    assert problem["task_id"] == "an-id"
    assert "too large" in problem["detail"]

    engine.failure = EngineNotRunning()
    await problem_of(response := await submit(client, one()), 503)
    assert int(response.headers["Retry-After"]) >= 1

    engine.failure = None
    assert (await submit(client, one())).status_code == 201


async def test_an_engine_that_hangs_is_answered_for(
    autojump_clock: Any, client: TrioClient, engine: FakeEngine
) -> None:
    engine.hold = trio.Event()
    started = trio.current_time()

    problem = await problem_of(response := await submit(client, one()), 503)

    assert trio.current_time() - started == pytest.approx(30), "TQE_REQUEST_TIMEOUT"
    assert "in time" in problem["error"]
    assert "Retry-After" in response.headers
    assert engine.stored == []


async def test_a_defect_is_answered_without_its_insides(
    client: TrioClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = RuntimeError("password=hunter2")

    response = await submit(client, one(), X_Request_Id="find-me")

    problem = await problem_of(response, 500)
    assert problem["request_id"] == response.headers["X-Request-Id"] == "find-me"
    assert b"hunter2" not in await response.get_data()
    assert "find-me" in caplog.text
    assert "hunter2" in caplog.text


# --- how much may be asked for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "members", "field"),
    [
        ({}, {"max_attempts": 3, "timeout_seconds": 300}, None),  # the engine's defaults
        ({}, {"max_attempts": 4}, "max_attempts"),
        ({}, {"timeout_seconds": 300.5}, "timeout_seconds"),
        ({}, {"max_attempts": 1000, "timeout_seconds": 86_400}, "max_attempts"),
        ({}, {"type": "email", "payload": {"to": "a"}, "max_attempts": 5}, None),  # its own
        ({}, {"type": "email", "payload": {"to": "a"}, "max_attempts": 6}, "max_attempts"),
        ({"submit_max_attempts": 20}, {"max_attempts": 20}, None),
        ({"submit_max_attempts": 20}, {"max_attempts": 21}, "max_attempts"),
        ({"submit_max_attempts": 1}, {"max_attempts": 3}, None),  # less takes nothing away
        ({"submit_max_timeout": 3600}, {"timeout_seconds": 3600}, None),
        ({"submit_max_timeout": 3600}, {"timeout_seconds": 3601}, "timeout_seconds"),
        ({"max_attempts": 9}, {"max_attempts": 9}, None),
    ],
    ids=str,
)
async def test_a_submitter_may_ask_for_what_the_type_has_and_the_deployment_allows(
    engine: FakeEngine, settings: Any, members: Any, field: str | None
) -> None:
    client = create_app(engine, make_settings(**settings)).test_client()
    body = {"type": "anything", "payload": 1} | members
    alone = await client.post("/tasks", json=body)
    batch = await client.post("/tasks/batch", json={"tasks": [body]})
    (result,) = (await batch.get_json())["results"]
    if field is None:
        assert (alone.status_code, result["status"]) == (201, 201)
    else:
        problem = await alone.get_json()
        assert (alone.status_code, result["status"]) == (422, 422)
        assert (problem["field"], result["problem"]["field"]) == (field, field)
        assert (
            f"TQE_SUBMIT_{'MAX_ATTEMPTS' if 'att' in field else 'MAX_TIMEOUT'}" in problem["error"]
        )
