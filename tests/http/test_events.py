"""GET /events and GET /tasks/{id}/events: server-sent events over real sockets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine.attempt_record import LogLine
from task_queue_engine.http.event_stream import HEARTBEAT
from task_queue_engine.http.principal import Role
from task_queue_engine.task import TaskStatus
from task_queue_engine.task_events import EndEvent, GapEvent, LogEvent, ProgressEvent, state_of
from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine, FakeEvents
from tests.http.keys import Keys
from tests.http.wire import Server, Wire, get

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NO_TASK = "00000000-0000-7000-8000-000000000000"
HOSTILE = "</script>\r\n\r\nevent: end\ndata: {}\n\n\u2028\x00\x1b[2J"


def log(task_id: str, message: str, task_type: str = "anything", id_: str = "7") -> LogEvent:
    line = LogLine(time=NOW, level="INFO", logger="shop", message=message)
    return LogEvent(id=id_, task_id=task_id, type=task_type, queue="default", attempt=1, line=line)


class EventSource:
    """A client as browsers have it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.headers: dict[str, str] = {}
        self._text = ""
        self.is_over = False

    async def begin(self) -> None:
        answer = await self._wire.answer()
        assert answer.status == 200, answer
        self.headers = answer.headers

    async def block(self) -> str:
        """The next message or comment, without the empty line at its end."""
        while "\n\n" not in self._text:
            await self._chunk()
        block, _, self._text = self._text.partition("\n\n")
        return block

    async def message(self) -> dict[str, Any]:
        while (block := await self.block()).startswith(":"):
            pass
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        return fields | {"data": json.loads(fields["data"])}

    async def rest(self) -> str:
        while not self.is_over:
            await self._chunk()
        return self._text

    async def _chunk(self) -> None:
        size = b""
        while not size.endswith(b"\r\n"):
            size += await self._wire.exactly(1)
        data = await self._wire.exactly(int(size, 16) + 2)
        self.is_over = not int(size, 16)
        self._text += data[:-2].decode()


async def follow(server: Server, path: str, **headers: str) -> EventSource:
    wire = await server.connect()
    await wire.send(get(path, **headers))
    source = EventSource(wire)
    await source.begin()
    return source


async def stream_of(engine: FakeEngine) -> FakeEvents:
    await wait_all_tasks_blocked()
    return engine.streams[-1]


