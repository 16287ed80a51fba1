"""Log records of worker processes, in the engine's own log.

A worker process has no idea where the log goes and how it looks. It sends what its handlers log to
the engine, over the socket that brings the task: level, logger, message, the task's id. There it
passes through the engine's loggers as if it had been logged there. What is logged outside of a task
is left to Python's own last resort, stderr: nothing reads the socket then.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any

import msgspec

from task_queue_engine.execution import wire
from task_queue_engine.execution.failures import keep_end, keep_start, storable

MAX_TEXT = 16 * 1024
"""Bytes of a message kept, of an exception's text, and of the JSON of what came as `extra`."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EngineSocket:
    """In the worker process: sends whole frames, from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        # A forked copy must not keep the socket open when this process dies, nor write into it.
        os.register_at_fork(after_in_child=self._let_go)

    def send(self, message: Any) -> None:
        """Raises OSError when the engine is gone."""
        with self._lock:
            self._connection.sendall(wire.frame(wire.encode(message)))

    def _let_go(self) -> None:
        self._lock = threading.Lock()
        self._connection.close()


class ToEngine(logging.Handler):
    """In the worker process, on the root logger."""

    def __init__(self, engine: EngineSocket) -> None:
        super().__init__()
        self._engine = engine
        self.task_id: str | None = None
        """Of the task that runs; None between tasks."""

    def start(self, job: wire.Job) -> None:
        self.task_id = job.task.id
        if logging.root.level != job.log_level and self in logging.root.handlers:
            logging.root.setLevel(job.log_level)
        logging.captureWarnings(job.capture_warnings)

    def end(self) -> None:
        self.task_id = None

    def emit(self, record: logging.LogRecord) -> None:
        task_id = self.task_id
        try:
            if task_id is None:
                raise BrokenPipeError
            self._engine.send(_as_message(record, task_id))
        except OSError:  # between tasks, or in a forked copy of this process
            last = logging.lastResort
            if last is not None and record.levelno >= last.level:
                last.handle(record)
        except Exception:  # noqa: BLE001 - as all handlers of the standard library do
            self.handleError(record)


def _as_message(record: logging.LogRecord, task_id: str) -> wire.Logged:
    exception = record.exc_text
    if exception is None and record.exc_info:
        exception = logging.Formatter().formatException(record.exc_info)
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    encoded = msgspec.json.encode({"task_id": task_id} | extra, enc_hook=str)
    if len(encoded) > MAX_TEXT:
        encoded = msgspec.json.encode({"task_id": task_id})
    return wire.Logged(
        level=record.levelno,
        logger=record.name,
        created=record.created,
        message=keep_start(storable(record.getMessage()), MAX_TEXT),
        exception=None if exception is None else keep_end(storable(exception), MAX_TEXT),
        extra=msgspec.Raw(encoded),
    )


def replay(logged: wire.Logged) -> None:
    """In the engine: through the logger of that name, or the nearest above it that there is here
    (a name for every task must not pile up loggers)."""
    logger = _logger(logged.logger)
    if not logger.isEnabledFor(logged.level):
        return
    record = logging.makeLogRecord(
        msgspec.json.decode(logged.extra)
        | {
            "name": logged.logger,
            "levelno": logged.level,
            "levelname": logging.getLevelName(logged.level),
            "msg": logged.message,
            "created": logged.created,
            "exc_text": logged.exception,
        }
    )
    try:
        logger.handle(record)
    except Exception:  # noqa: BLE001 - the host's logging handlers may do anything
        return


def _logger(name: str) -> logging.Logger:
    known = logging.root.manager.loggerDict
    while name:
        found = known.get(name)
        if isinstance(found, logging.Logger):
            return found
        name = name.rpartition(".")[0]
    return logging.root


def captures_warnings() -> bool:
    """Whether this program sends warnings to its log (`logging.captureWarnings`)."""
    return getattr(logging, "_warnings_showwarning", None) is not None
