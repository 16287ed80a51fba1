"""What a request costs, counted: a slow-down of the front end shows here, on any machine."""

from __future__ import annotations

import re
import socket
import sys
from types import FrameType
from typing import Any

import pytest
import trio

from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.test_submit import one
from tests.http.wire import get, post

REQUESTS = 50

_LENGTH = re.compile(rb"content-length: (\d+)")


class Counted(trio.abc.Instrument):
    """Of the loop's thread."""

    def __init__(self) -> None:
        self.calls = 0
        self.channel_sends = 0
        self.tasks = 0
        self.steps = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.calls += 1
            if frame.f_code is trio.MemorySendChannel.send_nowait.__code__:
                self.channel_sends += 1


def ask(address: tuple[str, int], request: bytes, times: int) -> None:
    """With a socket that blocks, in a thread: nothing of it is counted."""
    with socket.create_connection(address, timeout=60) as client:
        for _ in range(times):
            client.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += client.recv(65_536)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 20"), answer
            (length,) = _LENGTH.findall(head)
            while len(body) < int(length):
                body += client.recv(65_536)


# Functions of Python called for a request, those of an engine that does nothing included: measured
# 334, 441 and 461 with Quart 0.22, trio 0.35 and Python 3.11, and a fifth to spare for other
# versions. By h11 and hypercorn's stream they were 1,284, 1,338 and 1,601, in 12 to 16 steps.
@pytest.mark.parametrize(
    ("what", "calls"), [("/health", 400), ("/tasks/{id}", 530), ("POST /tasks", 550)]
)
async def test_of_one_request(serve: Serve, engine: FakeEngine, what: str, calls: int) -> None:
    task = engine.add()
    request = post("/tasks", one()) if what.startswith("POST") else get(what.format(id=task.id))
    async with serve() as server:
        address = server.bound.host, server.bound.port
        await trio.to_thread.run_sync(ask, address, request, 5)  # what is done once is done
        counted = Counted()
        trio.lowlevel.add_instrument(counted)
        before = sys.getprofile()
        sys.setprofile(counted.profile)
        try:
            await trio.to_thread.run_sync(ask, address, request, REQUESTS)
        finally:
            sys.setprofile(before)
            trio.lowlevel.remove_instrument(counted)
    assert counted.calls / REQUESTS < calls
    # A task for the request; and two for the connection, one of them for the thread that asks.
    assert counted.tasks <= REQUESTS + 3
    assert counted.channel_sends == 0
    # A step of the connection and one of the request; one more where the engine makes it wait.
    assert counted.steps <= 3 * REQUESTS + 20
