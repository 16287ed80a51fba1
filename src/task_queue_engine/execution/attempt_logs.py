"""What handlers log: which attempt a line belongs to, and the last lines of each.

A context variable says which attempt runs: trio hands it on to the tasks that a handler starts, and
to the thread of a `def` handler. In a worker process, which runs one attempt at a time, all threads
are its own. A thread that a handler starts in the engine's own process belongs to none.

Lines are taken where the standard library makes a record of them, so neither a program's handlers
nor its `dictConfig` come in between, and none of its loggers is changed. Only what a logger's level
lets through becomes a record.

`AttemptLog.add` is the one place that every kept line passes, in the engine's process and while the
attempt runs: from there those who watch have them as they come.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec

from task_queue_engine.attempt_record import LogLine
from task_queue_engine.execution.failures import keep_end, keep_start, storable
from task_queue_engine.task import Task
from task_queue_engine.tracing import active_ids

MAX_LINE = 2 * 1024
"""Bytes of a line kept, as of an error's message; and as many of its traceback."""

MAX_LOG = 32 * 1024
"""Bytes of all lines of an attempt: a hundred of three hundred characters. What twenty attempts can
leave is to fit into an item of DynamoDB, 400 KB, beside a payload."""

# Characters of a message that are looked at: far more than is kept of any.
_LONGEST = 64 * 1024


class AttemptLog(msgspec.Struct, eq=False):
    """The lines of a running attempt."""

    task: Task
    most: int = 0
    """So many lines are kept, the last ones; 0: none."""
    lines: deque[LogLine] | None = None
    seen: int = 0
    on_line: Callable[[Task, LogLine], None] | None = None
    """Called with each line as it comes, in its thread."""

    def add(
        self, created: float, level: str, logger: str, message: str, exception: str | None = None
    ) -> None:
        """From any thread. `created`: seconds since 1970."""
        if not self.most:
            return
        if self.lines is None:
            self.lines = deque(maxlen=self.most)
        text = keep_start(storable(message[:_LONGEST]), MAX_LINE)
        if exception is not None:
            text = f"{text}\n{keep_end(storable(exception), MAX_LINE)}"
        self.seen += 1
        line = LogLine(
            time=datetime.fromtimestamp(created, UTC), level=level, logger=logger, message=text
        )
        self.lines.append(line)
        if self.on_line is not None:
            self.on_line(self.task, line)

    def close(self) -> None:
        """The attempt is over: what its threads say from now on is not kept any more."""
        self.most = 0

    def kept(self) -> tuple[LogLine, ...]:
        """The last ones, `MAX_LOG` bytes at most."""
        left = MAX_LOG
        kept: list[LogLine] = []
        for line in reversed(tuple(self.lines or ())):
            left -= len(line.message.encode()) + len(line.logger)
            if left < 0:
                break
            kept.append(line)
        return tuple(reversed(kept))

    def labels(self) -> dict[str, Any]:
        """What each of its lines says of it."""
        task = self.task
        return {
            "task_id": task.id,
            "task_type": task.type,
            "attempt": task.attempt,
            "queue": task.queue,
        }


running: ContextVar[AttemptLog | None] = ContextVar("task_queue_engine.attempt", default=None)
"""That of the attempt in whose context this is called; set around each handler call."""

_of_process: AttemptLog | None = None


def current() -> AttemptLog | None:
    """Of the attempt that this thread or task works for."""
    return running.get() or _of_process


def set_for_process(log: AttemptLog | None) -> None:
    """In a worker process: all that is logged from now on is of this attempt."""
    global _of_process
    _of_process = log


class AttemptLogFilter(logging.Filter):
    """Puts `task_id`, `task_type`, `attempt` and `queue` on the records that a handler's lines
    become, where they have no attribute of that name; and on all records that are made while a span
    of OpenTelemetry is active, its `trace_id` and `span_id`.

    For a program that embeds an engine: `handler.addFilter(AttemptLogFilter())`, and its formatter
    knows the attributes. `tqe` has it on its own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        log = current()
        if log is not None:
            for name, value in log.labels().items():
                record.__dict__.setdefault(name, value)
        for name, value in active_ids().items():
            record.__dict__.setdefault(name, value)
        return True


# --- taking the lines -----------------------------------------------------------------------

Factory = Callable[..., logging.LogRecord]
Note = Callable[[logging.LogRecord], None]

_lock = threading.Lock()
_users = 0


@contextmanager
def keeping_lines() -> Iterator[None]:
    """Within this, lines of running attempts are added to their `AttemptLog`. Calls may overlap."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            note_records(_keep)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                note_records(None)


class _Factory:
    """Makes records as the factory before it does. Another may have been put before this one
    meanwhile, so it is never taken out of the middle: it has nothing to do then."""

    def __init__(self, make: Factory) -> None:
        self.make = make
        self.note: Note | None = None

    def __call__(self, name: Any, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.make(name, *args, **kwargs)
        # No name: `logging.makeLogRecord`, which fills it in afterwards.
        if self.note is not None and name is not None:
            try:
                self.note(record)
            except RecursionError:
                # As logging itself does. Going on at every level of it would never end.
                raise
            except Exception:  # noqa: BLE001 - of the line's arguments; logging itself says so
                return record
        return record


_factory: _Factory | None = None


def note_records(note: Note | None) -> None:
    """Call this with every record that is made, in whatever thread; None: no more."""
    global _factory
    installed = logging.getLogRecordFactory()
    if note is None:
        if _factory is not None:
            _factory.note = None
            if installed is _factory:
                logging.setLogRecordFactory(_factory.make)
                _factory = None
        return
    if _factory is None:
        _factory = _Factory(installed)
        logging.setLogRecordFactory(_factory)
    _factory.note = note


def _keep(record: logging.LogRecord) -> None:
    log = current()
    if log is not None and log.most:
        log.add(
            record.created,
            record.levelname,
            record.name,
            message_of(record),
            exception_of(record),
        )


def message_of(record: logging.LogRecord) -> str:
    """Its text; where its arguments do not go into it, the text without them, and where that is."""
    try:
        return record.getMessage()
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - of the arguments' own code
        text = record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"
        place = f"{record.filename}:{record.lineno}"
        return f"{text} (not formatted, {type(error).__name__} at {place})"


def exception_of(record: logging.LogRecord) -> str | None:
    """The text of the traceback that it was logged with."""
    if record.exc_text is None and record.exc_info:
        return logging.Formatter().formatException(record.exc_info)
    return record.exc_text


def text_of(value: object) -> str:
    """Of what JSON has no form for."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - of the value's own code
        return f"<{type(value).__name__}: its __str__ raised {type(error).__name__}>"
