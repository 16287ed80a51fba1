"""A client on a bad network, and in front of servers of other programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine.client import AsyncClient, schemas
from task_queue_engine.engine import views
from task_queue_engine.engine.api import RedriveReport, Refused, Submission
from task_queue_engine.errors import (
    ApiError,
    BackendUnavailable,
    ConfigurationError,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidQuery,
    InvalidTask,
    MessageRefused,
    PayloadTooLarge,
    Problem,
    TaskNotFound,
    TaskQueueError,
    UnknownTaskType,
    WrongState,
)
from task_queue_engine.http import problems as server_problems
from task_queue_engine.http import schemas as server_schemas
from task_queue_engine.task import Task, TaskStatus

ID = "00000000-0000-7000-8000-000000000000"
NOW = datetime(2030, 1, 1, tzinfo=UTC)

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, **values: Any) -> AsyncClient:
    async def handle(request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return answer(request)

    values = {"retries": 0} | values
    return AsyncClient("http://127.0.0.1:8080", transport=httpx.MockTransport(handle), **values)


def task_answer(status: TaskStatus) -> httpx.Response:
    task = Task(id=ID, type="echo", payload=1, status=status, created_at=NOW, updated_at=NOW)
    return httpx.Response(200, content=msgspec.json.encode(task))


# --- waiting --------------------------------------------------------------------------------


async def test_waiting_asks_for_pieces_of_the_time(autojump_clock: MockClock) -> None:
    asked: list[float] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        wait = float(request.url.params.get("wait", "0"))
        asked.append(wait)
        await trio.sleep(wait)
        return task_answer(TaskStatus.PENDING)

    async with AsyncClient("http://x", transport=httpx.MockTransport(handle)) as waiting:
        task = await waiting.wait(ID, timeout=70)
    assert task.status is TaskStatus.PENDING
    assert trio.current_time() == pytest.approx(70)
    assert asked == [30, 30, 10]


async def test_a_server_that_restarts_is_waited_for(autojump_clock: MockClock) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        if trio.current_time() < 3:  # draining: it answers at once
            return task_answer(TaskStatus.PROCESSING)
        if trio.current_time() < 10:
            raise httpx.ConnectError("refused")
        if trio.current_time() < 12:
            return httpx.Response(503, text="starting")
        return task_answer(TaskStatus.COMPLETED)

    calls: list[httpx.Request] = []
    async with client(lambda request: calls.append(request) or answer(request)) as waiting:
        task = await waiting.wait(ID, timeout=60)
    assert task.status is TaskStatus.COMPLETED
    assert trio.current_time() == pytest.approx(12, abs=1)
    assert len(calls) < 40, "it paused between looks"


async def test_a_server_that_is_not_there_is_not_waited_for(autojump_clock: MockClock) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with client(answer) as waiting:
        with pytest.raises(BackendUnavailable, match=r"http://127\.0\.0\.1:8080 cannot be reached"):
            await waiting.wait(ID, timeout=60)
    assert trio.current_time() == 0


async def test_a_server_that_stays_away_is_an_error_in_the_end(autojump_clock: MockClock) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        if trio.current_time() < 3:
            return task_answer(TaskStatus.PROCESSING)
        raise httpx.ConnectError("refused")

    async with client(answer) as waiting:
        with pytest.raises(BackendUnavailable):
            await waiting.wait(ID, timeout=60)
    assert trio.current_time() == pytest.approx(60)


async def test_a_request_as_a_whole_is_bounded(autojump_clock: MockClock) -> None:
    """httpx's own timeouts start anew with every byte."""

    async def handle(_: httpx.Request) -> httpx.Response:
        await trio.sleep(3600)
        raise AssertionError

    transport = httpx.MockTransport(handle)
    async with AsyncClient("http://x", timeout=5, retries=0, transport=transport) as hasty:
        with pytest.raises(BackendUnavailable, match="did not answer within 5 s"):
            await hasty.get(ID)
    assert trio.current_time() == 5


# --- answers of others ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (httpx.Response(429, headers={"Retry-After": "9"}), BackendUnavailable),
        (httpx.Response(502, text="<h1>Bad Gateway</h1>"), BackendUnavailable),
        (httpx.Response(504), BackendUnavailable),
        (httpx.Response(404, text="<h1>Not Found</h1>"), ApiError),
        (httpx.Response(307, headers={"Location": "http://other/"}), ApiError),
        (httpx.Response(200, text="<h1>Welcome</h1>"), ApiError),
        (httpx.Response(200, text="{}"), ApiError),
        (httpx.Response(200, content=b"\xff"), ApiError),
        (httpx.Response(599), ApiError),
    ],
)
async def test_whatever_comes_is_one_of_our_errors(
    response: httpx.Response, error: type[TaskQueueError]
) -> None:
    async with client(lambda _: response) as asking:
        with pytest.raises(error) as caught:
            await asking.get(ID)
    if isinstance(caught.value, ApiError):
        assert caught.value.status == response.status_code
    if isinstance(caught.value, BackendUnavailable):
        assert caught.value.retry_after == (9 if response.status_code == 429 else 1)


