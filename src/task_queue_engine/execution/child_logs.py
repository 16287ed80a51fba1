"""Log records of worker processes, in the engine's own log.

A worker process has no idea where the log goes and how it looks. It sends what its handlers log to
the engine, over the socket that brings the task: level, logger, message, the attempt. There it
passes through the engine's loggers as if it had been logged there. What is logged outside of a task
goes to stderr: nothing reads the socket then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from typing import Any

import msgspec

from task_queue_engine.execution import wire
from task_queue_engine.execution.attempt_logs import (
    AttemptLog,
    current,
    exception_of,
    message_of,
    note_records,
    set_for_process,
    text_of,
)
from task_queue_engine.execution.failures import keep_end, keep_start, storable
from task_queue_engine.tracing import active_ids

MAX_TEXT = 16 * 1024
"""Bytes of a message kept, of an exception's text, and of the JSON of what came as `extra`."""

_OURS = "task_queue_engine"

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
    """In the worker process, on the root logger.

    What cannot be sent, from a forked copy of this process and between tasks, goes to stderr, and
    looks there like the engine's own lines.
    """

    def __init__(self, engine: EngineSocket) -> None:
        super().__init__()
        self._engine = engine
        self._runs = False
        self._keeps_lines = False
        self._levels: dict[str, int] = {}
        self._last_resort = logging.lastResort
        # For lines that do not come by here, where the handler's module has set up a logging of its
        # own; that still shows them.
        note_records(self._note)

    def start(self, job: wire.Job) -> None:
        set_for_process(AttemptLog(job.task))
        self._runs, self._keeps_lines = True, job.keeps_lines
        if logging.root.level != job.log_level and self in logging.root.handlers:
            logging.root.setLevel(job.log_level)
        # Only what has changed: the handler's module may say otherwise.
        for name, level in job.log_levels.items():
            if self._levels.get(name) != level:
                logging.getLogger(name).setLevel(level)
        self._levels = job.log_levels
        logging.captureWarnings(job.capture_warnings)
        if job.log_look is not None:
            self._last_resort = logging.StreamHandler(sys.stderr)
            job.log_look.dress(self._last_resort)

    def end(self) -> None:
        self._runs = False
        set_for_process(None)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not self._runs:
                raise BrokenPipeError
            self._engine.send(_as_message(record))
        except OSError:  # between tasks, or in a forked copy of this process
            last = self._last_resort
            if last is not None and record.levelno >= last.level:
                last.handle(record)
        except Exception:  # noqa: BLE001 - as all handlers of the standard library do
            self.handleError(record)

    def _note(self, record: logging.LogRecord) -> None:
        if self._runs and self._keeps_lines and not self._is_reached_from(record.name):
            with contextlib.suppress(OSError):
                self._engine.send(_as_message(record, is_shown=True))

    def _is_reached_from(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if self in logger.handlers:
                return True
            logger = logger.parent if logger.propagate else None
        return False


def _as_message(record: logging.LogRecord, *, is_shown: bool = False) -> wire.Logged:
    exception = exception_of(record)
    log = current()
    labels = active_ids() if log is None else log.labels() | active_ids()
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    encoded = msgspec.json.encode(labels | extra, enc_hook=text_of)
    if len(encoded) > MAX_TEXT:
        encoded = msgspec.json.encode(labels)
    return wire.Logged(
        level=record.levelno,
        logger=record.name,
        created=record.created,
        message=keep_start(storable(message_of(record)), MAX_TEXT),
        exception=None if exception is None else keep_end(storable(exception), MAX_TEXT),
        extra=msgspec.Raw(encoded),
        is_shown=is_shown,
    )


def replay(logged: wire.Logged) -> None:
    """In the engine: through the logger of that name, or the nearest above it that there is here
    (a name for every task must not pile up loggers); and keep it with the attempt in whose context
    this is called."""
    logger = _logger(logged.logger)
    if not (logged.is_shown or logger.isEnabledFor(logged.level)):
        return
    level = logging.getLevelName(logged.level)
    log = current()
    if log is not None:
        log.add(logged.created, level, logged.logger, logged.message, logged.exception)
    if logged.is_shown:
        return
    record = logging.makeLogRecord(
        msgspec.json.decode(logged.extra)
        | {
            "name": logged.logger,
            "levelno": logged.level,
            "levelname": level,
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


def own_levels() -> dict[str, int]:
    """Of this program's loggers that have a level of their own, the engine's own left out: in a
    worker process nothing else has heard of them."""
    return {
        name: logger.level
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level and not name.startswith(_OURS)
    }


def captures_warnings() -> bool:
    """Whether this program sends warnings to its log (`logging.captureWarnings`)."""
    return getattr(logging, "_warnings_showwarning", None) is not None
