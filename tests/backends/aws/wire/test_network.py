"""A network that cuts, delays and damages, and TLS over it."""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import AsyncIterator

import pytest
import trio
import trustme

from task_queue_engine.backends.aws.wire.connection import Connection
from task_queue_engine.backends.aws.wire.endpoints import parse_endpoint
from task_queue_engine.backends.aws.wire.errors import EndpointUnreachable
from task_queue_engine.backends.aws.wire.retry import MAX_ATTEMPTS, RetryQuota
from task_queue_engine.errors import BackendUnavailable
from tests.backends.aws.wire.canned import Answer, CannedServer, answer, serving
from tests.backends.aws.wire.faulty_network import FaultyNetwork, faulty_network
from tests.backends.aws.wire.opened_client import delete, elapsed_since, opened, put

_BODY = b'{"Item":{"id":{"S":"0123456789"}}}'
_RIGHT = {"Item": {"id": {"S": "0123456789"}}}
_ANSWER = answer(body=_BODY, x_amz_crc32=str(zlib.crc32(_BODY)))


@pytest.fixture
async def network(server: CannedServer) -> AsyncIterator[FaultyNetwork]:
    server.default = _ANSWER
    async with faulty_network(server.port) as it:
        yield it


async def test_a_request_is_sent_at_once(server):
    """Whatever else is under way on the connection: no waiting for more to send (Nagle)."""
    endpoint = parse_endpoint(server.url, region="eu-central-1", variable="AWS_ENDPOINT_URL")
    connection = await Connection.open(endpoint, tls=None, timeout=5, max_response_bytes=1000)
    assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    connection.close()


async def test_an_answer_cut_off_anywhere(server, network, virtual_clock, monkeypatch):
    monkeypatch.setattr(RetryQuota, "take", lambda *_: 0)
    async with opened(network.url, virtual_clock, drawn=0) as client:
        for place in range(len(_ANSWER.data)):
            network.faults.cut_after = place
            with pytest.raises(EndpointUnreachable, match=r"cut off|closed before|broke"):
                await put(client)
            network.faults.cut_after = None
            assert await put(client) == _RIGHT
    assert len(server.requests) == 5 * len(_ANSWER.data)


async def test_an_answer_damaged_anywhere(server, network, virtual_clock, monkeypatch):
    """It is right, or it is refused: the checksum covers the body."""
    monkeypatch.setitem(MAX_ATTEMPTS, "dynamodb", 1)
    server.default = Answer(_ANSWER.data, then="close")  # each answer is its connection's first
    refused = 0
    async with opened(network.url, virtual_clock, drawn=0, request_timeout=1) as client:
        for place in range(len(_ANSWER.data)):
            network.faults.damage_at, network.faults.flip = place, 1 << place % 7
            try:
                assert await put(client) == _RIGHT
            except BackendUnavailable:
                refused += 1
    assert refused > len(_BODY)


async def test_a_slow_network(server, network, virtual_clock):
    network.faults.piece, network.faults.pace = 10, 0.1
    async with opened(network.url, virtual_clock) as client:
        start = trio.current_time()
        assert await put(client) == _RIGHT
        assert elapsed_since(start) > 1
    assert len(server.requests) == 1


async def test_a_network_too_slow(server, network, virtual_clock):
    network.faults.piece, network.faults.pace = 1, 1
    async with opened(network.url, virtual_clock, total_timeout=100) as client:
        with pytest.raises(EndpointUnreachable, match="no answer within 10 s"):
            await put(client)


async def test_an_outage(server, network, virtual_clock):
    async with opened(network.url, virtual_clock, max_connections=1) as client:
        assert await put(client) == _RIGHT
        network.faults.refuse = True
        await trio.sleep(60)  # until the connection is too old to be used again
        with pytest.raises(EndpointUnreachable):
            await put(client)
        network.faults.refuse = False
        assert await put(client) == _RIGHT


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secured(authority: trustme.CA, virtual_clock) -> AsyncIterator[CannedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with serving(context) as it:
        yield it


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch, tmp_path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))


async def test_tls(secured, trusted, virtual_clock):
    async with opened(secured.url, virtual_clock) as client:
        for _ in range(3):
            assert await put(client) == {}
    assert secured.connections == 1


async def test_large_bodies_over_tls(secured, trusted, virtual_clock):
    secured.default = lambda request: answer(request.parameters)
    text = {"text": "x" * 3_000_000}
    async with (
        faulty_network(secured.port, scheme="https") as network,
        opened(network.url, virtual_clock) as client,
    ):
        for _ in range(2):
            assert await client.call("dynamodb", "PutItem", text) == text
    assert secured.connections == 1


async def test_tls_cut_off(secured, trusted, virtual_clock):
    async with (
        faulty_network(secured.port, scheme="https") as network,
        opened(network.url, virtual_clock, drawn=0) as client,
    ):
        for place in (0, 1, 500, 1500):
            network.faults.cut_after = place
            with pytest.raises(EndpointUnreachable):
                await put(client)
        network.faults.cut_after = None
        assert await put(client) == {}


async def test_tls_damaged(secured, trusted, virtual_clock):
    secured.default = Answer(answer().data, then="close")
    async with (
        faulty_network(secured.port, scheme="https") as network,
        opened(network.url, virtual_clock, drawn=0) as client,
    ):
        assert await put(client) == {}
        network.faults.damage_at = 100
        with pytest.raises(BackendUnavailable):
            await put(client)


async def test_a_certificate_of_nobody_we_trust(secured, virtual_clock):
    async with opened(secured.url, virtual_clock, drawn=0) as client:
        with pytest.raises(
            EndpointUnreachable, match="certificate is not trusted: unable to get local issuer"
        ):
            await put(client)
    assert secured.requests == []


async def test_a_certificate_of_somebody_else(secured, trusted, virtual_clock):
    url = f"https://localhost:{secured.port}"
    async with opened(url, drawn=0) as client:
        with pytest.raises(EndpointUnreachable, match="not trusted: Hostname mismatch"):
            await put(client)
    assert secured.requests == []


async def test_tls_where_there_is_none(server, virtual_clock):
    async with opened(f"https://127.0.0.1:{server.port}", virtual_clock, drawn=0) as client:
        with pytest.raises(EndpointUnreachable, match="connect"):
            await delete(client)


async def test_none_where_there_is_tls(secured, virtual_clock):
    async with opened(f"http://127.0.0.1:{secured.port}", virtual_clock, drawn=0) as client:
        with pytest.raises(BackendUnavailable):
            await delete(client)


async def test_a_server_that_never_shakes_hands(virtual_clock):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"

    async def silent(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, silent, listeners)
        async with opened(url, virtual_clock, connect_timeout=4) as client:
            start = trio.current_time()
            with pytest.raises(EndpointUnreachable, match="no connection within 4 s"):
                await delete(client)
            assert elapsed_since(start) == pytest.approx(12, abs=1)
        nursery.cancel_scope.cancel()
