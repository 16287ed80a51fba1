"""Too many clients: who gets a place, who loses one, and what is kept for probes."""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine.http.crowd import Crowd, Phase, address_of
from task_queue_engine.http.open_files import fitting_connections, raise_open_files_limit
from task_queue_engine.http.server import RESERVE
from tests.http.conftest import Serve, make_settings
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.test_wire import problem_in
from tests.http.wire import Server, Wire, get, post

PROBES = ["/health", "/ready", "/metrics", "/scale"]
HALF_A_HEAD = "GET /health HTTP/1.1\r\nHost: loc"


async def ask(server: Server, request: bytes) -> int:
    wire = await server.connect()
    await wire.send(request)
    return (await wire.answer()).status


class Connection:
    def __init__(self, name: str) -> None:
        self.name = name
        self.dropped = False

    def crowd_out(self) -> None:
        self.dropped = True


class TestWhoMakesRoom:
    def crowd(self, *members: tuple[str, str, Phase]) -> tuple[Crowd[Connection], list[Connection]]:
        crowd: Crowd[Connection] = Crowd(len(members))
        connections = []
        for name, address, phase in members:
            connections.append(Connection(name))
            crowd.add(connections[-1], address)
            crowd.move(connections[-1], phase)
        return crowd, connections

    @pytest.mark.parametrize(
        ("members", "newcomer", "dropped"),
        [
            # The oldest of a phase; idle ones first, then those that are slow to ask.
            ([("a", "1", Phase.ASKING), ("b", "1", Phase.ASKING)], "1", "a"),
            ([("a", "1", Phase.ASKING), ("b", "1", Phase.IDLE)], "1", "b"),
            ([("a", "1", Phase.SENDING), ("b", "1", Phase.ASKING)], "1", "b"),
            ([("a", "1", Phase.BUSY), ("b", "1", Phase.SENDING)], "1", "b"),
            ([("a", "1", Phase.TAKING), ("b", "1", Phase.SENDING)], "1", "b"),
            ([("a", "1", Phase.BUSY), ("b", "1", Phase.TAKING)], "1", "b"),
            ([("a", "1", Phase.BUSY), ("b", "1", Phase.BUSY)], "1", None),
            # Of the address that has the most.
            (
                [("a", "1", Phase.IDLE), ("b", "2", Phase.ASKING), ("c", "2", Phase.ASKING)],
                "3",
                "b",
            ),
            ([("a", "1", Phase.IDLE), ("b", "2", Phase.BUSY), ("c", "2", Phase.BUSY)], "3", "a"),
            # None displaces what belongs to an address that has less.
            ([("a", "1", Phase.IDLE), ("b", "2", Phase.BUSY), ("c", "2", Phase.BUSY)], "2", None),
        ],
    )
    def test_who(
        self, members: list[tuple[str, str, Phase]], newcomer: str, dropped: str | None
    ) -> None:
        crowd, connections = self.crowd(*members)
        assert crowd.has_room_for(newcomer) is (dropped is not None)
        assert [one.name for one in connections if one.dropped] == ([dropped] if dropped else [])
        assert len(crowd) == len(members) - (dropped is not None)

    def test_nothing_is_kept_of_who_is_gone(self) -> None:
        crowd, connections = self.crowd(("a", "1", Phase.BUSY), ("b", "2", Phase.IDLE))
        assert crowd.shed()
        assert not crowd.shed()
        for connection in connections:
            crowd.discard(connection)
            crowd.move(connection, Phase.IDLE)
        assert (len(crowd), crowd.members, vars(crowd)["_by_address"]) == (0, (), {})

    @pytest.mark.parametrize(
        ("one_host", "other", "same"),
        [
            ("192.0.2.1", "192.0.2.1", True),
            ("192.0.2.1", "192.0.2.2", False),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
            ("fe80::1%eth0", "fe80::2", True),
        ],
    )
    def test_what_one_client_is(self, one_host: str, other: str, same: bool) -> None:
        assert (address_of(one_host) == address_of(other)) is same


class TestHalfSentRequests:
    @pytest.mark.parametrize(
        "half",
        [HALF_A_HEAD.encode(), post("/tasks", one())[:-3], b""],
        ids=["head", "body", "none"],
    )
    async def test_lock_nobody_out(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine, half: bytes
    ) -> None:
        async with serve(max_connections=10) as server:
            slow = [await server.connect() for _ in range(10)]
            for wire in slow:
                await wire.send(half)
            await trio.sleep(0.1)
            for path in ("/health", "/tasks"):
                assert await ask(server, get(path)) == 200
            assert trio.current_time() < 1
            # The oldest has lost its place, and is told so; the others go on.
            if half:
                problem_in(await slow[0].answer(), 503)
            assert await slow[0].closed()
            if half.startswith(b"GET"):
                await slow[-1].send("alhost\r\n\r\n")
                assert (await slow[-1].answer()).status == 200
        assert engine.stored == []


