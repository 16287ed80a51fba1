"""Clients that are slow, silent, not reading or too many, over a real socket in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.test_wire import problem_in
from tests.http.wire import Server, Wire, get, post

TIMEOUT = 5.0
ABOUT = {"abs": 1.1}
"""Bytes come once a second."""


async def drip(wire: Wire, data: bytes) -> None:
    """One byte a second, until the server has had enough."""
    try:
        for at in range(len(data)):
            await wire.send(data[at : at + 1])
            await trio.sleep(1)
    except trio.BrokenResourceError:
        pass


async def answer_while_dripping(wire: Wire, data: bytes) -> tuple[int, float]:
    """The status of the answer, and the seconds until it came."""
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip, wire, data)
        answer = await wire.answer()
        took = trio.current_time() - started
        nursery.cancel_scope.cancel()
    problem_in(answer, answer.status)
    return answer.status, took


async def test_slow_heads_are_cut_off(socket_clock: MockClock, serve: Serve) -> None:
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        status, took = await answer_while_dripping(wire, b"GET /health HTTP/1.1\r\nHost: localhost")

        assert status == 408
        assert took == pytest.approx(TIMEOUT, **ABOUT)
        assert await wire.closed()


async def test_slow_bodies_are_cut_off(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    head, _, body = post("/tasks", one(payload="x" * 100)).partition(b"\r\n\r\n")
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        await wire.send(head + b"\r\n\r\n")
        status, took = await answer_while_dripping(wire, body)

        assert status == 408
        assert took == pytest.approx(TIMEOUT, **ABOUT)
        assert await wire.closed()
    assert engine.stored == []


async def test_head_and_body_share_one_limit(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    head, _, body = post("/tasks", one()).partition(b"\r\n\r\n")
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        await wire.send(head)
        await trio.sleep(TIMEOUT - 1)
        await wire.send(b"\r\n\r\n" + body[:-1])
        await trio.sleep(TIMEOUT - 1)

        problem_in(await wire.answer(), 408)
    assert engine.stored == []


async def test_slow_second_requests_are_cut_off(socket_clock: MockClock, serve: Serve) -> None:
    """Whose first bytes came with the end of the first one."""
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        await wire.send(get("/health") + b"GE")
        assert (await wire.answer()).status == 200
        status, took = await answer_while_dripping(wire, b"T /health HTTP/1.1\r\nHost: localhost")

    assert (status, took) == (408, pytest.approx(TIMEOUT, **ABOUT))


async def test_a_request_in_time_is_served(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    request = post("/tasks", one())
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        for part in (request[:20], request[20:-1], request[-1:]):
            await wire.send(part)
            await trio.sleep(TIMEOUT / 4)

        assert (await wire.answer()).status == 201
    assert len(engine.stored) == 1


async def test_each_request_has_a_time_of_its_own(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    request = post("/tasks", one())
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        for _ in range(3):
            await wire.send(request[:20])
            await trio.sleep(TIMEOUT - 1)
            await wire.send(request[20:])
            assert (await wire.answer()).status == 201


async def test_a_client_that_says_nothing_is_closed(socket_clock: MockClock, serve: Serve) -> None:
    async with serve(request_timeout=TIMEOUT) as server:
        started = trio.current_time()
        wire = await server.connect()

        assert await wire.closed(), "without a word: it asked for nothing"
        assert trio.current_time() - started == pytest.approx(TIMEOUT, **ABOUT)


async def test_an_idle_connection_is_kept_for_a_while(
    socket_clock: MockClock, serve: Serve
) -> None:
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        for _ in range(3):
            await wire.send(get("/health"))
            assert (await wire.answer()).status == 200
            await trio.sleep(70)  # beyond the 60 s of common load balancers
        assert await wire.closed()
        assert trio.current_time() < 3 * 76


async def test_a_long_poll_is_not_cut_off(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    task = engine.add()
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect()
        started = trio.current_time()
        await wire.send(get(f"/tasks/{task.id}?wait=60"))
        answer = await wire.answer()

    assert answer.status == 200
    assert trio.current_time() - started == pytest.approx(60, **ABOUT)


def fill(engine: FakeEngine, megabytes: int = 20) -> None:
    for _ in range(megabytes):
        engine.add(payload="x" * 1_000_000)


async def connect_deaf(server: Server) -> Wire:
    """A client with next to no room to receive."""
    return await server.connect(receive_buffer=4096)


async def test_a_client_that_never_reads_is_cut_off(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    fill(engine)
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await connect_deaf(server)
        await wire.send(get("/tasks"))
        await trio.sleep(3 * TIMEOUT)

        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await wire.answer()


async def test_a_client_that_reads_slowly_but_surely_gets_it_all(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    fill(engine, 8)
    async with serve(request_timeout=TIMEOUT) as server:
        wire = await server.connect(receive_buffer=200_000)
        await wire.send(get("/tasks"))
        started = trio.current_time()
        received = 0
        while received < 8_000_000:
            received += len(await wire.stream.receive_some(200_000))
            await trio.sleep(0.5)

    assert trio.current_time() - started > 2 * TIMEOUT


class TestTooMany:
    async def test_all_busy(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        engine.hold = trio.Event()
        async with serve(max_connections=2) as server:
            busy = [await server.connect() for _ in range(2)]
            for wire in busy:
                await wire.send(post("/tasks", one()))
            await trio.sleep(1)
            late = await server.connect()
            await late.send(get("/tasks"))
            answer = await late.answer()
            problem_in(answer, 503)
            assert answer.headers["retry-after"] == "1"
            assert await late.closed()

            engine.hold.set()
            for wire in busy:
                assert (await wire.answer()).status == 201
            again = await server.connect()
            await again.send(get("/tasks"))
            assert (await again.answer()).status == 200

    async def test_the_one_idle_longest_makes_room(
        self, socket_clock: MockClock, serve: Serve
    ) -> None:
        async with serve(max_connections=2) as server:
            first, second = await server.connect(), await server.connect()
            for wire in (first, second, first):
                await wire.send(get("/health"))
                assert (await wire.answer()).status == 200
                await trio.sleep(1)
            third = await server.connect()
            await third.send(get("/health"))

            assert (await third.answer()).status == 200
            assert await second.closed()
            await first.send(get("/health"))
            assert (await first.answer()).status == 200

    async def test_silent_ones_cannot_shut_others_out(
        self, socket_clock: MockClock, serve: Serve
    ) -> None:
        async with serve(max_connections=2) as server:
            for _ in range(10):
                await server.connect()
            await trio.sleep(1)
            wire = await server.connect()
            await wire.send(get("/health"))

            assert (await wire.answer()).status == 200
