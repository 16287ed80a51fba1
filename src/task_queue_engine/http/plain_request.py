"""Requests in the plain form that almost all have, recognised by one expression.

The expression takes part of what h11 takes and reads it as h11 does; whatever is not of its form
(chunks, `Expect`, HTTP/1.0, folded fields, two lengths, bare line feeds, ...) is left to h11, byte
for byte. So all that is strict about h11 stays, and there are no two opinions about a request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HEAD = 16 * 1024
"""Bytes. h11 is given the same limit for what is incomplete."""

# RFC 9112, sections 3 and 5: a target in origin form, a version that needs no thought, and lines
# that end as they should. The quantifiers give nothing back, so it takes time in proportion to
# what is read.
_HEAD = re.compile(
    rb"(GET|POST|DELETE|HEAD|PUT|PATCH|OPTIONS) (/[\x21-\x7e]*+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n)++)\r\n"
)
# Fields by which a client asks for more than a request and its answer.
_NOT_PLAIN = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
# More digits than any body has that is here already.
_LENGTH = re.compile(rb"[0-9]{1,10}")

RawHeaders = list[tuple[bytes, bytes]]


class PlainRequest(NamedTuple):
    method: str
    target: bytes
    headers: RawHeaders
    """Names in lower case."""
    body: bytes
    end: int
    """Where in the input the next request begins."""


def recognise(data: bytes) -> PlainRequest | None:
    """The request that `data` begins with, if it is plain and all of it is there."""
    head = _HEAD.match(data)
    if head is None or head.end() > MAX_HEAD:
        return None
    headers: RawHeaders = []
    hosts = 0
    length = -1
    for line in head[3][:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length >= 0 or not _LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif name in _NOT_PLAIN or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        headers.append((name, value))
    end = head.end() + max(length, 0)
    if hosts != 1 or end > len(data):
        return None
    method, target = head[1].decode("ascii"), head[2]
    return PlainRequest(method, target, headers, data[head.end() : end], end)
