"""Requests in plain form, which go past h11: never read otherwise than h11 reads them, and answered
as it has them answered."""

from __future__ import annotations

import random
from typing import Any

import h11
import pytest
import trio
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from quart import Blueprint, Response, session
from quart_trio import QuartTrio
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine.http.plain_request import MAX_HEAD, recognise
from task_queue_engine.http.protocol import HttpProtocol
from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.wire import Answer, get, post

HOST = b"Host: localhost\r\n"


# --- what is plain ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        get("/tasks"),
        get("/tasks?limit=1", Connection="Keep-Alive", Accept="*/*", X_Empty=""),
        post("/tasks", one()),
        post("/tasks", b"", Content_Length="0"),
        post("/tasks/batch", b"x" * 60_000),
        get("/").replace(b"GET", b"HEAD"),
        b"DELETE /tasks/5 HTTP/1.1\r\nhost:localhost\r\nX:\t a b \t\r\nY: \xfc\r\n\r\n",
    ],
)
def test_most_are(request_: bytes) -> None:
    plain = recognise(request_ + b"GET")
    assert plain is not None
    assert plain.end == len(request_)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST,  # not all of the head
        post("/tasks", b"ab")[:-1],  # not all of the body
        b"GET / HTTP/1.0\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
        b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT /x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
        b"GET /\xfc HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x0bb\r\n\r\n",
        get("/", X="x" * MAX_HEAD),
        get("/", Transfer_Encoding="chunked"),
        post("/", b"ab", Transfer_Encoding="chunked"),
        post("/", b"ab", Transfer_Encoding="identity"),
        get("/", Expect="100-continue"),
        get("/", Upgrade="h2c"),
        get("/", Connection="close"),
        get("/", Connection="keep-alive, upgrade"),
        post("/", b"ab", Content_Length="+2"),
        post("/", b"ab", Content_Length="2, 2"),
        post("/", b"ab", Content_Length="0x2"),
        post("/", b"ab", Content_Length=""),
        post("/", b"ab", Content_Length="99999999999999999999"),
        post("/", b"ab").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_wants_thought_is_left_to_h11(request_: bytes) -> None:
    assert recognise(request_) is None


