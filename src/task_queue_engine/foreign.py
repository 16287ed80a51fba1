"""Calls into code that is not the engine's: validators, serializers, methods of payload objects."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from task_queue_engine.errors import InvalidTask, PayloadCheckFailed

_log = logging.getLogger("task_queue_engine.payloads")


@contextmanager
def contained(doing: str, *, field: str) -> Iterator[None]:
    """Whatever a payload's own code raises in this block is an InvalidTask, and the log has its
    traceback: it refuses the one submission and ends nothing else.

    SystemExit and its like count too; a KeyboardInterrupt cannot be told from a real Ctrl-C and is
    let through. What was raised is named by its type alone, its text may hold a secret.

    Raises:
        InvalidTask: naming `field`; PayloadCheckFailed for all but one.
    """
    try:
        yield
    except (InvalidTask, KeyboardInterrupt):
        raise
    except RecursionError:
        raise InvalidTask(f"{doing} is nested too deeply", field=field) from None
    except BaseException as error:  # noqa: BLE001 - foreign code: SystemExit must not end the engine
        name = type(error).__name__
        _log.warning("%s: %s raised %s", field, doing, name, exc_info=error)
        raise PayloadCheckFailed(f"{doing} raised {name}", field=field) from None


def shown(value: object, longest: int = 100) -> str:
    """`repr(value)` for a message, cut off; the name of its type where it has no usable one."""
    try:
        text = repr(value)
        text.encode()
    except Exception:  # noqa: BLE001 - a foreign __repr__, or an integer too long to be written
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}..."
