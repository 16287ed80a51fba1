"""What a handler raises must not end the engine: what may pass as it is, and what may not.

An Exception always may. Of the others only those may that trio or the interpreter raised: a
cancellation that is under way, a Ctrl-C, the end of a coroutine that is thrown away. A handler can
raise each of them by hand, and SystemExit beside them; then it is a failed attempt like any other.
"""

from __future__ import annotations

import math
import signal
import threading
from types import TracebackType

import trio

from task_queue_engine.errors import HandlerExited
from task_queue_engine.execution.failures import message_of, unwrap_single

_KI = "trio._core._ki"
_TRAPS = "trio._core._traps"


def contain(error: BaseException) -> BaseException:
    """In the trio thread: `error` where it may pass, a HandlerExited in its place where not. In a
    group the two may stand beside each other; a group of one is unwrapped, see `unwrap_single`."""
    if not _is_what_it_says(error):
        return exited(error)
    error = unwrap_single(error)
    if isinstance(error, Exception) or _is_genuine(error):
        return error
    if isinstance(error, BaseExceptionGroup):
        try:
            passing, rest = error.split(_is_genuine)
            if passing is not None:
                if rest is None or isinstance(rest, Exception):
                    return error
                return BaseExceptionGroup(error.message, [passing, exited(unwrap_single(rest))])
        except Exception as broken:  # noqa: BLE001 - a group of the handler's own may not split
            return exited(broken)
    return exited(error)


def needs_asyncio(error: BaseException) -> bool:
    """Whether an async handler failed because something in it is made for asyncio."""
    if type(error).__name__ == "AsyncLibraryNotFoundError":  # sniffio's
        return True
    message = message_of(error)
    if isinstance(error, RuntimeError):
        return message == "no running event loop"
    # What trio throws into a coroutine that awaits another library's future.
    return isinstance(error, TypeError) and "received unrecognized yield message" in message


def exited(error: BaseException) -> HandlerExited:
    """The failed attempt that stands for `error`."""
    replacement = HandlerExited(error)
    replacement.__cause__ = error
    return replacement


def _is_what_it_says(error: BaseException) -> bool:
    """isinstance() asks the exception itself, whose `__class__` may say or raise anything."""
    try:
        return error.__class__ is type(error)
    except BaseException:  # noqa: BLE001 - the handler's own code
        return False


def _is_genuine(error: BaseException) -> bool:
    if isinstance(error, trio.Cancelled):
        # One that a handler has kept and raises where nothing is cancelled would be caught by no
        # scope.
        return trio.current_effective_deadline() == -math.inf
    if isinstance(error, KeyboardInterrupt):
        return _is_ctrl_c(error)
    if isinstance(error, GeneratorExit):
        return _raised_in(error) == _TRAPS  # a suspended coroutine was closed
    return False


def _is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Where it cannot be told from one raised by hand, it counts as real."""
    if threading.current_thread() is not threading.main_thread():
        return False
    module = str(getattr(signal.getsignal(signal.SIGINT), "__module__", None))
    if module == _KI:
        return _raised_in(error) == _KI
    # These two pass the signal on and raise nothing.
    return module != "trio._signals" and not module.startswith("task_queue_engine.")


def _raised_in(error: BaseException) -> str | None:
    """The module of the innermost frame."""
    traceback: TracebackType | None = error.__traceback__
    module = None
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__")
        traceback = traceback.tb_next
    return module
