"""HTTPS_PROXY and NO_PROXY."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from task_queue_engine.backends.aws.wire.endpoints import parse_endpoint
from task_queue_engine.backends.aws.wire.errors import EndpointUnreachable
from task_queue_engine.backends.aws.wire.proxies import Proxy, find_proxy
from task_queue_engine.errors import ConfigurationError
from tests.backends.aws.wire.canned import CannedServer, serving
from tests.backends.aws.wire.opened_client import opened, put


class ConnectProxy:
    """Connects to one port, whatever it is asked for, and writes down what it was asked."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.asked: list[str] = []
        self.answer = b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n"
        self.port = 0

    async def handle(self, client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await client.receive_some()
        self.asked.append(head.decode())
        with contextlib.suppress(trio.BrokenResourceError):
            for start in range(0, len(self.answer), 7):
                await client.send_all(self.answer[start : start + 7])
        if b" 200 " not in self.answer:
            return
        server = await trio.open_tcp_stream("127.0.0.1", self.target)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, client, server)
            await _pass_on(server, client)
            nursery.cancel_scope.cancel()


async def _pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        while data := await source.receive_some():
            await target.send_all(data)
        await target.send_eof()
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def proxying(target: int) -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy(target)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.handle, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


@pytest.fixture
async def secured(monkeypatch, tmp_path, virtual_clock) -> AsyncIterator[CannedServer]:
    """As sqs.test, which only the proxy can find."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("sqs.test").configure_cert(context)
    async with serving(context) as it:
        yield it


async def test_through_a_proxy(secured, virtual_clock, monkeypatch):
    async with proxying(secured.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        async with opened("https://sqs.test", virtual_clock) as client:
            for _ in range(2):
                assert await put(client) == {}
    (asked,) = proxy.asked
    assert asked.split("\r\n") == [
        "CONNECT sqs.test:443 HTTP/1.1",
        "Host: sqs.test:443",
        "Proxy-Authorization: Basic bWU6cEBzcw==",
        "",
        "",
    ]
    assert [request.headers["host"] for request in secured.requests] == ["sqs.test"] * 2
    assert "proxy-authorization" not in secured.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy answered HTTP/1.1 407"),
        (b"HTTP/1.0 503 No\r\n\r\n", "the proxy answered HTTP/1.0 503 No"),
        (b"SSH-2.0-x\r\n", "not one to CONNECT"),
        (b"x" * 20_000, "not one to CONNECT"),
    ],
)
async def test_a_proxy_that_refuses(secured, virtual_clock, monkeypatch, answer, said):
    async with proxying(secured.port) as proxy:
        proxy.answer = answer
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with opened("https://sqs.test", virtual_clock, drawn=0) as client:
            with pytest.raises(EndpointUnreachable, match=said):
                await put(client)
    assert secured.requests == []


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128)),
        ("http://proxy:3128/", Proxy("proxy", 3128)),
        ("proxy:3128", Proxy("proxy", 3128)),
        ("http://proxy", Proxy("proxy", 80)),
        ("http://u:p@[::1]:1", Proxy("::1", 1, "Basic dTpw")),
    ],
)
def test_finding_one(monkeypatch, value, proxy):
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert find_proxy("sqs.eu-central-1.amazonaws.com", 443) == proxy
    assert "dTpw" not in repr(proxy)


@pytest.mark.parametrize("value", ["https://proxy:1", "socks5://proxy:1", "http://", "a b", "x:0"])
def test_what_is_no_proxy(monkeypatch, value):
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY: must be"):
        find_proxy("sqs.eu-central-1.amazonaws.com", 443)


@pytest.mark.parametrize("no_proxy", ["::1", "[::1]", "[::1]:443", "fe80::/10,::1/128"])
def test_addresses_that_need_none(monkeypatch, no_proxy):
    monkeypatch.setenv("https_proxy", "socks5://proxy:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert find_proxy("::1", 443) is None
    with pytest.raises(ConfigurationError, match=r"^https_proxy: must be"):
        find_proxy("::2", 443)


def test_none(monkeypatch):
    assert find_proxy("sqs.eu-central-1.amazonaws.com", 443) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,.amazonaws.com")
    assert find_proxy("sqs.eu-central-1.amazonaws.com", 443) is None
    assert find_proxy("sqs.test", 443) is not None
    assert parse_endpoint("http://sqs.test", region="x", variable="X").proxy is None
    assert parse_endpoint("https://sqs.test", region="x", variable="X").proxy is not None
