"""Binding: what is wrong with it is said before anything is started."""

from __future__ import annotations

import re
import socket

import pytest
import trio

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.http import Bound, open_listeners, serve_http
from tests.http.conftest import Serve, make_settings
from tests.http.fakes import FakeEngine
from tests.http.wire import Server, get

KEY = "k" * 32


async def test_port_0_is_told_for_real(serve: Serve) -> None:
    async with serve(port=0) as server:
        assert server.bound.port > 0
        assert server.bound.url == f"http://127.0.0.1:{server.bound.port}"
        wire = await server.connect()
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("::1", "http://[::1]:80")],
)
def test_urls_for_people(host: str, url: str) -> None:
    assert Bound(host=host, port=80).url == url


async def test_port_in_use(engine: FakeEngine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"PORT: {port} .* in use") as caught:
            await serve_http(engine, make_settings(port=port), shutdown=trio.Event())

    assert caught.value.variable == "PORT"


@pytest.mark.parametrize(
    "host",
    ["no.such.host.invalid", "not a host", "192.0.2.1", "256.1.1.1", "x" * 300, "b\xfccher..de"],
)
async def test_not_a_host_of_this_machine(engine: FakeEngine, host: str) -> None:
    settings = make_settings(host=host, api_keys=(KEY,))

    with pytest.raises(ConfigurationError, match=r"^TQE_HOST: "):
        await serve_http(engine, settings, shutdown=trio.Event())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
async def test_reachable_from_outside_needs_a_key(engine: FakeEngine, host: str) -> None:
    message = rf"^TQE_API_KEYS: .*{re.escape(host)}.*TQE_ALLOW_PUBLIC_WITHOUT_KEYS"
    with pytest.raises(ConfigurationError, match=message):
        await serve_http(engine, make_settings(host=host), shutdown=trio.Event())


@pytest.mark.parametrize("values", [{"api_keys": (KEY,)}, {"allow_public_without_keys": True}])
async def test_with_a_key_or_on_purpose(values: dict[str, object]) -> None:
    (listener,) = await open_listeners(make_settings(host="0.0.0.0", **values))
    assert listener.socket.getsockname()[0] == "0.0.0.0"
    await listener.aclose()


async def test_a_name_with_several_addresses(serve: Serve) -> None:
    listeners = await open_listeners(make_settings(host="localhost"))
    ports = {listener.socket.getsockname()[1] for listener in listeners}
    for listener in listeners:
        await listener.aclose()

    assert len(ports) == 1, "PORT=0 picks one port for all of them"


async def test_a_client_may_connect_before_the_server_runs(engine: FakeEngine) -> None:
    settings = make_settings()
    listeners = await open_listeners(settings)
    port = listeners[0].socket.getsockname()[1]
    bound = Bound(host="127.0.0.1", port=port)
    server = Server(bound=bound)
    wire = await server.connect()
    await wire.send(get("/health"))

    async with trio.open_nursery() as nursery:
        told = await nursery.start(
            lambda task_status: serve_http(
                engine,
                settings,
                shutdown=server.shutdown,
                listeners=listeners,
                task_status=task_status,
            )
        )
        assert told == bound
        assert (await wire.answer()).status == 200
        server.shutdown.set()
    server.disconnect()