@pytest.mark.parametrize("seed", range(10))
def test_h11_reads_it_the_same(seed: int) -> None:
    """Whatever is changed about a request: either h11 alone decides, or both agree on all of it."""
    rng = random.Random(seed)
    pieces = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\x00",
        b"\xff",
        b",",
        b"%0a",
        b"0",
        b"\r\n ",
    ]
    pieces += [b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"GET "]
    plain = 0
    for _ in range(400):
        data = bytearray(
            rng.choice([get("/a?b=%20"), post("/tasks", one()), post("/x", b"abc", X_Y="z \t")])
            + rng.choice([b"", get("/next")])
        )
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at:at] = rng.choice(pieces)
                case 1:
                    del data[at : at + rng.randint(1, 3)]
                case _:
                    data[at] = rng.randrange(256)
        found = recognise(bytes(data))
        if found is None:
            continue
        plain += 1
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(bytes(data))
        head = theirs.next_event()
        assert isinstance(head, h11.Request)
        assert (head.method.decode(), head.target) == (found.method, found.target)
        assert (list(head.headers), head.http_version) == (found.headers, b"1.1")
        body = b""
        while isinstance(event := theirs.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        assert (body, theirs.trailing_data[0]) == (found.body, bytes(data[found.end :]))
    assert plain > 50, "there is something to compare"


# --- answers ------------------------------------------------------------------------------------

VARYING = ("date", "x-request-id")


def by_h11(request: bytes) -> bytes:
    """The same request, in a form that is not plain."""
    return request.replace(b"\r\n\r\n", b"\r\nX-Folded: a\r\n b\r\n\r\n", 1)


def parts(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    return answer.status, headers, answer.body


@pytest.mark.parametrize(
    "request_",
    [
        get("/tasks"),
        get("/openapi.json"),
        get("/docs"),
        get("/"),
        get("/tasks?status=NOPE"),
        get("/tasks/5"),
        get("/nope%20?x"),
        get("//tasks"),
        get("/tasks/"),
        get("/tasks", Host="a..b"),
        get("/tasks", Origin="http://evil.example"),
        get("/tasks").replace(b"GET", b"HEAD"),
        get("/tasks").replace(b"GET", b"PATCH"),
        get("/tasks").replace(b"GET", b"OPTIONS"),
        post("/tasks", b"{"),
        post("/tasks", b"{}", Content_Type="text/plain"),
        post("/tasks", one(), Idempotency_Key="\x7f"),
        post("/tasks", b" " * 300_000),
    ],
)
async def test_an_answer_is_the_same_by_either_way(
    socket_clock: MockClock, serve: Serve, engine: FakeEngine, request_: bytes
) -> None:
    engine.add()
    head = request_.startswith(b"HEAD")
    async with serve() as server:
        answers = []
        for request in (request_, by_h11(request_)):
            wire = await server.connect()
            await wire.send(request)
            answers.append(parts(await wire.answer(head=head)))
    assert answers[0] == answers[1]


async def test_the_last_request_of_a_connection_is_told(
    socket_clock: MockClock, serve: Serve
) -> None:
    """hypercorn's limit, which spreads long-lived clients over servers."""
    async with serve() as server:
        wire = await server.connect()
        for _ in range(999):
            await wire.send(get("/health"))
            assert "connection" not in (await wire.answer()).headers
        await wire.send(get("/health"))
        assert (await wire.answer()).headers["connection"] == "close"
        assert await wire.closed()


async def test_what_comes_in_while_others_wait_stays_in_order() -> None:
    """Read in the moment in which an answer is out and the next request is not begun."""
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def client(event: Any) -> None:
        """Takes what it is sent."""

    data = b"".join(post("/", b"%d" % n) for n in range(3))
    async with TaskGroup() as tasks:
        protocol = HttpProtocol(
            app, Config(), WorkerContext(None), tasks, {}, False, None, None, client
        )
        assert protocol.begin_plain(data[:-20])
        await wait_all_tasks_blocked()
        await protocol.handle(RawData(data=data[-20:]))
        for _ in range(3):
            await protocol.resume()
            await wait_all_tasks_blocked()
    assert bodies == [b"0", b"1", b"2"]


# --- an application's own routes ------------------------------------------------------------------


@pytest.fixture
def app(app: QuartTrio, engine: FakeEngine) -> QuartTrio:
    async def pieces():  # type: ignore[no-untyped-def] # Quart wants an iterator of its own kind
        for piece in (b"a", b"", b"bc"):
            yield piece

    @app.get("/stream")
    async def stream() -> Response:
        return Response(pieces())

    @app.get("/short")
    async def short() -> Response:
        response = Response(b"abc")
        response.headers["Content-Length"] = "5"
        return response

    @app.get("/none")
    async def none() -> tuple[str, int]:
        return "", 204

    @app.get("/last")
    async def last() -> Response:
        return Response(b"bye", headers={"Connection": "close"})

    @app.get("/waits")
    async def waits() -> str:
        engine.reached.set()
        try:
            await trio.sleep_forever()
        finally:
            engine.failure = RuntimeError("cancelled")

    return app


@pytest.mark.parametrize("way", [lambda request: request, by_h11])
async def test_a_body_in_pieces_goes_by_chunks(
    socket_clock: MockClock, serve: Serve, app: QuartTrio, way: type[bytes]
) -> None:
    async with serve(app=app) as server:
        wire = await server.connect()
        await wire.send(way(get("/stream")))
        answer = await wire.answer()
        assert (answer.status, answer.headers["transfer-encoding"]) == (200, "chunked")
        framed = b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
        assert await wire.exactly(len(framed)) == framed
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("way", [lambda request: request, by_h11])
async def test_a_body_that_is_not_as_long_as_it_says(
    socket_clock: MockClock,
    serve: Serve,
    app: QuartTrio,
    way: type[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client must not wait for the rest, nor take the next answer for it."""
    async with serve(app=app) as server:
        wire = await server.connect()
        await wire.send(way(get("/short")))
        with trio.fail_after(60), pytest.raises(EOFError):
            await wire.answer()
    assert "request" in caplog.text


async def test_what_a_route_says_of_the_connection(
    socket_clock: MockClock, serve: Serve, app: QuartTrio
) -> None:
    async with serve(app=app) as server:
        wire = await server.connect()
        await wire.send(get("/none") + get("/last") + get("/health"))
        assert (await wire.answer()).status == 204
        assert (await wire.answer()).body == b"bye"
        assert await wire.closed()


@pytest.mark.parametrize("way", [lambda request: request, by_h11])
async def test_a_route_that_waits_ends_with_its_client(
    socket_clock: MockClock, serve: Serve, app: QuartTrio, engine: FakeEngine, way: type[bytes]
) -> None:
    async with serve(app=app) as server:
        wire = await server.connect()
        await wire.send(way(get("/waits")))
        await engine.reached.wait()
        assert engine.failure is None
        await wire.close()
        await wait_all_tasks_blocked(0.05)
        assert engine.failure is not None


async def test_hooks_sessions_and_blueprints_apply(
    socket_clock: MockClock, serve: Serve, app: QuartTrio
) -> None:
    app.secret_key = "a key"
    part = Blueprint("part", __name__)
    seen: list[str] = []

    @app.before_request
    async def before() -> None:
        seen.append("before")

    @app.after_request
    async def after(response: Response) -> Response:
        response.headers["X-After"] = "yes"
        return response

    @app.teardown_request
    async def teardown(error: BaseException | None) -> None:
        seen.append("teardown")

    @part.before_request
    async def before_part() -> None:
        seen.append("part")

    @part.get("/part")
    async def view() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    app.register_blueprint(part)
    async with serve(app=app) as server:
        wire = await server.connect()
        await wire.send(get("/part"))
        first = await wire.answer()
        cookie = first.headers["set-cookie"].partition(";")[0]
        await wire.send(get("/part", Cookie=cookie))
        second = await wire.answer()
    assert (first.body, second.body, second.headers["x-after"]) == (b"1", b"2", "yes")
    assert seen == ["before", "part", "teardown"] * 2
