"""HTTP answers: every legal form of one is read, everything else is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator

import outcome
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from task_queue_engine.backends.aws.wire.connection import (
    Connection,
    MalformedAnswer,
    Response,
    TransportError,
    _Reader,
)
from task_queue_engine.backends.aws.wire.endpoints import parse_endpoint

_GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Pair:
    """A connection, and the other end of it."""

    def __init__(self, max_response_bytes: int = 1000) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.connection = Connection(ours, max_response_bytes=max_response_bytes)
        self.server = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.asked = b""

    def send_now(self, data: bytes) -> None:
        """Without giving another task a turn."""
        os.write(self.server.socket.fileno(), data)

    async def answered(self, *pieces: bytes, end: bool = False) -> Response:
        """What the connection makes of an answer that comes in these pieces."""

        async def say() -> None:
            self.asked = bytes(await self.server.receive_some())
            for piece in pieces:
                await self.server.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            if end:
                await self.server.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            got = await outcome.acapture(self.connection.request, b"POST")
        return got.unwrap()


@pytest.fixture
async def pair(autojump_clock) -> AsyncIterator[Pair]:
    it = Pair()
    yield it
    it.connection.close()
    await it.server.aclose()


async def test_request_and_answer(pair):
    got = await pair.answered(b'HTTP/1.1 200 OK\r\nX-One: a\r\nContent-Length: 7\r\n\r\n{"a":1}')
    assert got == Response(200, {"x-one": "a", "content-length": "7"}, b'{"a":1}')
    assert pair.asked == b"POST"
    assert not pair.connection.closed
    assert not pair.connection.is_stale()


async def test_byte_by_byte(pair):
    got = await pair.answered(*[_GOOD[i : i + 1] for i in range(len(_GOOD))])
    assert got.body == b"{}"


async def test_chunked(pair):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = await pair.answered(head, b"2\r\n{}\r\n", b"1\r\n \r\n", b"0\r\n\r\n")
    assert got.body == b"{} "
    assert not pair.connection.closed


async def test_interim_answers_are_passed_over(pair):
    got = await pair.answered(b"HTTP/1.1 100 Continue\r\nX-Gone: 1\r\n\r\n", _GOOD)
    assert got == Response(200, {"content-length": "2"}, b"{}")


async def test_http_1_0_ends_with_its_connection(pair):
    got = await pair.answered(b"HTTP/1.0 200 OK\r\n\r\n{}", end=True)
    assert got.body == b"{}"
    assert pair.connection.closed


@pytest.mark.parametrize("header", [b"Connection: close\r\n", b""])
async def test_a_connection_that_will_not_be_kept_is_closed(pair, header):
    version = b"1.1" if header else b"1.0"
    head = b"HTTP/" + version + b" 200 OK\r\n" + header + b"Content-Length: 2\r\n\r\n"
    assert (await pair.answered(head + b"{}")).body == b"{}"
    assert pair.connection.closed


async def test_more_than_was_asked_for_ends_the_connection(pair):
    assert (await pair.answered(_GOOD + _GOOD)).body == b"{}"
    assert pair.connection.closed


async def test_unasked_data_makes_an_idle_connection_stale(pair):
    await pair.answered(_GOOD)
    await pair.server.send_all(_GOOD)
    assert pair.connection.is_stale()


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([], "closed before an answer came"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], "cut off"),
        ([b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a"'], "cut off"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"], "cut off"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], "cut off"),
    ],
)
async def test_an_answer_that_ends_early(pair, pieces, said):
    with pytest.raises(TransportError, match=said) as caught:
        await pair.answered(*pieces, end=True)
    assert caught.value.answered == bool(pieces)
    assert pair.connection.closed


async def test_an_answer_that_comes_with_the_cancellation_is_not_lost(pair):
    got = []

    async def ask() -> None:
        got.append(await pair.connection.request(b"POST"))
        await trio.lowlevel.checkpoint()
        got.append("went on")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        pair.send_now(_GOOD)
        nursery.cancel_scope.cancel()
    assert [answer.body for answer in got] == [b"{}"]  # and then it was cancelled
    assert not pair.connection.closed


@pytest.mark.parametrize("sent", [b"", _GOOD[:-1]])
async def test_cancelling_closes_the_connection(pair, sent):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.connection.request, b"POST")
        await trio.testing.wait_all_tasks_blocked()
        pair.send_now(sent)
        start = trio.current_time()
        nursery.cancel_scope.cancel()
    assert pair.connection.closed
    assert trio.current_time() - start == pytest.approx(2 if sent else 0)
    assert await pair.server.receive_some() == b"POST"
    assert await pair.server.receive_some() == b""


async def test_a_large_request_to_a_slow_reader(pair):
    data = b"x" * 5_000_000
    received = 0

    async def read_slowly() -> None:
        nonlocal received
        while received < len(data):
            received += len(await pair.server.receive_some(100_000))
        await pair.server.send_all(_GOOD)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        assert (await pair.connection.request(data)).status == 200
    assert received == len(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", "not HTTP"),
        (b"HTTP/1.1 101 Switch\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
         "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Some: thing\r\n" * 10_000, "bytes of headers"),
    ],
)  # fmt: skip
async def test_what_is_refused(pair, data, said):
    with pytest.raises(MalformedAnswer, match=said):
        await pair.answered(data)
    assert pair.connection.closed


async def test_a_reset_connection(pair):
    async def reset() -> None:
        pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await pair.server.aclose()

    await reset()
    with pytest.raises(TransportError) as caught:
        await pair.connection.request(b"POST")
    assert not caught.value.answered
    assert pair.connection.closed


@given(st.lists(st.binary(max_size=60), max_size=6))
@example([b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"])
@example([b"HTTP/1.1 99 \r\n\r\n"])
@example([b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_whatever_arrives_is_an_answer_or_a_transport_error(pieces):
    reader = _Reader(1000)
    try:
        for piece in [*pieces, b""]:
            if reader.done:
                break
            reader.feed(piece)
    except TransportError:
        assert not reader.reusable
    else:
        assert reader.done
    reader.detach()


@given(st.integers(0, len(_GOOD) - 1), st.integers(1, 255), st.integers(0, len(_GOOD)))
def test_a_damaged_answer_is_an_answer_or_a_transport_error(position, flip, cut):
    data = bytearray(_GOOD)
    data[position] ^= flip
    test_whatever_arrives_is_an_answer_or_a_transport_error.hypothesis.inner_test(
        [bytes(data[:cut]), bytes(data[cut:])]
    )


async def test_connecting_where_nothing_listens(autojump_clock):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        endpoint = parse_endpoint(url, region="x", variable="X")
        with pytest.raises(TransportError, match=r"cannot connect: .*refused"):
            await Connection.open(endpoint, tls=None, timeout=5, max_response_bytes=1)