async def test_a_task_is_followed_to_its_end(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    task = engine.add()
    async with serve() as server:
        source = await follow(server, f"/tasks/{task.id.upper()}/events", Last_Event_ID="abc-1")
        assert source.headers["content-type"] == "text/event-stream"
        assert source.headers["cache-control"] == "no-store"
        assert source.headers["x-accel-buffering"] == "no"
        assert source.headers["transfer-encoding"] == "chunked"
        stream = engine.streams[-1]
        assert (stream.asked["task_id"], stream.asked["after"]) == (task.id, "abc-1")
        first = await source.message()
        assert (first["id"], first["event"]) == ("0", "state")
        assert first["data"] == {
            "event": "state",
            "task_id": task.id,
            "type": "anything",
            "queue": "default",
            "status": "PENDING",
            "attempt": 0,
            "retry_count": 0,
            "at": task.updated_at.isoformat().replace("+00:00", "Z"),
        }
        stream.put(
            ProgressEvent(
                id="1",
                task_id=task.id,
                type="anything",
                queue="default",
                attempt=1,
                at=NOW,
                progress={"done": 0.5},
            )
        )
        assert (await source.message())["data"]["progress"] == {"done": 0.5}
        stream.put(log(task.id, HOSTILE))
        said = await source.message()
        assert (said["event"], said["data"]["line"]["message"]) == ("log", HOSTILE)
        stream.put(GapEvent(reason="x", missed=3))
        gap = await source.message()
        assert gap == {"event": "gap", "data": {"event": "gap", "reason": "x", "missed": 3}}
        stream.put(EndEvent(id="9", task_id=task.id, status=TaskStatus.COMPLETED))
        stream._put.close()
        end = await source.message()
        assert (end["event"], end["data"]["status"]) == ("end", "COMPLETED")
        with trio.fail_after(20):
            await stream.closed.wait()


async def test_all_tasks_with_what_was_asked_for(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    async with serve() as server:
        source = await follow(server, "/events?type=email&queue=fast")
        assert (await source.block()).startswith(":"), "something comes at once"
        stream = engine.streams[-1]
        assert stream.asked == {"task_id": None, "type": "email", "queue": "fast", "after": None}
        assert stream.of_type is None
        stream.put(log("1", "hello"))
        assert (await source.message())["id"] == "7"


async def test_heartbeats(engine: FakeEngine, serve: Serve, socket_clock: MockClock) -> None:
    async with serve() as server:
        source = await follow(server, "/events")
        await source.block()
        before = trio.current_time()
        for _ in range(3):
            assert await source.block() == ":"
        assert trio.current_time() - before == pytest.approx(3 * HEARTBEAT, abs=1)


async def test_what_is_refused(engine: FakeEngine, serve: Serve, socket_clock: MockClock) -> None:
    async with serve() as server:
        for path, status, field in (
            (f"/tasks/{NO_TASK}/events", 404, None),
            ("/tasks/nonsense/events", 404, None),
            (f"/tasks/{engine.add().id}/events?wait=1", 400, "wait"),
            ("/events?typ=email", 400, "typ"),
            ("/events?queue=", 400, "queue"),
        ):
            wire = await server.connect()
            await wire.send(get(path))
            answer = await wire.answer()
            assert (answer.status, answer.json.get("field")) == (status, field)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_head_is_answered_and_over(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    task = engine.add()
    async with serve() as server:
        wire = await server.connect()
        for path, status in (
            ("/events", 200),
            (f"/tasks/{task.id}/events", 200),
            (f"/tasks/{NO_TASK}/events", 404),
            ("/events", 200),
        ):
            await wire.send(get(path).replace(b"GET", b"HEAD", 1))
            answer = await wire.answer(head=True)
            assert answer.status == status
            if status == 200:
                assert answer.headers["content-type"] == "text/event-stream"


async def test_a_drain_ends_streams_with_a_word(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    async with serve() as server:
        source = await follow(server, "/events")
        await source.block()
        stream = await stream_of(engine)
        server.shutdown.set()
        rest = await source.rest()
        assert "\nretry: 1000\n" in rest
        assert stream.closed.is_set()
        await server.done.wait()


async def test_streams_have_the_share_of_those_who_wait(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    async with serve(max_connections=4) as server:
        sources = [await follow(server, "/events") for _ in range(3)]
        wire = await server.connect()
        await wire.send(get("/events"))
        refused = await wire.answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        await wire.send(get("/health"))
        assert (await wire.answer()).status == 200
        # One that goes leaves its place.
        left = engine.streams[0]
        await sources[0]._wire.close()
        with trio.fail_after(60):
            await left.closed.wait()
        await wire.send(get("/events"))
        assert (await wire.answer()).status == 200


async def test_a_key_for_some_types_sees_those(
    engine: FakeEngine, keys: Keys, serve: Serve, socket_clock: MockClock
) -> None:
    mailer = keys.add("mailer", Role.READ, types=("email",))["Authorization"]
    submitter = keys.add("submitter", Role.SUBMIT)["Authorization"]
    own, other = engine.add("email"), engine.add("anything")
    async with serve(keys_file=str(keys.path)) as server:
        await follow(server, "/events", Authorization=mailer)
        of_type = engine.streams[-1].of_type
        assert of_type is not None
        assert (of_type("email"), of_type("anything")) == (True, False)
        await follow(server, "/events?type=email", Authorization=mailer)
        await follow(server, f"/tasks/{own.id}/events", Authorization=mailer)
        for path, key, status in (
            ("/events?type=anything", mailer, 403),
            (f"/tasks/{other.id}/events", mailer, 403),
            ("/events", submitter, 403),
            ("/events", "Bearer nonsense", 401),
        ):
            wire = await server.connect()
            await wire.send(get(path, Authorization=key))
            assert (await wire.answer()).status == status, path


async def test_a_key_that_is_taken_back_ends_its_streams(
    engine: FakeEngine, keys: Keys, serve: Serve, socket_clock: MockClock
) -> None:
    reader = keys.add("reader", Role.READ)["Authorization"]
    async with serve(keys_file=str(keys.path)) as server:
        source = await follow(server, "/events", Authorization=reader)
        assert (await source.block()).startswith(":")
        assert await source.block() == ":"
        keys.path.write_text("")
        await keys.are_read_by(server)
        with trio.fail_after(10 * HEARTBEAT):
            await source.rest()


async def test_a_client_that_does_not_read_is_let_go(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    async with serve() as server:
        wire = await server.connect(receive_buffer=4096)
        await wire.send(get("/events"))
        await wire.answer()
        stream = await stream_of(engine)
        for _ in range(900):
            stream.put(log("1", "x" * 60_000))
        with trio.fail_after(600):
            await stream.closed.wait()


async def test_by_the_long_way_round_it_is_the_same(
    engine: FakeEngine, serve: Serve, socket_clock: MockClock
) -> None:
    """A request that is not in the plain form."""
    task = engine.add()
    async with serve() as server:
        wire = await server.connect()
        await wire.send(
            f"GET /tasks/{task.id}/events HTTP/1.1\r\nHost: localhost\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        source = EventSource(wire)
        await source.begin()
        assert (await source.message())["data"]["status"] == "PENDING"
        assert state_of(task).status is TaskStatus.PENDING
        stream = await stream_of(engine)
        await wire.close()
        with trio.fail_after(60):
            await stream.closed.wait()
