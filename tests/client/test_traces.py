"""One trace from a client's span over HTTP to the attempt that runs its task."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from task_queue_engine import Submission, TaskQueueError, TraceContext
from task_queue_engine.client import Client
from task_queue_engine.engine.api import Accepted
from task_queue_engine.http import create_app
from tests.client.conftest import World
from tests.engine.engines import settings
from tests.spans import Spans, id_of, parent_of, spans, trace_of

__all__ = ["spans"]  # the fixture

GIVEN = TraceContext(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    sampled=True,
    tracestate="vendor=1",
)


def http_to(world: World) -> httpx.AsyncClient:
    """As a client in any other language."""
    transport = httpx.ASGITransport(create_app(world.engine, settings()))  # type: ignore[arg-type] # as in conftest
    return httpx.AsyncClient(base_url="http://127.0.0.1", transport=transport)


async def test_from_the_caller_s_span_to_the_attempt(world: World, spans: Spans) -> None:
    with spans.tracer.start_as_current_span("of the caller"):
        handle = await world.client.submit("echo", 1)
        (verdict,) = await world.client.submit_many([Submission(task="echo", payload=2)])
    await handle.result(timeout=30)
    assert isinstance(verdict, Accepted)
    await world.client.result(verdict.task.id, timeout=30)
    task = await handle.task()

    caller = spans.one("of the caller")
    assert task.trace_id == trace_of(caller)
    assert task == await world.engine.get(handle.id)
    assert {trace_of(span) for span in spans.all} == {trace_of(caller)}
    submitted = spans.named("submit default")
    assert [parent_of(span) for span in submitted] == [id_of(caller)] * 2
    processed = spans.named("process default")
    assert [parent_of(span) for span in processed] == [id_of(span) for span in submitted]


async def test_a_header_is_the_parent_and_shows_in_the_task(world: World, spans: Spans) -> None:
    async with http_to(world) as http:
        answer = await http.post(
            "/tasks", json={"type": "echo", "payload": 1}, headers=GIVEN.headers()
        )
        task = answer.json()
        batch = await http.post(
            "/tasks/batch",
            json={"tasks": [{"type": "echo", "payload": n} for n in range(2)]},
            headers=GIVEN.headers(),
        )
        await world.engine.result(task["id"], timeout=30)
        shown = (await http.get(f"/tasks/{task['id']}")).json()
    first, second = spans.named("submit default")
    assert (parent_of(first), trace_of(first)) == (GIVEN.span_id, GIVEN.trace_id)
    assert (parent_of(second), trace_of(second)) == (GIVEN.span_id, GIVEN.trace_id)
    assert (
        shown["trace_context"]
        == task["trace_context"]
        == {
            "trace_id": GIVEN.trace_id,
            "span_id": id_of(first),
            "sampled": True,
            "tracestate": "vendor=1",
        }
    )
    of_batch = [result["task"]["trace_context"]["span_id"] for result in batch.json()["results"]]
    assert of_batch == [id_of(second)] * 2


async def test_a_server_that_traces_nothing_hands_the_header_on(world: World) -> None:
    async with http_to(world) as http:
        body = {"type": "echo", "payload": 1}
        task = (await http.post("/tasks", json=body, headers=GIVEN.headers())).json()
        plain = (await http.post("/tasks", json=body)).json()
    assert task["trace_context"]["span_id"] == GIVEN.span_id
    assert "trace_context" not in plain


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "nonsense"},
        {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"},
        {"traceparent": "x" * 8000},
        {"tracestate": "vendor=1"},
        [("traceparent", GIVEN.traceparent), ("traceparent", GIVEN.traceparent)],
        [("traceparent", "\xff\xfe".encode("latin-1"))],
    ],
)
async def test_a_header_that_is_none_is_no_reason_to_refuse(world: World, headers: Any) -> None:
    async with http_to(world) as http:
        answer = await http.post("/tasks", json={"type": "echo", "payload": 1}, headers=headers)
    assert answer.status_code == 201
    assert "trace_context" not in answer.json()


async def test_a_tracestate_is_bounded(world: World) -> None:
    headers = {"traceparent": GIVEN.traceparent, "tracestate": "vendor=" + "x" * 4000}
    async with http_to(world) as http:
        answer = await http.post("/tasks", json={"type": "echo", "payload": 1}, headers=headers)
    assert answer.json()["trace_context"]["trace_id"] == GIVEN.trace_id
    assert "tracestate" not in answer.json()["trace_context"]


async def test_it_is_no_member_of_a_submission(world: World) -> None:
    async with http_to(world) as http:
        body = {"type": "echo", "payload": 1, "trace_context": {}}
        answer = await http.post("/tasks", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == "trace_context"


def test_the_sync_client_sends_the_header(spans: Spans) -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(422, json={"title": "no"})

    client = Client("http://127.0.0.1", transport=httpx.MockTransport(answer), retries=0)
    submission = Submission(task="echo", payload=1)
    with client:
        with spans.tracer.start_as_current_span("of the caller") as span:
            with pytest.raises(TaskQueueError):
                client.submit_task(submission)
            client.submit_many([submission])
        with pytest.raises(TaskQueueError):
            client.submit_task(Submission(task="echo", payload=1, trace_context=GIVEN))
        client.submit_many([submission])
    context = span.get_span_context()
    of_span = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert [headers.get("traceparent") for headers in seen] == [
        of_span,
        of_span,
        GIVEN.traceparent,
        None,
    ]
    assert seen[2]["tracestate"] == "vendor=1"
    assert "tracestate" not in seen[3]
