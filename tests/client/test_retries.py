"""When a request is sent again, how long after, and that it doubles nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import Accepted, Refused, Submission
from task_queue_engine.client import AsyncClient, Client
from task_queue_engine.errors import (
    ApiError,
    BackendUnavailable,
    ConfigurationError,
    IdempotencyKeyInFlight,
    InvalidTask,
    ServerUnreachable,
    WrongState,
)
from task_queue_engine.http import problems
from task_queue_engine.task import Task, TaskStatus

ID = "00000000-0000-7000-8000-000000000000"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def task(status: TaskStatus = TaskStatus.PENDING) -> Task:
    return Task(id=ID, type="echo", payload=1, status=status, created_at=NOW, updated_at=NOW)


def ok(status: TaskStatus = TaskStatus.PENDING) -> httpx.Response:
    return httpx.Response(200, content=msgspec.json.encode(task(status)))


def problem(slug: str, *, retry_after: str = "1", **members: Any) -> httpx.Response:
    made = problems.make(slug, "what is wrong", **members)
    headers = {"Content-Type": "application/problem+json", "Retry-After": retry_after}
    return httpx.Response(made.status, content=problems.encode(made), headers=headers)


def wrong_state(status: TaskStatus) -> httpx.Response:
    return problem("wrong-state", task_id=ID, task_status=status)


BUSY = "unavailable"


class Server:
    """Answers one after the other, the last one for good; an exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(trio.current_time())
        answer = self._answers[0]
        if len(self._answers) > 1:
            del self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return self(request)

    def client(self, **values: Any) -> AsyncClient:
        return AsyncClient("http://x", transport=httpx.MockTransport(self.answer), **values)

    @property
    def pauses(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def keys(self) -> list[str]:
        return [request.headers["Idempotency-Key"] for request in self.requests]


LOST = httpx.ReadError("the connection broke")
REFUSED = httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "trouble",
    [
        REFUSED,
        httpx.ConnectTimeout("slow"),
        httpx.PoolTimeout("many"),
        LOST,
        httpx.RemoteProtocolError("gone"),
        httpx.ReadTimeout("slow"),
        httpx.Response(429),
        httpx.Response(502),
        httpx.Response(503),
        httpx.Response(504),
        problem(BUSY),
        problem("idempotency-key-in-flight"),
    ],
)
async def test_what_passes_is_waited_for(
    autojump_clock: MockClock, trouble: httpx.Response | Exception
) -> None:
    server = Server(trouble, trouble, ok())
    async with server.client() as client:
        handle = await client.submit("echo", 1)
    assert handle.created
    assert len(server.requests) == 3
    assert len(set(server.keys)) == 1
    assert len({request.content for request in server.requests}) == 1


async def test_each_submission_has_a_key_of_its_own() -> None:
    server = Server(ok())
    async with server.client() as client:
        await client.submit("echo", 1)
        await client.submit("echo", 1)
        await client.submit("echo", 1, idempotency_key="mine")
    assert len(set(server.keys)) == 3
    assert server.keys[-1] == '"mine"'


async def test_a_key_of_the_caller_s_may_have_been_used_before() -> None:
    replayed = httpx.Response(
        200, content=msgspec.json.encode(task()), headers={"Idempotent-Replayed": "true"}
    )
    async with Server(replayed).client() as client:
        assert not (await client.submit("echo", 1, idempotency_key="mine")).created
        # Of the client's own it says that an earlier send had arrived.
        assert (await client.submit("echo", 1)).created


async def test_the_pauses_grow_with_jitter_and_end(autojump_clock: MockClock) -> None:
    server = Server(REFUSED)
    async with server.client() as client:
        with pytest.raises(ServerUnreachable, match="http://x cannot be reached: refused"):
            await client.get(ID)
    for pause, most in zip(server.pauses, [0.25, 0.5, 1, 2], strict=True):
        assert 0.75 * most <= pause <= most
    assert server.pauses[0] != 0.25


