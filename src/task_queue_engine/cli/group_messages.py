"""What the supervising process and the processes of its group say to each other: a JSON object a
line, on one socket for each of them (`process_group.py`, `membership.py`).

member                supervisor
  |  ------ Ready ------>  |   once it serves
  |  <----- Order -------  |   a shutdown; a second one means now
  |  ------- Ask ------->  |   a client wants /metrics or /ready, which are of all
  |  <---- Question -----  |   to each of the others,
  |  ------ Answer ----->  |   which answers for itself
  |  <------ Whole ------  |   and back to the one that asked
  |  ------ Refused ---->  |   why it ends, in the line a user is to see
"""

from __future__ import annotations

from typing import Literal

import msgspec

NOTHING = msgspec.Raw(b"null")

What = Literal["metrics", "ready"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How one process is: its part of /ready."""

    ready: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    abandoned_threads: int = 0
    stopping: bool = False


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """It has started and takes work."""

    metrics: msgspec.Raw = NOTHING


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    line: str


class Ask(msgspec.Struct, frozen=True, tag="ask", kw_only=True):
    id: int
    what: What
    own: msgspec.Raw = NOTHING
    """The numbers of the one that asks (`MetricsView`), for when it has ended."""


class Answer(msgspec.Struct, frozen=True, tag="answer", kw_only=True):
    id: int
    value: msgspec.Raw
    """A MetricsView or a State; NOTHING while it starts or ends."""


FromMember = Ready | Refused | Ask | Answer


class Order(msgspec.Struct, frozen=True, tag="order"):
    """Stop; at once, if `now`."""

    now: bool = False


class Question(msgspec.Struct, frozen=True, tag="question", kw_only=True):
    id: int
    what: What


class Whole(msgspec.Struct, frozen=True, tag="whole", kw_only=True):
    """The answer to an Ask."""

    id: int = 0
    values: tuple[tuple[int, msgspec.Raw], ...] = ()
    """Of the other processes, by their numbers: a MetricsView or a State each. Number 0 is what
    processes that have ended have counted."""
    silent: tuple[tuple[int, str], ...] = ()
    """Processes that gave no value, and why."""
    restarts: int = 0
    """Processes that were started in place of one that had ended."""


FromSupervisor = Order | Question | Whole

_from_member: msgspec.json.Decoder[FromMember] = msgspec.json.Decoder(FromMember)
_from_supervisor: msgspec.json.Decoder[FromSupervisor] = msgspec.json.Decoder(FromSupervisor)

decode_from_member = _from_member.decode
decode_from_supervisor = _from_supervisor.decode
_encode = msgspec.json.Encoder().encode


def encode(message: FromMember | FromSupervisor) -> bytes:
    return _encode(message) + b"\n"


class Lines:
    """Cuts a stream of bytes into lines: JSON has no line break of its own in it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines
