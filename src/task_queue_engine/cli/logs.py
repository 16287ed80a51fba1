"""Log lines on stderr: text for the operator, JSON lines for log collectors."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from task_queue_engine.engine.loggers import NAME

# Too talkative at INFO: httpx writes a line for every request.
_LIBRARIES = ("asyncio", "boto3", "botocore", "httpcore", "httpx", "hypercorn", "quart", "urllib3")

_PREFIX = "task_queue_engine."

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "source",
    "taskName",
}


class TextFormatter(logging.Formatter):
    """`2030-01-01T12:00:00.123Z INFO    poller: ...`; with the process's name before `poller` where
    several write to one log."""

    def __init__(self, process: str | None = None) -> None:
        name = "" if process is None else f"{process} "
        super().__init__(f"%(asctime)s %(levelname)-7s {name}%(source)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's own name
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def format(self, record: logging.LogRecord) -> str:
        record.source = record.name.removeprefix(_PREFIX)
        return super().format(record)


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
            "message": record.getMessage(),
        }
        if self._process is not None:
            line["process"] = self._process
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # that of a worker process
            line["exception"] = record.exc_text
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return msgspec.json.encode(line, enc_hook=str).decode()


def set_up_logging(
    level: str, log_format: Literal["text", "json"], *, process: str | None = None
) -> None:
    """Send everything at or above `level` to stderr. Doing it again replaces what was set up.

    An application's logging configuration rules its own loggers, and those of libraries; the
    engine's go on as they are set up here, unless it names them ("task_queue_engine").

    Args:
        process: this one's name in each line, where others write to the same place.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if log_format == "json" else TextFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # The engine's own lines come here whatever an application does with the root logger: it may
    # replace its handlers when its module is imported.
    engine = logging.getLogger(NAME)
    engine.setLevel(level)
    engine.handlers[:] = [handler]
    engine.propagate = False
    for name in _LIBRARIES:
        quiet = max(logging.WARNING, logging.getLevelNamesMapping()[level])
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else quiet)
    # At DEBUG it writes down what the services answer that hand out credentials.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def writes_json() -> bool:
    """Whether stderr is for a log collector, which wants nothing but JSON lines."""
    handlers = logging.getLogger(NAME).handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)