CLASSES: dict[str, type[TaskQueueError]] = {
    "bad-request": InvalidTask,
    "idempotency-key-in-flight": IdempotencyKeyInFlight,
    "idempotency-key-reused": IdempotencyKeyReused,
    "invalid-query": InvalidQuery,
    "invalid-task": InvalidTask,
    "message-refused": MessageRefused,
    "not-ready": BackendUnavailable,
    "task-not-found": TaskNotFound,
    "too-large": PayloadTooLarge,
    "too-many-requests": BackendUnavailable,
    "unavailable": BackendUnavailable,
    "unknown-task-type": UnknownTaskType,
    "wrong-state": WrongState,
}
"""ApiError is for all others."""


def problem_response(slug: str, **members: Any) -> httpx.Response:
    problem = server_problems.make(slug, "payload.to: what is wrong", **members)
    return httpx.Response(
        problem.status,
        content=server_problems.encode(problem),
        headers={"Content-Type": "application/problem+json; charset=utf-8", "Retry-After": "7"},
    )


@pytest.mark.parametrize("slug", sorted(server_problems.PROBLEM_TYPES))
async def test_every_kind_of_problem_has_its_error(slug: str) -> None:
    field = "type" if slug == "unknown-task-type" else "payload.to"
    members = {"field": field, "task_id": ID, "task_status": TaskStatus.FAILED}
    members |= {"task_type": "x", "known_types": ("y",), "size": 2, "limit": 1}
    response = problem_response(slug, **members)
    async with client(lambda _: response) as asking:
        with pytest.raises(CLASSES.get(slug, ApiError)) as caught:
            await asking.get(ID)
    error = caught.value
    if isinstance(error, ApiError):
        assert (error.status, error.kind) == (response.status_code, slug)
    if isinstance(error, BackendUnavailable):
        assert error.retry_after == 7
    if slug == "invalid-task":
        assert isinstance(error, InvalidTask)
        assert (error.field, error.reason) == ("payload.to", "what is wrong")


@pytest.mark.parametrize("slug", sorted(server_problems.PROBLEM_TYPES))
async def test_a_problem_that_says_less_is_an_error_all_the_same(slug: str) -> None:
    """An older server leaves members out."""
    response = problem_response(slug)
    async with client(lambda _: response) as asking:
        with pytest.raises(TaskQueueError, match=r"what is wrong|in flight"):
            await asking.get(ID)


@pytest.mark.parametrize("body", ["", "[]", '"text"', '{"status": "four"}', "\xff"])
async def test_problems_that_are_none(body: str) -> None:
    response = httpx.Response(404, text=body, headers={"Content-Type": "application/problem+json"})
    async with client(lambda _: response) as asking:
        with pytest.raises(ApiError, match="404"):
            await asking.get(ID)


@pytest.mark.parametrize("task_id", ["", "..", "../metrics", "a b", "%2e%2e", f"{ID}/retry"])
async def test_what_cannot_be_an_id_is_not_sent(task_id: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request.url)

    async with client(answer) as asking:
        for operation in (asking.get, asking.cancel, asking.retry):
            with pytest.raises(TaskNotFound):
                await operation(task_id)


async def test_a_batch_that_gets_no_answer_is_told_to_each() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    async with client(answer) as asking:
        verdicts = await asking.submit_many([Submission(task="echo", payload=1)] * 3)
    assert len(verdicts) == 3
    for verdict in verdicts:
        assert isinstance(verdict, Refused)
        assert isinstance(verdict.error, BackendUnavailable)


async def test_a_thousand_tasks_and_more_are_split() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        sizes.append(len(body.get("tasks", body.get("ids", ()))))
        if "ids" in body:
            return httpx.Response(200, json={"redriven": len(body["ids"]) - 1, "skipped": 1})
        return httpx.Response(207, json={"results": [{"status": 422} for _ in body["tasks"]]})

    async with client(answer) as asking:
        await asking.submit_many([Submission(task="echo", payload=1)] * 2001)
        report = await asking.redrive([str(number) for number in range(2001)])
    assert sizes == [1000, 1000, 1, 1000, 1000, 1]
    assert report == RedriveReport(redriven=1998, skipped=3)


