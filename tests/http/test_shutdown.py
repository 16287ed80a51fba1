"""Going away: what was accepted is answered, the rest is not waited for, and it ends in time."""

from __future__ import annotations

import socket

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import MockClock

from task_queue_engine.http import serve_http
from task_queue_engine.http.app import state_of
from tests.http.conftest import Serve, make_settings
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.test_time_limits import connect_deaf, fill
from tests.http.wire import Server, get, post

GRACE = 20.0


async def stop(server: Server) -> float:
    """Seconds it took."""
    started = trio.current_time()
    server.shutdown.set()
    with trio.fail_after(60):
        await server.done.wait()
    return trio.current_time() - started


async def test_no_connections(socket_clock: MockClock, serve: Serve) -> None:
    async with serve(grace=GRACE) as server:
        assert await stop(server) == 0
        with pytest.raises(OSError, match="connect"):
            await server.connect()


async def test_idle_connections_are_closed_at_once(socket_clock: MockClock, serve: Serve) -> None:
    async with serve(grace=GRACE) as server:
        fresh, used = await server.connect(), await server.connect()
        await used.send(get("/health"))
        await used.answer()

        assert await stop(server) == 0
        assert await fresh.closed()
        assert await used.closed()


async def test_what_was_accepted_is_answered(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    engine.hold = trio.Event()
    async with serve(grace=GRACE) as server:
        wire = await server.connect()
        await wire.send(post("/tasks", one()))
        await engine.reached.wait()
        server.shutdown.set()
        await trio.sleep(GRACE / 2)
        engine.hold.set()
        answer = await wire.answer()

        assert answer.status == 201
        assert answer.headers["connection"] == "close"
        assert await wire.closed()
        assert await stop(server) == 0
    assert len(engine.stored) == 1


async def test_a_long_poll_that_comes_too_late_is_answered_at_once(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    request = get(f"/tasks/{engine.add().id}?wait=60")
    async with serve(grace=GRACE) as server:
        wire = await server.connect()
        await wire.send(request[:-1])
        await trio.sleep(0.1)
        server.shutdown.set()
        await trio.sleep(0.1)
        await wire.send(request[-1:])
        answer = await wire.answer()
        assert (answer.status, answer.headers["retry-after"]) == (200, "1")
        assert await stop(server) < 1


async def test_what_has_reached_the_kernel_is_answered(
    socket_clock: MockClock,
    serve: Serve,
    engine: FakeEngine,
    app: QuartTrio,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client cannot know that its request was not read yet when the server began to stop."""
    state = state_of(app)
    assert state is not None
    drain = state.drain
    with socket.socket() as client:
        monkeypatch.setattr(state, "drain", lambda: (client.send(post("/tasks", one())), drain()))
        async with serve(grace=GRACE, app=app) as server:
            client.connect((server.bound.host, server.bound.port))
            await trio.sleep(1)

            assert await stop(server) == 0
            assert client.recv(100).startswith(b"HTTP/1.1 201")
    assert len(engine.stored) == 1


async def test_a_body_on_its_way_may_arrive(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    request = post("/tasks", one())
    async with serve(grace=GRACE) as server:
        wire = await server.connect()
        await wire.send(request[:-5])
        await trio.sleep(1)
        server.shutdown.set()
        await trio.sleep(GRACE / 2)
        await wire.send(request[-5:])

        assert (await wire.answer()).status == 201
        assert await stop(server) == 0
    assert len(engine.stored) == 1


async def test_half_a_head_is_not_waited_for(socket_clock: MockClock, serve: Serve) -> None:
    async with serve(grace=GRACE) as server:
        wire = await server.connect()
        await wire.send("GET /health HTTP/1.1\r\nHost:")
        await trio.sleep(1)

        assert await stop(server) < 5


async def test_long_polls_are_answered_early(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    task = engine.add()
    async with serve(grace=GRACE) as server:
        wire = await server.connect()
        await wire.send(get(f"/tasks/{task.id}?wait=60"))
        await trio.sleep(1)

        assert await stop(server) == 0
        answer = await wire.answer()
        assert (answer.status, answer.json["status"]) == (200, "PENDING")


async def test_a_request_that_waits_behind_another(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    """Pipelined: the first is answered, the second was never begun; and nothing hangs on it."""
    engine.hold = trio.Event()
    async with serve(grace=GRACE) as server:
        wire = await server.connect()
        await wire.send(post("/tasks", one(payload=1)) + post("/tasks", one(payload=2)))
        await engine.reached.wait()
        server.shutdown.set()
        await trio.sleep(1)
        engine.hold.set()
        answer = await wire.answer()

        assert answer.status == 201
        assert answer.headers["connection"] == "close", "so that the client repeats the second"
        assert await stop(server) < 5
    assert [task.payload for task in engine.stored] == [1]


async def test_a_client_that_never_reads_does_not_hold_it_up(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    fill(engine)
    async with serve(grace=GRACE, request_timeout=3600) as server:
        wire = await connect_deaf(server)
        await wire.send(get("/tasks"))
        await trio.sleep(1)

        assert await stop(server) == pytest.approx(GRACE, abs=0.5)
        await wire.close()
    assert "cut off" in caplog.text


async def test_a_handler_that_hangs_does_not_hold_it_up(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    engine.hold = trio.Event()
    async with serve(grace=GRACE, request_timeout=3600) as server:
        wire = await server.connect()
        await wire.send(post("/tasks", one()))
        await engine.reached.wait()

        assert await stop(server) == pytest.approx(GRACE, abs=0.5)


async def test_no_grace(socket_clock: MockClock, serve: Serve, engine: FakeEngine) -> None:
    engine.hold = trio.Event()
    async with serve(grace=0) as server:
        wire = await server.connect()
        await wire.send(post("/tasks", one()))
        await engine.reached.wait()

        assert await stop(server) == 0


async def test_cancelling_ends_it_at_once(engine: FakeEngine, socket_clock: MockClock) -> None:
    engine.hold = trio.Event()
    fill(engine)
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(
            lambda task_status: serve_http(
                engine, make_settings(), shutdown=trio.Event(), task_status=task_status
            )
        )
        server = Server(bound=bound)
        hung, deaf = await server.connect(), await connect_deaf(server)
        await server.connect()
        await hung.send(post("/tasks", one()))
        await deaf.send(get("/tasks"))
        await trio.sleep(1)
        cancelled_at = trio.current_time()
        nursery.cancel_scope.cancel()

    assert trio.current_time() == cancelled_at
    server.disconnect()
