"""How log lines look on stderr: as text for the operator, as JSON for log collectors.

Here and not with the command line, since a worker process writes some of its lines itself.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from task_queue_engine.execution.attempt_logs import AttemptLogFilter, current, message_of, text_of

LogFormat = Literal["text", "json"]

_PREFIX = "task_queue_engine."

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "source",
    "taskName",
}


class TextFormatter(logging.Formatter):
    """`2030-01-01T12:00:00.123Z INFO    poller: ...`; with the process's name before `poller` where
    several write to one log, and behind the message of a handler's line the attempt that it is
    of."""

    def __init__(self, process: str | None = None) -> None:
        name = "" if process is None else f"{process} "
        super().__init__(f"%(asctime)s %(levelname)-7s {name}%(source)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's own name
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def format(self, record: logging.LogRecord) -> str:
        record.source = record.name.removeprefix(_PREFIX)
        try:
            return super().format(record)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - of the arguments' own code
            shown = logging.makeLogRecord(vars(record))
            shown.msg, shown.args = message_of(record), None
            return super().format(shown)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        log = current()
        if log is None:
            return line
        return line + "".join(f" {name}={value}" for name, value in log.labels().items())


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, exception where there is one, and whatever
    the line was given as `extra`; the process's name where several write to one log."""

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": message_of(record),
        }
        if self._process is not None:
            line["process"] = self._process
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # that of a worker process
            line["exception"] = record.exc_text
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return msgspec.json.encode(line, enc_hook=text_of).decode()


class StderrLook(msgspec.Struct, frozen=True):
    """How this program's own log looks; a worker process is told."""

    log_format: LogFormat
    process: str | None = None

    def dress(self, handler: logging.Handler) -> None:
        """Have the handler's lines look like that, with what they are of."""
        is_json = self.log_format == "json"
        handler.setFormatter((JsonFormatter if is_json else TextFormatter)(self.process))
        handler.addFilter(AttemptLogFilter())


_look: StderrLook | None = None


def set_stderr_look(look: StderrLook) -> None:
    global _look
    _look = look


def stderr_look() -> StderrLook | None:
    """None: the host's logging is none of the engine's."""
    return _look