async def test_clients_that_do_not_read_lock_nobody_out(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    for _ in range(20):
        engine.add(payload="x" * 1_000_000)
    async with serve(max_connections=5) as server:
        deaf = [await server.connect(receive_buffer=4096) for _ in range(5)]
        for wire in deaf:
            await wire.send(get("/tasks"))
        await trio.sleep(0.1)
        assert await ask(server, post("/tasks", one())) == 201
        assert trio.current_time() < 1
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await deaf[0].answer()


class TestLongPolls:
    async def poll(self, server: Server, path: str) -> Wire:
        wire = await server.connect()
        await wire.send(get(path))
        return wire

    async def test_leave_room_for_others(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        path = f"/tasks/{engine.add().id}?wait=30"
        async with serve(max_connections=8) as server:
            waiting = [await self.poll(server, path) for _ in range(6)]
            await trio.sleep(0.1)
            # Over their share: answered at once, with the task as it is.
            over = await (await self.poll(server, path)).answer()
            assert (over.status, over.json["status"]) == (200, "PENDING")
            assert over.headers["retry-after"] == "1"
            assert await ask(server, post("/tasks", one())) == 201
            assert trio.current_time() < 1
            # The others wait on.
            answers = [await wire.answer() for wire in waiting]
            assert trio.current_time() == pytest.approx(30, abs=1)
            assert all("retry-after" not in answer.headers for answer in answers)

    @pytest.mark.parametrize("connections", [1, 2, 3, 4, 40])
    async def test_never_take_all_connections(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine, connections: int
    ) -> None:
        """However many there are, and even if those that are sent away ask again at once."""
        request = get(f"/tasks/{engine.add().id}?wait=60")

        async def poll_again_and_again(wire: Wire) -> None:
            with suppress(EOFError, trio.BrokenResourceError):
                for _ in range(20):
                    await wire.send(request)
                    await wire.answer()

        async with serve(max_connections=connections) as server, trio.open_nursery() as nursery:
            for _ in range(connections + 5):
                nursery.start_soon(poll_again_and_again, await server.connect())
            await trio.sleep(0.1)
            for _ in range(5):
                for path in PROBES:
                    assert await ask(server, get(path)) == 200
                assert await ask(server, post("/tasks", one())) == 201
            assert trio.current_time() < 5
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("more", [b"", b"\r\n", get("/health"), b"GET /hea", b"x" * 9000])
    async def test_a_client_that_vanishes_frees_its_place_at_once(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine, more: bytes
    ) -> None:
        """Whatever it has sent behind its request."""
        path = f"/tasks/{engine.add().id}?wait=60"
        engine.hold = trio.Event()
        async with serve(max_connections=2) as server:
            await (await server.connect()).send(post("/tasks", one()))  # takes the other place
            await trio.sleep(0.1)
            for _ in range(3):
                wire = await server.connect()
                await wire.send(get(path) + more)
                await trio.sleep(0.1)
                await wire.close()
                await trio.sleep(0.1)
                assert await ask(server, get("/tasks")) == 200
            assert trio.current_time() < 2


class TestReserve:
    @pytest.mark.parametrize("path", PROBES)
    async def test_probes_are_answered_where_all_places_are_taken(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine, path: str
    ) -> None:
        engine.hold = trio.Event()
        async with serve(max_connections=2) as server:
            for _ in range(2):
                await (await server.connect()).send(post("/tasks", one()))
            await trio.sleep(0.1)
            for _ in range(2 * RESERVE):
                wire = await server.connect()
                await wire.send(get(path))
                answer = await wire.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await wire.closed()
            assert await ask(server, get("/tasks")) == 503
            # One that has much to say gets to see it too.
            assert await ask(server, post("/tasks", b"x" * 3_000_000)) == 503
            assert await ask(server, post("/tasks", one(payload="x" * 90_000))) == 503

    async def test_the_reserve_is_not_for_those_who_wait(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        engine.hold = trio.Event()
        async with serve(max_connections=1) as server:
            await (await server.connect()).send(post("/tasks", one()))
            await trio.sleep(0.1)
            for _ in range(2 * RESERVE):
                await (await server.connect()).send(HALF_A_HEAD)
            await trio.sleep(0.1)
            assert await ask(server, get("/health")) == 200
            wire = await server.connect()
            await wire.send(HALF_A_HEAD)
            problem_in(await wire.answer(), 503)
            assert trio.current_time() < 5


class Accepting:
    """A listener that has no descriptor for the next connections."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def accept(self, listener: trio.SocketListener) -> trio.SocketStream:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await Accepting.real(listener)

    real = staticmethod(trio.SocketListener.accept)


class TestDescriptors:
    @pytest.fixture
    def soft_limit(self) -> Iterator[int]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield soft
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_connections_fit_into_the_open_files(
        self, soft_limit: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        settings = make_settings(max_connections=1000, worker_count=5, processes=2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        fitting = fitting_connections(settings, RESERVE)
        assert 700 < fitting < 1000
        assert "TQE_MAX_CONNECTIONS: 1000 do not fit into the 1024 files" in caplog.text
        assert fitting_connections(make_settings(max_connections=500), RESERVE) == 500
        # Workers need files too.
        assert fitting_connections(make_settings(worker_count=50), RESERVE) < fitting
        assert fitting_connections(make_settings(worker_count=5000), RESERVE) == 256

    def test_the_soft_limit_is_raised(self, soft_limit: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)

    async def test_none_left_for_a_connection_is_trouble_that_passes(
        self,
        socket_clock: MockClock,
        serve: Serve,
        engine: FakeEngine,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async with serve() as server:
            idle = await server.connect()
            await idle.send(get("/health"))
            assert (await idle.answer()).status == 200
            accepting = Accepting(times=30)
            with monkeypatch.context() as patched:
                patched.setattr(trio.SocketListener, "accept", lambda self: accepting.accept(self))
                # The accept that is going on is still the old one.
                assert await ask(server, get("/health")) == 200
                assert await ask(server, get("/health")) == 200
            assert accepting.left == 0
            # An idle connection gave its descriptor.
            assert await idle.closed()
            assert trio.current_time() < 10
        (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert "ulimit -n" in record.getMessage()
