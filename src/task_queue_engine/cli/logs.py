"""Log lines on stderr: text for the operator, JSON lines for log collectors."""

from __future__ import annotations

import logging
import sys

from task_queue_engine.engine.loggers import NAME
from task_queue_engine.execution.log_format import (
    JsonFormatter,
    LogFormat,
    StderrLook,
    set_stderr_look,
)

# Too talkative at INFO: httpx writes a line for every request.
_LIBRARIES = ("asyncio", "boto3", "botocore", "httpcore", "httpx", "hypercorn", "quart", "urllib3")


def set_up_logging(level: str, log_format: LogFormat, *, process: str | None = None) -> None:
    """Send everything at or above `level` to stderr. Doing it again replaces what was set up.

    An application's logging configuration rules its own loggers, and those of libraries; the
    engine's go on as they are set up here, unless it names them ("task_queue_engine").

    Args:
        process: this one's name in each line, where others write to the same place.
    """
    handler = logging.StreamHandler(sys.stderr)
    look = StderrLook(log_format, process)
    look.dress(handler)
    set_stderr_look(look)
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