async def test_a_redrive_goes_on_until_nothing_remains() -> None:
    """A server does a bounded piece of it in each request."""
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        done = sum(each == body for each in asked[:-1]) if "ids" in body else 0
        left = (3 - done) if "ids" in body else body.get("limit", 7)
        report = {"redriven": min(left, 3), "skipped": 0, "refused": 0, "remaining": 0}
        if "ids" in body:
            report |= {"redriven": 1, "remaining": left - 1, "not_found": 1 + done}
        else:
            report |= {"remaining": max(0, left - 3)}
        return httpx.Response(200, json=report)

    async with client(answer) as asking:
        assert await asking.redrive() == RedriveReport(redriven=7)
        ids = ["1", "2", "3", "none"]
        assert await asking.redrive(ids) == RedriveReport(redriven=3, not_found=1)
    assert asked == [
        {"all": True},
        {"all": True, "limit": 4},
        {"all": True, "limit": 1},
        *[{"ids": ids}] * 3,
    ]


async def test_a_redrive_that_gets_no_further_ends() -> None:
    asked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(200, json={"redriven": 0, "skipped": 0, "remaining": 5})

    async with client(answer) as asking:
        await asking.redrive()
    assert len(asked) == 1


# --- addresses and keys ---------------------------------------------------------------------


async def test_requests_go_below_the_given_path_with_the_key() -> None:
    seen: list[httpx.Request] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return task_answer(TaskStatus.PENDING)

    transport = httpx.MockTransport(handle)
    url = "https://example.com/queues/main/"
    async with AsyncClient(url, api_key="a key of some length", transport=transport) as asking:
        await asking.get(ID)
    assert str(seen[0].url) == f"https://example.com/queues/main/tasks/{ID}"
    assert seen[0].headers["Authorization"] == "Bearer a key of some length"


async def test_secrets_do_not_show() -> None:
    async with client(lambda _: httpx.Response(404), api_key="the-secret-key-itself") as asking:
        assert "secret" not in repr(asking)
    hidden = AsyncClient("http://user:secret@localhost:8080")
    assert (hidden.url, "secret" in repr(hidden)) == ("http://localhost:8080", False)
    await hidden.aclose()


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://localhost", "http://", "http://[::1"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: "):
        AsyncClient(url)


@pytest.mark.parametrize("key", ["", "schlüssel", "a\r\nX-Injected: yes"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^api_key: "):
        AsyncClient("http://localhost", api_key=key)


async def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # no server listens there
    async with AsyncClient("http://127.0.0.1:10", retries=0) as direct:
        with pytest.raises(BackendUnavailable, match=r"connect to 127\.0\.0\.1:10 failed"):
            await direct.get(ID)


# --- in step with the server ----------------------------------------------------------------


def test_results_of_a_batch_have_the_members_of_the_server_s() -> None:
    assert schemas.BatchResultRead.__struct_fields__ == server_schemas.BatchResult.__struct_fields__


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (schemas.DeadLetterRead, views.DeadLetterView),
        (schemas.DeadLetterListRead, views.DeadLetterList),
        (schemas.MetricsRead, views.MetricsView),
    ],
)
def test_what_a_client_reads_adds_no_member_to_what_a_server_writes(
    read: type[msgspec.Struct], written: type[msgspec.Struct]
) -> None:
    assert set(read.__struct_fields__) == set(written.__struct_fields__)


@pytest.mark.parametrize(
    ("read", "may_be_missing"),
    [
        (schemas.DeadLetterRead, {"error"}),
        (schemas.DeadLetterListRead, {"next_cursor"}),
        (
            schemas.MetricsRead,
            {
                "queue",
                "cancelled_tasks",
                "workers",
                "waiting",
                "delayed",
                "in_flight",
                "dead_letters",
                "uptime_seconds",
                "abandoned_threads",
                "counters",
                "given_back_by_type",
                "usage",
                "oldest_age_seconds",
                "slots",
                "labelled_counters",
                "histograms",
            },
        ),
    ],
)
def test_what_an_older_server_may_leave_out(
    read: type[msgspec.Struct], may_be_missing: set[str]
) -> None:
    fields = msgspec.structs.fields(read)
    assert {field.encode_name for field in fields if not field.required} == may_be_missing


def test_problems_have_members_of_the_server_s() -> None:
    ours, theirs = Problem.__struct_fields__, server_problems.Problem.__struct_fields__
    assert set(ours) <= set(theirs)