@pytest.mark.parametrize("retries", [0, 2])
async def test_as_often_as_is_asked_for(autojump_clock: MockClock, retries: int) -> None:
    server = Server(REFUSED)
    async with server.client(retries=retries) as client:
        with pytest.raises(ServerUnreachable):
            await client.get(ID)
    assert len(server.requests) == 1 + retries


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("said", ["3", "tomorrow"])
async def test_the_server_says_how_long(autojump_clock: MockClock, status: int, said: str) -> None:
    """In seconds; a time that is too far away is for the caller."""
    if said == "tomorrow":
        said = format_datetime(datetime.now(UTC) + timedelta(days=1))
    server = Server(httpx.Response(status, headers={"Retry-After": said}), ok())
    async with server.client() as client:
        if said == "3":
            await client.get(ID)
            assert 3 <= server.pauses[0] <= 3.75
        else:
            with pytest.raises(BackendUnavailable) as caught:
                await client.get(ID)
            assert 80_000 < caught.value.retry_after <= 86_400
            assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [httpx.Response(500), problem("invalid-task", field="type")])
async def test_what_does_not_pass_is_said_at_once(answer: httpx.Response) -> None:
    server = Server(answer)
    async with server.client() as client:
        with pytest.raises((ApiError, InvalidTask)) as caught:
            await client.submit("echo", 1)
    assert len(server.requests) == 1
    assert caught.value.problem is not None
    assert caught.value.problem.status == answer.status_code


async def test_an_error_has_the_members_of_the_problem() -> None:
    answer = problem("invalid-task", field="payload.to")
    async with Server(answer).client() as client:
        with pytest.raises(InvalidTask) as caught:
            await client.submit("echo", 1)
    said = caught.value.problem
    assert said is not None
    assert (said.status, said.title) == (422, "Invalid task")
    assert said.detail == said.error == "what is wrong"
    assert (said.field, said.kind) == ("payload.to", "invalid-task")


# --- what a second send would do again ------------------------------------------------------


@pytest.mark.parametrize("operation", ["retry", "redrive", "purge_dead"])
@pytest.mark.parametrize("trouble", [LOST, httpx.ReadTimeout("slow"), httpx.Response(504)])
async def test_what_may_have_been_done_is_not_asked_for_again(
    operation: str, trouble: httpx.Response | Exception
) -> None:
    server = Server(trouble, ok())
    async with server.client() as client:
        with pytest.raises(BackendUnavailable):
            await getattr(client, operation)(*([ID] if operation == "retry" else []))
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", [REFUSED, httpx.Response(503), httpx.Response(429)])
async def test_what_has_not_been_done_is(
    autojump_clock: MockClock, trouble: httpx.Response | Exception
) -> None:
    server = Server(trouble, ok())
    async with server.client() as client:
        assert (await client.retry(ID)).status is TaskStatus.PENDING


@pytest.mark.parametrize(
    ("operation", "trouble", "was"),
    [("cancel", LOST, TaskStatus.CANCELLED), ("retry", problem(BUSY), TaskStatus.PENDING)],
)
async def test_what_the_first_send_has_done_is_no_error(
    autojump_clock: MockClock,
    operation: str,
    trouble: httpx.Response | Exception,
    was: TaskStatus,
) -> None:
    server = Server(trouble, wrong_state(was), ok(was))
    async with server.client() as client:
        assert (await getattr(client, operation)(ID)).status is was
    assert server.requests[-1].method == "GET"


@pytest.mark.parametrize("operation", ["cancel", "retry"])
@pytest.mark.parametrize("trouble", [None, problem(BUSY)])
async def test_what_cannot_be_done_is_an_error(
    autojump_clock: MockClock, operation: str, trouble: httpx.Response | None
) -> None:
    answers = [wrong_state(TaskStatus.COMPLETED), ok(TaskStatus.COMPLETED)]
    server = Server(*([trouble] if trouble else []), *answers)
    async with server.client() as client:
        with pytest.raises(WrongState):
            await getattr(client, operation)(ID)


