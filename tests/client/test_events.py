"""Events by a client: as the engine gives them, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import httpx
import pytest
import trio

from task_queue_engine import EndEvent, GapEvent, StateEvent, TaskNotFound, TaskStatus
from task_queue_engine.client import AsyncClient, Client
from task_queue_engine.errors import ApiError, InvalidQuery, ServerUnreachable
from task_queue_engine.http.event_stream import message
from task_queue_engine.task_events import TaskEvent
from tests.client.conftest import World
from tests.client.test_same_as_engine import NO_TASK
from tests.engine.engines import ended

ID = "01890000-0000-7000-8000-000000000001"


def gap(number: int) -> bytes:
    return message(GapEvent(id=str(number), reason=f"number {number}"))


END = message(EndEvent(id="9", task_id=ID, status=TaskStatus.FAILED))


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces; what is no bytes is raised."""

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Awaited(iter(self))


class _Awaited:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> _Awaited:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


class Server(httpx.MockTransport):
    """Answers each request with the next of these: a body in pieces, a response or an error."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(self.answer)
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        headers = {"Content-Type": "text/event-stream"}
        return httpx.Response(200, headers=headers, stream=Pieces(answer))

    @property
    def resumed(self) -> list[str | None]:
        return [request.headers.get("Last-Event-ID") for request in self.asked]


BREAKS = httpx.ReadError("the connection broke")


def sync_events(server: Server, *args: Any, **options: Any) -> list[TaskEvent]:
    with Client("http://x", transport=server, retries=1) as client:
        return list(client.events(*args, **options))


async def async_events(server: Server, *args: Any, **options: Any) -> list[TaskEvent]:
    async with AsyncClient("http://x", transport=server, retries=1) as client:
        return [event async for event in client.events(*args, **options)]


def on_trio(server: Server, *args: Any, **options: Any) -> list[TaskEvent]:
    async def run() -> list[TaskEvent]:
        return await async_events(server, *args, **options)

    return trio.run(run)


def on_asyncio(server: Server, *args: Any, **options: Any) -> list[TaskEvent]:
    return asyncio.run(async_events(server, *args, **options))


@pytest.fixture(params=[sync_events, on_trio, on_asyncio])
def events(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """By each client. Pauses take no time, and are noted."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(anyio, "sleep", sleep)
    request.param.pauses = pauses
    return request.param


def reasons(events: list[TaskEvent]) -> list[str]:
    return [event.reason if isinstance(event, GapEvent) else "end" for event in events]


def test_a_connection_that_ends_is_made_anew_where_it_was(events: Any) -> None:
    whole = gap(1) + b":\n\n" + gap(2)
    server = Server(
        [whole[:10], whole[10:50], whole[50:], gap(3)[:-4], BREAKS],
        httpx.ConnectError("no route"),
        httpx.Response(503, headers={"Retry-After": "1"}),
        [gap(3), b": bye\nretry: 2500\n\n"],
        [gap(4).replace(b"\n", b"\r\n"), b"event: new\ndata: {}\n\n", END, gap(10)],
    )
    heard = events(server, ID)
    assert reasons(heard) == [*(f"number {n}" for n in (1, 2, 3, 4)), "end"]
    assert [event.id for event in heard] == ["1", "2", "3", "4", "9"]
    assert server.resumed == [None, "2", "2", "2", "3"]
    assert {request.url.path for request in server.asked} == {f"/tasks/{ID}/events"}
    assert events.pauses[-1] == 2.5
    assert len(events.pauses) == 4


def test_what_is_asked_for(events: Any) -> None:
    server = Server([END])
    events(server, type="email", queue="a b", after="7")
    (request,) = server.asked
    assert request.url.path == "/events"
    assert dict(request.url.params) == {"type": "email", "queue": "a b"}
    assert server.resumed == ["7"]
    with pytest.raises(InvalidQuery, match="queue"):
        events(server, ID, queue="q")


def test_a_server_that_is_not_there_is_said(events: Any) -> None:
    with pytest.raises(ServerUnreachable):
        events(Server(httpx.ConnectError("no"), httpx.ConnectError("no")), ID)
    with pytest.raises(ApiError, match="did not answer with events"):
        events(Server(httpx.Response(200, json={})), ID)
    with pytest.raises(ApiError, match="401"):
        events(Server([gap(1)], httpx.Response(401)), ID)


async def test_the_events_of_an_engine(world: World) -> None:
    handle = await world.client.submit("fail", "no stock")
    await ended(world.engine, handle.id)
    heard = [event async for event in handle.events()]
    assert heard == [event async for event in world.engine.events(handle.id)]
    assert [type(event) for event in heard] == [StateEvent, EndEvent]
    with pytest.raises(TaskNotFound):
        await anext(world.client.events(NO_TASK))


async def test_one_that_is_left_is_closed() -> None:
    server = Server([gap(1), gap(2)])
    async with (
        AsyncClient("http://x", transport=server) as client,
        aclosing(client.events()) as stream,
    ):
        async for event in stream:
            assert isinstance(event, GapEvent)
            break
    assert len(server.asked) == 1
