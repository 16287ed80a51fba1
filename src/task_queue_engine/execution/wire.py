"""What the engine and a worker process say to each other: JSON behind a length, on one socket.

engine                worker process
  |  <-- WorkerReady ---  |
  |  ------ Job ------->  |
  |  <- ProgressReported  |   any number of these two
  |  <------ Logged -----  |
  |  <---- Returned ----  |   or Raised; then the next Job
"""

from __future__ import annotations

import logging
import struct

import msgspec

from task_queue_engine.execution.locating import HandlerPath
from task_queue_engine.execution.log_format import StderrLook
from task_queue_engine.execution.remote_errors import RemoteError
from task_queue_engine.task import Task
from task_queue_engine.trace_context import TraceContext


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One handler call. The payload is converted to its annotation in the worker process."""

    handler: HandlerPath
    task: Task
    max_result_bytes: int
    waited: float = 0.0
    """Seconds that the task waited for this process."""
    log_level: int = logging.WARNING
    """Of the engine's root logger: what is below it need not be sent."""
    log_levels: dict[str, int] = {}
    """Of those of its loggers that have one of their own."""
    log_look: StderrLook | None = None
    """Of what cannot be sent; None: as Python does."""
    keeps_lines: bool = False
    """What is logged is kept with the attempt: it is sent though no handler of the engine's is to
    show it."""
    capture_warnings: bool = False
    """Warnings go to the log, as in the engine."""
    trace_context: TraceContext | None = None
    """Of the attempt's span, where the engine traces."""
    measure_memory: bool = False
    """Say in the reply how much this process holds."""


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker process has started and takes a Job."""


class ProgressReported(msgspec.Struct, frozen=True, tag="progressed"):
    value: msgspec.Raw


class Logged(msgspec.Struct, frozen=True, tag="logged", kw_only=True):
    """What the handler, or a library of its, has logged."""

    level: int
    logger: str
    created: float
    """Seconds since 1970, as logging has it."""
    message: str
    exception: str | None
    """The text of its traceback."""
    extra: msgspec.Raw
    """A JSON object: what the line was given as `extra`, and which attempt it is of."""
    is_shown: bool = False
    """The worker process has shown it by handlers of its own: it is only to be kept."""


class Returned(msgspec.Struct, tag="returned"):
    """The handler returned; `result` is JSON within the size limit."""

    result: msgspec.Raw
    memory: int | None = None
    """Bytes that the process holds, where that was asked for."""


class Raised(msgspec.Struct, tag="raised"):
    """The handler raised, or its result was refused."""

    error: RemoteError
    memory: int | None = None
    """As in Returned."""


Reply = ProgressReported | Logged | Returned | Raised

_HEADER = struct.Struct("!I")

_reply_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)

encode = msgspec.json.Encoder().encode
decode_job = msgspec.json.Decoder(Job).decode
decode_ready = msgspec.json.Decoder(WorkerReady).decode
decode_reply = _reply_decoder.decode


def frame(body: bytes) -> bytes:
    return _HEADER.pack(len(body)) + body


class FrameBuffer:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        """The next complete frame's body; None when more data is needed."""
        if len(self._data) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._data)
        end = _HEADER.size + length
        if len(self._data) < end:
            return None
        body = bytes(self._data[_HEADER.size : end])
        del self._data[:end]
        return body
