"""Clients that go away: what arrived complete is carried out, what was not is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.wire import get, post


def by_chunks(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    head = b"\r\n".join([*lines, b"transfer-encoding: chunked"])
    return b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)


@pytest.mark.parametrize("sent_as", [bytes, by_chunks], ids=["plain", "by chunks"])
async def test_a_whole_submission_is_carried_out(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, sent_as: Callable[[bytes], bytes]
) -> None:
    engine.hold = trio.Event()
    async with serve() as server:
        wire = await server.connect()
        await wire.send(sent_as(post("/tasks", one(payload="kept"))))
        await engine.reached.wait()
        await wire.close()
        await trio.sleep(1)
        assert engine.stored == []
        engine.hold.set()
        await trio.sleep(1)

    assert [task.payload for task in engine.stored] == ["kept"]


async def test_even_when_the_client_leaves_at_once(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    """The body's end and the disconnect arrive together: no order of events may lose it."""
    async with serve() as server:
        for n in range(50):
            wire = await server.connect()
            await wire.send(post("/tasks", one(payload=n)))
            await wire.close()
        await trio.sleep(1)

    assert sorted(task.payload for task in engine.stored) == list(range(50))


@pytest.mark.parametrize("chunked", [False, True])
async def test_half_a_submission_is_nothing(
    socket_clock: MockClock,
    serve: Serve,
    engine: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    chunked: bool,
) -> None:
    """Even where the half looks complete."""
    body = b'{"type": "anything", "payload": 1}'
    if chunked:
        request = (
            b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body)
        )
    else:
        request = post("/tasks", body, Content_Length=str(len(body) + 1))
    async with serve() as server:
        wire = await server.connect()
        await wire.send(request)
        await trio.sleep(1)
        await wire.close()
        await trio.sleep(1)

    assert engine.stored == []
    assert caplog.records == []


async def test_other_changes_are_carried_out_too(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    task = engine.add()
    async with serve() as server:
        wire = await server.connect()
        await wire.send(f"DELETE /tasks/{task.id} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await wire.close()
        await trio.sleep(1)

    assert engine.stored[0].status == "CANCELLED"


async def test_nobody_waits_for_a_client_that_is_gone(
    serve: Serve, engine: FakeEngine, socket_clock: MockClock
) -> None:
    task = engine.add()
    async with serve() as server:
        wire = await server.connect()
        await wire.send(get(f"/tasks/{task.id}?wait=60"))
        await trio.sleep(1)
        await wire.close()
        server.shutdown.set()
        await server.done.wait()

    assert trio.current_time() < 2


async def test_a_client_that_resets(
    socket_clock: MockClock, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as server:
        for request in (b"", b"GET /hea", get("/health"), post("/tasks", one())[:-3]):
            wire = await server.connect()
            wire.stream.setsockopt(
                trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            await wire.send(request)
            await wire.close()  # with a reset, not with an end
        await wait_all_tasks_blocked()
        wire = await server.connect()
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200

    assert caplog.records == []


@pytest.mark.parametrize(
    "rest",
    [
        b"8\r\n{",  # and then nothing more
        b"8\r\n{}",
        b"nonsense\r\n",
        b"0\r\nbad trailer\r\n\r\n",
    ],
)
async def test_no_handler_waits_for_a_body_that_cannot_come(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, rest: bytes
) -> None:
    head = (
        b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    async with serve() as server:
        wire = await server.connect()
        await wire.send(head + rest)
        await trio.sleep(0.1)
        await wire.stream.send_eof()
        assert (await wire.answer()).status == 400
        assert await wire.closed()
        await wire.close()
        stopped_at = trio.current_time()
        server.shutdown.set()
        await server.done.wait()

    assert trio.current_time() == stopped_at
    assert engine.stored == []
