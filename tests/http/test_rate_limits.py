"""How many requests a key and an address may make, and how many connections an address may have."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest
import trio
from quart_trio.testing import TrioClient
from trio.testing import MockClock

from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.http import create_app
from task_queue_engine.http.client_address import ClientAddresses
from task_queue_engine.http.principal import Role
from task_queue_engine.http.rate_limits import BURST, MOST_BUCKETS, Buckets
from tests.http.conftest import Serve, make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys
from tests.http.test_crowd import HALF_A_HEAD, PROBES, ask
from tests.http.test_submit import one, problem_of
from tests.http.wire import get, post


class TestBuckets:
    async def test_what_fits_may_come_at_once_and_then_the_rate_counts(
        self, mock_clock: MockClock
    ) -> None:
        buckets, rate = Buckets(), 5.0
        size = int(rate * BURST)
        assert [buckets.take("a", rate).wait for _ in range(size)] == [0.0] * size
        refused = buckets.take("a", rate)
        assert (refused.left, refused.wait) == (0, pytest.approx(1 / rate))
        assert buckets.take("b", rate).wait == 0, "each has its own"
        mock_clock.jump(refused.wait)
        assert buckets.take("a", rate).wait == 0
        assert buckets.take("a", rate).wait > 0
        mock_clock.jump(3600)
        assert sum(buckets.take("a", rate).wait == 0 for _ in range(2 * size)) == size

    async def test_asking_in_vain_takes_nothing(self, mock_clock: MockClock) -> None:
        buckets = Buckets()
        while buckets.take("a", 1.0).wait == 0:
            pass
        for _ in range(1000):
            assert buckets.take("a", 1.0).wait == pytest.approx(1.0)

    async def test_less_than_one_in_ten_seconds(self, mock_clock: MockClock) -> None:
        buckets = Buckets()
        assert buckets.take("a", 0.01).wait == 0
        refused = buckets.take("a", 0.01)
        assert (refused.size, refused.window, refused.wait) == (1, 100, pytest.approx(100))

    async def test_any_number_of_addresses_takes_bounded_memory(
        self, mock_clock: MockClock
    ) -> None:
        buckets = Buckets()
        for number in range(2 * MOST_BUCKETS):
            buckets.take(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}", 1.0)
            assert len(buckets) <= MOST_BUCKETS
        assert len(buckets) == MOST_BUCKETS

    async def test_full_ones_are_not_kept(self, mock_clock: MockClock) -> None:
        buckets = Buckets()
        for number in range(1000):
            buckets.take(str(number), 1.0)
        mock_clock.jump(60)
        for _ in range(1000):
            buckets.take("another", 1000.0)
        assert len(buckets) == 1

    async def test_the_busiest_is_not_the_one_forgotten(self, mock_clock: MockClock) -> None:
        buckets = Buckets(most=10)
        while buckets.take("busy", 1.0).wait == 0:
            pass
        for number in range(100):
            buckets.take(str(number), 1.0)
            mock_clock.jump(0.02)
            if number % 5 == 4:  # 0.1 s: not enough for one more, mostly
                buckets.take("busy", 1.0)
        assert buckets.take("busy", 1.0).left == 0


async def until_refused(client: TrioClient, headers: dict[str, str]) -> tuple[int, Any]:
    for number in range(1000):
        response = await client.get("/tasks", headers=headers)
        if response.status_code != 200:
            return number, response
    raise AssertionError("it never is")


class TestByKey:
    async def test_one_too_many(
        self, keys: Keys, engine: FakeEngine, mock_clock: MockClock
    ) -> None:
        busy, other = keys.add("busy", Role.READ, Role.SUBMIT), keys.add("other", Role.READ)
        client = keys.client(engine, rate_limit_per_key=2)
        first = await client.get("/tasks", headers=busy)
        assert first.headers["RateLimit-Policy"] == '"key";q=20;w=10'
        assert first.headers["RateLimit"] == '"key";r=19;t=1'
        count, response = await until_refused(client, busy)
        assert count == 19
        problem = await problem_of(response, 429)
        assert problem["type"] == "/docs#too-many-requests"
        assert "20 in 10 s" in problem["detail"]
        assert response.headers["Retry-After"] == "1"
        assert response.headers["RateLimit"] == '"key";r=0;t=10'
        # Nothing is stored of what is refused, and others go on.
        body = json.dumps(one())
        await problem_of(await client.post("/tasks", data=body, headers=busy), 429)
        assert engine.stored == []
        assert (await client.get("/tasks", headers=other)).status_code == 200
        mock_clock.jump(1)
        assert (await client.get("/tasks", headers=busy)).status_code == 200

    async def test_a_limit_of_its_own(
        self, keys: Keys, engine: FakeEngine, mock_clock: MockClock
    ) -> None:
        less, none = keys.add("less", Role.READ), keys.add("none", Role.READ)
        text = keys.path.read_text()
        text = text.replace("[keys.less]", "[keys.less]\nrate_limit = 0.5")
        keys.path.write_text(text.replace("[keys.none]", "[keys.none]\nrate_limit = 0"))
        client = keys.client(engine, rate_limit_per_key=2)
        count, response = await until_refused(client, less)
        assert (count, response.headers["Retry-After"]) == (5, "2")
        for _ in range(50):
            response = await client.get("/tasks", headers=none)
            assert response.status_code == 200
            assert "RateLimit" not in response.headers

    async def test_without_a_limit_nothing_is_said(self, keys: Keys, engine: FakeEngine) -> None:
        headers = keys.add("reader", Role.READ)
        response = await keys.client(engine).get("/tasks", headers=headers)
        assert not {name for name, _ in response.headers if name.startswith("RateLimit")}


class TestByAddress:
    async def test_probes_are_never_limited(
        self, mock_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        async with serve(rate_limit_per_address=1) as server:
            wire = await server.connect()
            answers = []
            for _ in range(12):
                await wire.send(get("/tasks"))
                answers.append(await wire.answer())
            assert [answer.status for answer in answers] == [200] * 10 + [429] * 2
            assert answers[0].headers["ratelimit"].startswith('"address";r=9;')
            assert answers[-1].headers["retry-after"] == "1"
            for path in ("/health", "/ready"):
                await wire.send(get(path))
                assert (await wire.answer()).status == 200
            # A new connection is the same client.
            assert await ask(server, post("/tasks", one())) == 429
        assert engine.stored == []

    async def test_keys_that_are_guessed(self, engine: FakeEngine, mock_clock: MockClock) -> None:
        """Those without a key are limited too."""
        settings = make_settings(api_keys=("k" * 32,), rate_limit_per_address=1)
        client = create_app(engine, settings).test_client()
        statuses = [
            (await client.get("/tasks", headers={"Authorization": f"Bearer {n}"})).status_code
            for n in range(12)
        ]
        assert statuses == [401] * 10 + [429] * 2

    async def test_clients_behind_a_trusted_proxy_are_told_apart(
        self, mock_clock: MockClock, serve: Serve
    ) -> None:
        async with serve(rate_limit_per_address=0.1, trusted_proxies=("127.0.0.1",)) as server:

            async def status(forwarded: str) -> int:
                return await ask(server, get("/tasks", X_Forwarded_For=forwarded))

            assert await status("192.0.2.1") == 200
            assert await status("192.0.2.1") == 429
            assert await status("192.0.2.2") == 200
            # What the client itself says stands before what the proxy adds.
            assert await status("198.51.100.7, 192.0.2.1") == 429

    async def test_others_may_say_what_they_like(self, mock_clock: MockClock, serve: Serve) -> None:
        async with serve(rate_limit_per_address=0.1) as server:
            assert await ask(server, get("/tasks", X_Forwarded_For="192.0.2.1")) == 200
            assert await ask(server, get("/tasks", X_Forwarded_For="192.0.2.2")) == 429


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], "10.0.0.1"),
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["198.51.100.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["198.51.100.1", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:DB8::1"], "2001:db8::1"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["192.0.2.1, unknown"], "10.0.0.1"),
        (["192.0.2.1, "], "10.0.0.1"),
        (["x\n\x1b[31m"], "10.0.0.1"),
        (["1.1.1.1," * 1000 + "192.0.2.1"], "192.0.2.1"),
        (["10.0.0.9, " * 1000 + "10.0.0.2"], "10.0.0.9"),
    ],
)
def test_whose_address_it_is(forwarded: list[str], address: str) -> None:
    addresses = ClientAddresses((ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")))
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    assert addresses.of("10.0.0.1", headers) == address
    assert addresses.of("::ffff:10.0.0.1", headers) == address.replace(
        "10.0.0.1", "::ffff:10.0.0.1"
    )
    assert addresses.of("192.0.2.9", headers) == "192.0.2.9"
    assert ClientAddresses(()).of("10.0.0.1", headers) == "10.0.0.1"


@pytest.mark.parametrize("value", ["10.0.0.1/8", "proxy.example", "10.0.0.0/40"])
def test_proxies_that_are_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_TRUSTED_PROXIES", f"192.0.2.1, {value}")
    with pytest.raises(ConfigurationError, match="TQE_TRUSTED_PROXIES: must be addresses or"):
        Settings(_env_file=None)


class TestConnections:
    async def test_an_address_has_so_many(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        engine.hold = trio.Event()
        async with serve(max_connections=20, max_connections_per_address=3) as server:
            idle = await server.connect()
            await idle.send(get("/health"))
            assert (await idle.answer()).status == 200
            held = [await server.connect() for _ in range(3)]
            for wire in held:
                await wire.send(post("/tasks", one()))
            await trio.sleep(0.1)
            assert await idle.closed(), "the third made room among its own"
            assert await ask(server, post("/tasks", one())) == 503
            for path in PROBES:
                assert await ask(server, get(path)) == 200
            engine.hold.set()
            for wire in held:
                assert (await wire.answer()).status == 201
            assert await ask(server, get("/tasks")) == 200
            assert trio.current_time() < 5

    async def test_waiting_for_tasks_an_address_can_submit(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        """Its long polls have three quarters of what it may have."""
        poll = get(f"/tasks/{engine.add().id}?wait=60")
        async with serve(max_connections=100, max_connections_per_address=4) as server:
            waiting = [await server.connect() for _ in range(3)]
            for wire in waiting:
                await wire.send(poll)
            await trio.sleep(0.1)
            over = await server.connect()
            await over.send(poll)
            assert (await over.answer()).headers["retry-after"] == "1"
            for _ in range(3):
                assert await ask(server, post("/tasks", one())) == 201
            assert trio.current_time() < 5
            # One that has gone leaves its place.
            await waiting[0].close()
            await trio.sleep(0.1)
            again = await server.connect()
            await again.send(poll)
            assert (await again.answer()).headers.get("retry-after") is None
            assert trio.current_time() == pytest.approx(60, abs=5)

    async def test_half_sent_requests_make_room(
        self, socket_clock: MockClock, serve: Serve
    ) -> None:
        async with serve(max_connections=20, max_connections_per_address=2) as server:
            for _ in range(10):
                await (await server.connect()).send(HALF_A_HEAD)
            await trio.sleep(0.1)
            assert await ask(server, get("/tasks")) == 200

    async def test_a_trusted_proxy_has_as_many_as_there_are(
        self, socket_clock: MockClock, serve: Serve, engine: FakeEngine
    ) -> None:
        engine.hold = trio.Event()
        async with serve(
            max_connections=20, max_connections_per_address=3, trusted_proxies=("127.0.0.0/8",)
        ) as server:
            for _ in range(10):
                await (await server.connect()).send(post("/tasks", one()))
            await trio.sleep(0.1)
            assert await ask(server, get("/tasks")) == 200
