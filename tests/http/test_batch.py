"""POST /tasks/batch: each item by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.errors import BackendUnavailable
from tests.http.fakes import FakeEngine
from tests.http.test_submit import JSON, one, problem_of


async def submit(client: TrioClient, body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post("/tasks/batch", data=data, headers=JSON)


async def test_all_good(client: TrioClient, engine: FakeEngine) -> None:
    response = await submit(client, {"tasks": [one(payload=n) for n in range(1, 4)]})

    assert response.status_code == 201
    answer = json.loads(await response.get_data())
    assert (answer["accepted"], answer["refused"]) == (3, 0)
    assert [result["task"]["payload"] for result in answer["results"]] == [1, 2, 3]
    assert {result["task"]["id"] for result in answer["results"]} == {t.id for t in engine.stored}


async def test_the_bad_do_not_spoil_the_good(client: TrioClient, engine: FakeEngine) -> None:
    items = [
        json.dumps(one(payload="first")).encode(),
        b'{"type": "anything", "payload": "\xff"}',
        b"5",
        json.dumps(one(delay_second=5)).encode(),
        json.dumps({"type": "email", "payload": {"to": 1}}).encode(),
        b'{"type": "anything", "payload": ' + b"[" * 200 + b"]" * 200 + b"}",
        json.dumps(one(idempotency_key="")).encode(),
        json.dumps(one(payload="last")).encode(),
    ]
    response = await submit(client, b'{"tasks": [' + b",".join(items) + b"]}")

    assert response.status_code == 207
    answer = json.loads(await response.get_data())
    assert (answer["accepted"], answer["refused"]) == (2, 6)
    statuses = [result["status"] for result in answer["results"]]
    assert statuses == [201, 400, 400, 422, 422, 422, 422, 201]
    problems = [result["problem"] for result in answer["results"] if "problem" in result]
    fields = [problem["field"] for problem in problems]
    assert fields == ["body", "body", "delay_second", "payload.to", "payload", "idempotency_key"]
    assert all(problem["error"] and problem["status"] >= 400 for problem in problems)
    assert [task.payload for task in engine.stored] == ["first", "last"]


async def test_keys_of_items(client: TrioClient, engine: FakeEngine) -> None:
    body = {"tasks": [one(idempotency_key="a"), one(idempotency_key="b")]}
    await submit(client, body)
    response = await submit(client, body)

    answer = json.loads(await response.get_data())
    assert [result["replayed"] for result in answer["results"]] == [True, True]
    assert len(engine.stored) == 2


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"[]", 400, "body"),
        (b"{", 400, "body"),
        ({}, 422, "tasks"),
        ({"tasks": 5}, 422, "tasks"),
        ({"tasks": []}, 422, "tasks"),
        ({"tasks": [one()] * 1001}, 422, "tasks"),
        ({"tasks": [one()], "task": []}, 422, "task"),
        (b'{"tasks": [' + b"[" * 200_000, 400, "body"),
    ],
)
async def test_not_a_batch(
    client: TrioClient, engine: FakeEngine, body: Any, status: int, field: str
) -> None:
    response = await submit(client, body)

    assert (await problem_of(response, status))["field"] == field
    assert engine.stored == []


async def test_a_key_for_the_whole_batch_is_refused(client: TrioClient, engine: FakeEngine) -> None:
    response = await client.post(
        "/tasks/batch",
        data=json.dumps({"tasks": [one()]}).encode(),
        headers=JSON | {"Idempotency-Key": "k"},
    )

    assert (await problem_of(response, 400))["field"] == "Idempotency-Key"
    assert engine.stored == []


async def test_trouble_is_every_items(client: TrioClient, engine: FakeEngine) -> None:
    engine.failure = BackendUnavailable("disk full")

    await problem_of(await submit(client, {"tasks": [one()]}), 503)
