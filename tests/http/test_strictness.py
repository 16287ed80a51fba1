"""What RFC 9110 and 9112 want refused, ignored or closed, each on a real socket."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.test_wire import problem_in
from tests.http.wire import get, post

KEY = "k" * 32


def as_1_0(request: bytes) -> bytes:
    return request.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)


# --- bytes between and after requests ---------------------------------------------------------


@pytest.mark.parametrize("after", [b"\r\n", b"\n", b"\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("together", [True, False])
async def test_nothing_is_read_after_the_last_request(
    socket_clock: MockClock,
    serve: Serve,
    engine: FakeEngine,
    after: bytes,
    version: str,
    together: bool,
) -> None:
    """RFC 9112, 2.2 and 9.6. A 400 for a task that is stored would be a lie."""
    engine.hold = trio.Event()
    request = post("/tasks", one(), Connection="close")
    if version == "1.0":
        request = as_1_0(request)
    async with serve() as server:
        wire = await server.connect()
        if together:
            await wire.send(request + after)
        else:
            await wire.send(request)
            await engine.reached.wait()
            await wire.send(after)
        await engine.reached.wait()
        await wait_all_tasks_blocked(0.01)
        engine.hold.set()
        assert (await wire.answer()).status == 201
        assert await wire.closed()
    assert len(engine.stored) == 1


@pytest.mark.parametrize("together", [True, False])
async def test_empty_lines_before_a_request_are_ignored(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, together: bool
) -> None:
    parts = [b"\r\n" + post("/tasks", one()) + b"\r\n\r\n", b"\r", b"\n" + get("/health") + b"\r\n"]
    async with serve() as server:
        wire = await server.connect()
        for part in [b"".join(parts)] if together else parts:
            await wire.send(part)
            await wait_all_tasks_blocked(0.01)
        assert [(await wire.answer()).status for _ in range(2)] == [201, 200]
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200


# --- framing ------------------------------------------------------------------------------------


def chunked(body: bytes, *more: str) -> bytes:
    lines = ["POST /tasks HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", *more]) + "\r\n\r\n"
    return head.encode() + body


async def test_two_lengths_close_the_connection(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    """RFC 9112, 6.1: what follows may be one request for us and another for a proxy."""
    body = json.dumps(one()).encode()
    async with serve() as server:
        wire = await server.connect()
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        await wire.send(chunked(chunks, "Content-Length: 4") + get("/health"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        assert await wire.closed()
        # The next one is not taken for one of these.
        wire = await server.connect()
        await wire.send(post("/tasks", one()))
        assert "connection" not in (await wire.answer()).headers


async def test_more_extensions_than_body(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    body = json.dumps(one()).encode()
    small = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    large = b"".join(b"1;%s\r\n%c\r\n" % (b"x" * 9000, byte) for byte in body) + b"0\r\n\r\n"
    async with serve() as server:
        wire = await server.connect()
        await wire.send(chunked(small))
        assert (await wire.answer()).status == 201
        wire = await server.connect()
        await wire.send(chunked(large[: len(large) // 2]))
        problem_in(await wire.answer(), 400)
    assert len(engine.stored) == 1


@pytest.mark.parametrize(
    ("body", "status"), [(b"0" * 30_000, 431), (b"1" * 21 + b"\r\n", 400), (b"-1\r\n", 400)]
)
async def test_chunk_sizes_that_are_none(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, body: bytes, status: int
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(chunked(body))
        problem_in(await wire.answer(), status)
        assert await wire.closed()
    assert engine.stored == []


# --- the request line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /tasks HTTP/9.9", 505),
        ("GET /tasks HTTP/2.0", 505),
        ("GET /tasks HTTP/0.9", 505),
        ("HEAD /tasks HTTP/9.9", 505),
        ("get /tasks HTTP/1.1", 501),
        ("Get /tasks HTTP/1.1", 501),
        ("BREW /tasks HTTP/1.1", 501),
        ("GET //tasks HTTP/1.1", 404),
        ("GET //health HTTP/1.1", 404),
        ("GET /%2Ftasks HTTP/1.1", 404),
        ("GET http://localhost//tasks HTTP/1.1", 404),
        ("GET /tasks/ HTTP/1.1", 404),
        ("GET /tasks HTTP/1.9", 200),  # RFC 9110, 2.5: as the highest version of it that is known
    ],
)
async def test_request_lines(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, line: str, status: int
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(f"{line}\r\nHost: localhost\r\n\r\n")
        answer = await wire.answer(head=line.startswith("HEAD"))
        assert answer.status == status
        if status in (501, 505):
            assert await wire.closed()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Authorization", ("Bearer wrong-wrong-wrong-wrong", f"Bearer {KEY}")),
        ("Authorization", (f"Bearer {KEY}", f"Bearer {KEY}")),
        ("Host", ("localhost", "localhost")),
        ("Content-Type", ("text/plain", "application/json")),
        ("Content-Encoding", ("gzip", "identity")),
        ("Content-Length", ("2", "3")),
        ("Origin", ("http://evil.example", "http://localhost")),
        ("X-Request-Id", ("a", "b")),
        ("Idempotency-Key", ("a", "b")),
    ],
)
async def test_a_header_that_is_given_twice(
    socket_clock: MockClock,
    serve: Serve,
    engine: FakeEngine,
    name: str,
    values: tuple[str, str],
) -> None:
    headers = {
        "Host": "localhost",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Content-Length": str(len(json.dumps(one()))),
    }
    lines = [f"{key}: {value}" for key, value in headers.items() if key != name]
    lines += [f"{name}: {value}" for value in values]
    request = "\r\n".join(["POST /tasks HTTP/1.1", *lines, "", json.dumps(one())])
    async with serve(api_keys=(KEY,)) as server:
        wire = await server.connect()
        await wire.send(request)
        problem_in(await wire.answer(), 400)
    assert engine.stored == []


@pytest.mark.parametrize("header", ["X : a", " X: a", "X: a\rb", "X: \x00", "X: a\r\n\x0bb: c"])
async def test_headers_that_are_none(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, header: str
) -> None:
    async with serve() as server:
        wire = await server.connect()
        await wire.send(f"GET /tasks HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n")
        problem_in(await wire.answer(), 400)
        assert await wire.closed()


async def test_a_folded_header_is_one_line(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    """RFC 9112, 5.2: refused, or its fold taken for a space."""
    async with serve(api_keys=(KEY,)) as server:
        wire = await server.connect()
        line = f"Authorization: Bearer\r\n {KEY}"
        await wire.send(f"GET /tasks HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n")
        assert (await wire.answer()).status == 200


# --- Expect: 100-continue -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/tasks", {"Content_Length": "999999999"}, 413),
        ("/tasks", {"Content_Type": "text/plain"}, 415),
        ("/tasks", {"Authorization": "Bearer no"}, 401),
        ("/nothing", {}, 404),
        ("/tasks/batch", {"Content_Encoding": "gzip"}, 415),
        ("/metrics", {}, 405),
    ],
)
async def test_no_body_is_asked_for_that_is_refused_already(
    socket_clock: MockClock,
    serve: Serve,
    engine: FakeEngine,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    given = {"Expect": "100-continue", "Authorization": f"Bearer {KEY}", "Content_Length": "10"}
    async with serve(api_keys=(KEY,)) as server:
        wire = await server.connect()
        await wire.send(post(path, b"", **(given | headers)))
        problem_in(await wire.answer(), status)


# --- what a path takes --------------------------------------------------------------------------

ALLOWED = {
    "/": "GET, HEAD, OPTIONS",
    "/tasks": "GET, HEAD, OPTIONS, POST",
    "/tasks/batch": "OPTIONS, POST",
    "/tasks/00000000-0000-7000-8000-000000000000": "DELETE, GET, HEAD, OPTIONS",
    "/tasks/00000000-0000-7000-8000-000000000000/retry": "OPTIONS, POST",
    "/dead-letters": "DELETE, GET, HEAD, OPTIONS",
    "/dead-letters/redrive": "OPTIONS, POST",
    "/metrics": "GET, HEAD, OPTIONS",
    "/scale": "GET, HEAD, OPTIONS",
    "/health": "GET, HEAD, OPTIONS",
    "/ready": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
}


@pytest.mark.parametrize("path", ALLOWED)
async def test_the_methods_of_a_path_are_its_own(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, path: str
) -> None:
    async with serve() as server:
        wire = await server.connect()
        for method, status in (("OPTIONS", 200), ("PATCH", 405), ("TRACE", 405)):
            await wire.send(get(path).replace(b"GET", method.encode(), 1))
            answer = await wire.answer()
            allowed = ", ".join(sorted(answer.headers["allow"].split(", ")))
            assert (answer.status, allowed) == (status, ALLOWED[path])
        if "GET" not in ALLOWED[path]:
            await wire.send(get(path))
            assert (await wire.answer()).status == 405


@pytest.mark.parametrize("path", [path for path, methods in ALLOWED.items() if "GET" in methods])
async def test_head_is_get_without_a_body(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, path: str
) -> None:
    varying = ("date", "x-request-id")
    async with serve() as server:
        wire = await server.connect()
        await wire.send(get(path).replace(b"GET", b"HEAD", 1))
        head = await wire.answer(head=True)
        await wire.send(get(path))
        full = await wire.answer()
    assert head.status == full.status
    for name in full.headers.keys() - varying:
        assert head.headers[name] == full.headers[name], name


# --- / and /docs --------------------------------------------------------------------------------


async def test_the_root_leads_to_the_documentation(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    async with serve(api_keys=(KEY,)) as server:
        wire = await server.connect()
        await wire.send(get("/"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["location"]) == (302, "/docs")


async def test_the_example_has_the_address_of_its_reader(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine
) -> None:
    async with serve() as server:
        wire = await server.connect()
        for host in (f"localhost:{server.bound.port}", "[::1]:81", "localhost"):
            await wire.send(f"GET /docs HTTP/1.1\r\nHost: {host}\r\n\r\n")
            page = (await wire.answer()).body.decode()
            assert f"curl -X POST http://{host}/tasks" in page
            assert "8080" not in page
        await wire.send("GET /docs HTTP/1.0\r\n\r\n")
        page = (await wire.answer()).body.decode()
        assert f"http://127.0.0.1:{server.bound.port}/tasks" in page
