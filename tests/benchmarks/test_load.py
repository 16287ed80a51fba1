"""The load generator: each request once, answers whole, wrong ones reported."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from benchmarks.load import ask_all, request
from benchmarks.processes import Failed

from tests.benchmarks.servers import answering


def answer(status: int, seen: list[bytes]) -> Callable[[bytes], list[bytes]]:
    """To each request its own first line, in two parts."""

    def parts(data: bytes) -> list[bytes]:
        line = data.partition(b"\r\n")[0]
        seen.append(line)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(line)}\r\n\r\n"
        return [head.encode() + line[:3], line[3:]]

    return parts


@pytest.mark.parametrize(("requests", "connections"), [(50, 4), (3, 16)])
def test_every_request_is_sent_once_and_its_answer_is_whole(
    requests: int, connections: int
) -> None:
    lines = [f"GET /{number} HTTP/1.1".encode() for number in range(requests)]
    messages = (request("GET", f"/{number}") for number in range(requests))
    seen: list[bytes] = []
    with answering(answer(200, seen)) as port:
        found = ask_all(port, messages, connections=connections, expected=(200,))

    assert sorted(seen) == sorted(lines)
    assert sorted(found.bodies) == sorted(lines)
    assert len(found.waits) == requests


def test_an_answer_that_was_not_expected_is_no_measurement() -> None:
    messages = itertools.repeat(request("POST", "/tasks", b"{}"), 5)
    with answering(answer(503, [])) as port, pytest.raises(Failed, match="answered 503"):
        ask_all(port, messages, connections=2, expected=(201,))