async def test_of_a_batch_only_what_is_undone_is_sent_again(autojump_clock: MockClock) -> None:
    sent: list[list[dict[str, Any]]] = []

    def item(status: int, slug: str = "", **members: Any) -> dict[str, Any]:
        if status == 201:
            return {"status": status, "task": msgspec.to_builtins(task()), **members}
        return {"status": status, "problem": {"type": f"/docs#{slug}", "detail": "no"}}

    async def answer(request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        sent.append(json.loads(request.content)["tasks"])
        results = [
            [item(201), item(503, BUSY), item(422, "invalid-task"), item(503, BUSY)],
            [item(201, replayed=True), item(409, "idempotency-key-in-flight")],
            [item(503, BUSY)],
        ]
        return httpx.Response(207, json={"results": results[min(len(sent), 3) - 1]})

    transport = httpx.MockTransport(answer)
    async with AsyncClient("http://x", retries=3, transport=transport) as client:
        verdicts = await client.submit_many([Submission(task="echo", payload=n) for n in range(4)])

    assert [[one["payload"] for one in request] for request in sent] == [
        [0, 1, 2, 3],
        [1, 3],
        [3],
        [3],
    ]
    assert len({one["idempotency_key"] for one in sent[0]}) == 4
    assert {one["idempotency_key"] for one in sent[3]} == {sent[0][3]["idempotency_key"]}
    done, stored, refused, undone = verdicts
    assert isinstance(done, Accepted)
    assert isinstance(stored, Accepted)
    assert stored.created, "the key is the client's own"
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, InvalidTask)
    assert isinstance(undone, Refused)
    assert isinstance(undone.error, BackendUnavailable)


# --- without an event loop, and on the other one ---------------------------------------------


def plainly(answer: Callable[[httpx.Request], httpx.Response], **values: Any) -> Client:
    return Client("http://x", transport=httpx.MockTransport(answer), **values)


def test_a_plain_program_waits_for_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("task_queue_engine.client.client.time.sleep", slept.append)
    answers = [REFUSED, LOST, httpx.Response(503), problem("idempotency-key-in-flight"), ok()]
    keys: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        keys.add(request.headers["Idempotency-Key"])
        next_one = answers.pop(0)
        if isinstance(next_one, Exception):
            raise next_one
        return next_one

    with plainly(answer) as client:
        assert client.submit("echo", 1).id == ID
    assert not answers
    assert len(keys) == 1
    assert len(slept) == 4


def test_a_plain_program_is_told_of_timeouts() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with (
        plainly(answer, retries=0, timeout=2.5) as client,
        pytest.raises(BackendUnavailable, match=r"^http://x did not answer within 2\.5 s$"),
    ):
        client.get(ID)


def test_a_timeout_on_asyncio() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    async def ask() -> None:
        transport = httpx.MockTransport(answer)
        async with AsyncClient("http://x", timeout=0.01, retries=0, transport=transport) as client:
            await client.get(ID)

    with pytest.raises(BackendUnavailable, match=r"^http://x did not answer within 0\.01 s$"):
        asyncio.run(ask())


def test_an_outage_is_waited_out_by_a_plain_result(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(
        "task_queue_engine.client.client.time.sleep", lambda s: now.__setitem__(0, now[0] + s)
    )
    monkeypatch.setattr("task_queue_engine.client.client.time.monotonic", lambda: now[0])

    def answer(_: httpx.Request) -> httpx.Response:
        if now[0] < 300:
            raise REFUSED
        return ok(TaskStatus.COMPLETED)

    with plainly(answer) as client:
        assert client.result(ID) is None
        assert 300 <= now[0] < 306
        now[0] = 0
        with pytest.raises(BackendUnavailable):
            client.result(ID, timeout=60)
        assert now[0] == pytest.approx(60)


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [("retries", -1), ("retries", 1.5), ("retries", True), ("timeout", -1), ("tasks", "tasks")],
)
def test_what_cannot_be_an_argument(kind: type, name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: must be ") as caught:
        kind("http://x", **{name: value})
    assert caught.value.variable == name


async def test_the_plain_client_says_which_is_for_event_loops() -> None:
    """It is what the name meant before there was another."""
    with pytest.raises(TypeError, match=r"task_queue_engine\.client\.AsyncClient"):
        async with Client("http://x"):
            pass


def test_key_in_flight_is_an_error_in_the_end() -> None:
    with (
        plainly(lambda _: problem("idempotency-key-in-flight"), retries=0) as client,
        pytest.raises(IdempotencyKeyInFlight),
    ):
        client.submit("echo", 1, idempotency_key="mine")


async def test_a_connection_that_breaks_leaves_nothing_to_collect() -> None:
    """A body that is half sent is no ResourceWarning, which would be an error in a user's tests."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hang_up, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        # Sooner or later one of them is closed while it is written to.
        async with AsyncClient(url, retries=0) as client:
            for _ in range(30):
                with pytest.raises(BackendUnavailable):
                    await client.submit("echo", "x" * 100_000)
        nursery.cancel_scope.cancel()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
