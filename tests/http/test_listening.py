"""Binding: what is wrong with it is said before anything is started."""

from __future__ import annotations

import re
import socket
from typing import Any

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


async def refuse_to_serve(engine: FakeEngine, **values: Any) -> None:
    """Raises what serve_http raises; ends, without an error, where it does serve."""
    with trio.move_on_after(20):
        await serve_http(engine, make_settings(**values), shutdown=trio.Event())


async def test_port_in_use(engine: FakeEngine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"PORT: {port} .* in use") as caught:
            await refuse_to_serve(engine, port=port)

    assert caught.value.variable == "PORT"


@pytest.mark.parametrize(
    "host",
    ["no.such.host.invalid", "not a host", "192.0.2.1", "256.1.1.1", "x" * 300, "b\xfccher..de"],
)
async def test_not_a_host_of_this_machine(engine: FakeEngine, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^TQE_HOST: "):
        await refuse_to_serve(engine, host=host, api_keys=(KEY,))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
async def test_reachable_from_outside_needs_a_key(engine: FakeEngine, host: str) -> None:
    message = rf"^TQE_API_KEYS: .*{re.escape(host)}.*TQE_ALLOW_PUBLIC_WITHOUT_KEYS"
    with pytest.raises(ConfigurationError, match=message):
        await refuse_to_serve(engine, host=host)


async def test_without_a_key_on_purpose_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(host="0.0.0.0", allow_public_without_keys=True):
        assert "no API keys are set" in caplog.text


@pytest.mark.parametrize(
    "values",
    [{"api_keys": (KEY,)}, {"keys_file": "keys.toml"}, {"allow_public_without_keys": True}],
)
async def test_with_a_key_or_on_purpose(values: dict[str, object]) -> None:
    (listener,) = await open_listeners(make_settings(host="0.0.0.0", **values))
    assert listener.socket.getsockname()[0] == "0.0.0.0"
    await listener.aclose()


class Resolver(trio.abc.HostnameResolver):
    """Any name has these addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def getaddrinfo(self, *args: Any) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in self._addresses
        ]

    async def getnameinfo(self, *args: Any) -> tuple[str, str]:
        raise NotImplementedError


async def open_named(*addresses: str, **values: Any) -> list[tuple[str, int]]:
    """Where the listeners for a name with these addresses listen."""
    trio.socket.set_custom_hostname_resolver(Resolver(*addresses))
    listeners = await open_listeners(make_settings(host="here.test", **values))
    opened = [listener.socket.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        await listener.aclose()
    return opened


async def test_a_name_with_several_addresses() -> None:
    (one, port), (two, same_port) = await open_named("127.0.0.1", "127.0.0.2")

    assert (one, two) == ("127.0.0.1", "127.0.0.2")
    assert port == same_port, "PORT=0 picks one port for all of them"


async def test_addresses_this_machine_does_not_have() -> None:
    """As `localhost` has ::1 where IPv6 is off: passed over, unless there is no other."""
    ((host, _),) = await open_named("2001:db8::1", "127.0.0.1", api_keys=(KEY,))
    assert host == "127.0.0.1"

    with pytest.raises(ConfigurationError, match=r"^TQE_HOST: cannot listen on here\.test"):
        await open_named("2001:db8::1", "192.0.2.1", api_keys=(KEY,))


async def test_one_address_outside_is_enough_to_need_a_key() -> None:
    with pytest.raises(ConfigurationError, match=r"^TQE_API_KEYS: "):
        await open_named("127.0.0.1", "192.0.2.1")


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
