"""HTTP/1.1 over a real socket: framing, connections, protocol errors."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.wire import Answer, get, post


def problem_in(answer: Answer, status: int) -> Any:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["error"] == answer.json["detail"]
    return answer.json


async def test_submit_and_look_up_on_one_connection(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(post("/tasks", one(payload="hello")))
        created = await wire.answer()
        await wire.send(get(created.headers["location"]))
        shown = await wire.answer()

    assert (created.status, shown.status) == (201, 200)
    assert created.json == shown.json
    assert "date" in created.headers
    assert "server" not in created.headers, "which server it is helps only an attacker"


async def test_pipelined_requests_are_answered_in_order(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    async with serve() as server:
        wire = await server.connect()
        requests = [post("/tasks", one(payload=n)) for n in (1, 2)] + [get("/health")]
        await wire.send(b"".join(requests))
        answers = [await wire.answer() for _ in requests]

    assert [answer.status for answer in answers] == [201, 201, 200]
    assert [answer.json["payload"] for answer in answers[:2]] == [1, 2]


@pytest.mark.parametrize("seed", range(20))
async def test_pipelined_requests_in_any_pieces(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, seed: int
) -> None:
    rng = random.Random(seed)
    numbers = range(rng.randint(2, 40))
    task = engine.add()
    requests = []
    for number in numbers:
        request = rng.choice(
            [
                post("/tasks", one(payload=number), X_Request_Id=str(number)),
                post("/tasks", one(payload="x" * 9000), X_Request_Id=str(number)),
                get("/health", X_Request_Id=str(number)),
                get(f"/tasks/{task.id}?wait=0.5", X_Request_Id=str(number)),
            ]
        )
        requests.append(request + b"\r\n" * rng.choice([0, 0, 1, 2]))
    data = b"".join(requests)
    async with serve() as server, trio.open_nursery() as nursery:
        wire = await server.connect()

        async def send() -> None:
            rest = data
            while rest:
                size = rng.choice([1, 10, 100, 10_000, 100_000])
                await wire.send(rest[:size])
                rest = rest[size:]
                if rng.random() < 0.5:
                    await trio.sleep(rng.choice([0, 0.01, 0.3]))

        nursery.start_soon(send)
        answers = [await wire.answer() for _ in numbers]

    assert [answer.headers["x-request-id"] for answer in answers] == [str(n) for n in numbers]
    assert {answer.status for answer in answers} <= {200, 201}


async def test_head_has_the_length_but_no_body(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    path = f"/tasks/{engine.add().id}"
    async with serve() as server:
        wire = await server.connect()
        await wire.send(get(path).replace(b"GET", b"HEAD"))
        head = await wire.answer(head=True)
        await wire.send(get(path))
        full = await wire.answer()

    assert head.status == 200
    assert head.headers["content-length"] == full.headers["content-length"]


async def test_chunked_bodies(socket_clock: MockClock, serve: Serve, engine: FakeEngine) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(
            "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
            '8\r\n{"type":\r\n17\r\n"anything","payload":5}\r\n0\r\n\r\n'
        )
        answer = await wire.answer()

    assert answer.status == 201
    assert engine.stored[0].payload == 5


async def test_expect_100_continue(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    request = post("/tasks", one(), Expect="100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    async with serve() as server:
        wire = await server.connect()
        await wire.send(head + b"\r\n\r\n")
        go_on = await wire.answer()
        await wire.send(body)
        answer = await wire.answer()

    assert (go_on.status, answer.status) == (100, 201)


async def test_http_1_0_without_a_host(socket_clock: MockClock, serve: Serve) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send("GET /health HTTP/1.0\r\n\r\n")
        answer = await wire.answer()

        assert answer.status == 200
        assert await wire.closed()


async def test_close_when_asked_to(socket_clock: MockClock, serve: Serve) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(get("/health", Connection="close"))

        assert (await wire.answer()).status == 200
        assert await wire.closed()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("NONSENSE\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS where none is spoken
        ("GET /health HTTP/1.1\r\n\r\n", 400),  # no Host
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {'9' * 5000}\r\n\r\n", 400),
        ("POST /tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST /tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (f"GET /{'x' * 20_000}", 431),
        ("GET nope HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET ?x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (f"GET /tasks HTTP/1.1\r\nHost: {'x' * 64}.localhost\r\n\r\n", 400),
        ("GET /tasks HTTP/1.1\r\nHost: a..localhost\r\n\r\n", 400),
        ("GET /tasks HTTP/1.1\r\nHost: \xfc.localhost\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (f"GET http://{'x' * 64}/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET http://localhost:99999999/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
async def test_what_is_not_a_request_gets_a_problem(
    serve: Serve,
    socket_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    request_: str,
    status: int,
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(request_)
        problem_in(await wire.answer(), status)
        # The next client is served on.
        wire = await server.connect()
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200

    assert caplog.records == [], "a client's mistake is not the operator's"


async def test_the_absolute_form(socket_clock: MockClock, serve: Serve, engine: FakeEngine) -> None:
    engine.add()
    async with serve() as server:
        wire = await server.connect()
        await wire.send("GET http://localhost/tasks?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert len((await wire.answer()).json["tasks"]) == 1
        await wire.send("GET http://localhost/tasks%3Flimit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        problem_in(await wire.answer(), 404)
        # The target's host counts, whatever the Host header says (RFC 9112, 3.2.2).
        await wire.send("GET http://evil.example/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n")
        problem_in(await wire.answer(), 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"},
        {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
    ],
)
async def test_upgrades_are_not_taken(
    socket_clock: MockClock, serve: Serve, headers: dict[str, str]
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(get("/health", **headers))
        assert (await wire.answer()).status == 200
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200


async def test_http_2_by_prior_knowledge_is_not_taken(
    serve: Serve, socket_clock: MockClock
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

        assert (await wire.answer()).status == 400


class TestTooLarge:
    async def test_by_content_length_is_answered_before_the_body(
        self, serve: Serve, socket_clock: MockClock, engine: FakeEngine
    ) -> None:
        async with serve() as server:
            wire = await server.connect()
            head, _, _ = post("/tasks", b"", Content_Length="999999999").partition(b"\r\n\r\n")
            await wire.send(head + b"\r\n\r\n{")
            answer = await wire.answer()

            problem_in(answer, 413)
            assert answer.headers["connection"] == "close"
            assert await wire.closed()
        assert engine.stored == []

    async def test_by_chunks_is_answered_before_the_end(
        self, serve: Serve, socket_clock: MockClock, engine: FakeEngine
    ) -> None:
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        async with serve() as server:
            wire = await server.connect()
            await wire.send(
                "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                "Transfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(256 * 1024 // 0x1000 + 2):
                await wire.send(chunk)
            problem_in(await wire.answer(), 413)
            # A client that only reads once it has sent everything must get to see the answer too.
            await wire.send(chunk * 10)
            assert await wire.closed()
        assert engine.stored == []

    async def test_a_client_that_sends_everything_first_sees_the_answer(
        self, serve: Serve, socket_clock: MockClock
    ) -> None:
        async with serve() as server:
            wire = await server.connect()
            await wire.send(post("/tasks", b"x" * 3_000_000))
            problem_in(await wire.answer(), 413)


async def test_access_log_keeps_one_line_one_line(
    socket_clock: MockClock, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    name = "task_queue_engine.http.access"
    async with serve() as server:
        wire = await server.connect()
        with caplog.at_level(logging.INFO, name):
            await wire.send(get("/health"))
            await wire.answer()
            await trio.testing.wait_all_tasks_blocked()
        assert caplog.records == [], "nothing is logged of a request unless that is asked for"

        with caplog.at_level(logging.DEBUG, name):
            await wire.send(get("/nope%0Aforged?key=secret", X_Request_Id="abc"))
            await wire.answer()
            await trio.testing.wait_all_tasks_blocked()
    (record,) = caplog.records
    assert '127.0.0.1 "GET /nope%0Aforged" 404' in record.getMessage()
    assert record.getMessage().endswith("ms abc")


async def test_a_defect_on_one_connection_ends_only_that(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = RuntimeError("defect")
    async with serve() as server:
        wire, other = await server.connect(), await server.connect()
        await wire.send(get("/tasks"))
        problem_in(await wire.answer(), 500)
        engine.failure = None
        for one_of_them in (wire, other):
            await one_of_them.send(get("/tasks"))
            assert (await one_of_them.answer()).status == 200
    assert "defect" in caplog.text
