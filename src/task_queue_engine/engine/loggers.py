"""The engine's loggers, kept from what an application's logging can do to the engine.

A handler of the application's may raise: out of a line that an actor logs, that would be a defect
of the actor. And `logging.config.dictConfig` disables, unless it is told not to, every logger that
it does not name, so that an engine in trouble would say nothing. Levels, filters and handlers work
as ever; to silence the engine set the level of the logger `task_queue_engine`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

NAME = "task_queue_engine"


class _EngineLogger(logging.Logger):
    @property
    def disabled(self) -> bool:
        """An attribute of logging's own, which dictConfig sets."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def handle(self, record: logging.LogRecord) -> None:
        try:
            super().handle(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a filter or handler of the application's
            _say(f"a logging handler raised {type(error).__name__} at this line: {record.msg!r}")


def protect_loggers() -> None:
    """For the loggers there are; call it again when modules may have brought more."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        ours = name == NAME or name.startswith(NAME + ".")
        if ours and isinstance(logger, logging.Logger) and not isinstance(logger, _EngineLogger):
            own: type[Any] = type(logger)  # the application may have a logger class of its own
            if own is logging.Logger:
                logger.__class__ = _EngineLogger
            else:
                logger.__class__ = type("_EngineLogger", (_EngineLogger, own), {})


def _say(line: str) -> None:
    try:
        sys.stderr.write(f"task_queue_engine: {line}\n")
    except Exception:  # noqa: BLE001 - there is no place left to say it
        return
