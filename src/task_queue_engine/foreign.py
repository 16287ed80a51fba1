"""Calls into code that is not the engine's: validators, serializers, methods of payload objects."""

from __future__ import annotations

import logging
from types import TracebackType

from task_queue_engine.errors import InvalidTask, PayloadCheckFailed

_log = logging.getLogger("task_queue_engine.payloads")


class contained:  # noqa: N801  # used as a function, like `contextlib.suppress`
    """Whatever a payload's own code raises in this block is an InvalidTask, and the log has its
    traceback: it refuses the one submission and ends nothing else.

    SystemExit and its like count too; a KeyboardInterrupt cannot be told from a real Ctrl-C and is
    let through. What was raised is named by its type alone, its text may hold a secret.

    (A class, since some are entered for every task: a generator costs five times as much.)

    Raises:
        InvalidTask: naming `field`; PayloadCheckFailed for all but one.
    """

    __slots__ = ("_doing", "_field")

    def __init__(self, doing: str, *, field: str) -> None:
        self._doing = doing
        self._field = field

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, InvalidTask | KeyboardInterrupt):
            return
        if isinstance(error, RecursionError):
            raise InvalidTask(f"{self._doing} is nested too deeply", field=self._field) from None
        name = type(error).__name__
        _log.warning("%s: %s raised %s", self._field, self._doing, name, exc_info=error)
        raise PayloadCheckFailed(f"{self._doing} raised {name}", field=self._field) from None


def shown(value: object, longest: int = 100) -> str:
    """`repr(value)` for a message, cut off; the name of its type where it has no usable one."""
    try:
        text = repr(value)
        text.encode()
    except Exception:  # noqa: BLE001 - a foreign __repr__, or an integer too long to be written
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}..."
