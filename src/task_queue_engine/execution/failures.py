"""From the exception an attempt raised to the TaskError that is stored."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from task_queue_engine.errors import TaskQueueError
from task_queue_engine.task import TaskError

MAX_TRACEBACK = 8 * 1024
"""Bytes of traceback text kept: the end, where the error is."""

MAX_MESSAGE = 2 * 1024
"""Bytes of an error's message kept: the beginning."""

# Characters of a message that are looked at, of whatever size: far more than is kept of any.
_LONGEST_TEXT = 64 * 1024

_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_HANDLERS = _PACKAGE + "handlers" + os.sep


class RemoteTraceback(Exception):
    """Set as the cause of an exception that came from a worker process: what was seen there."""

    def __init__(self, described: TaskError) -> None:
        super().__init__(described)
        self.described = described

    def __str__(self) -> str:
        return f"in the worker process:\n{self.described.traceback or self.described.message}"


def describe_error(error: BaseException, *, max_traceback: int = MAX_TRACEBACK) -> TaskError:
    """What to store about `error`; never raises, whatever the exception is made of.

    Args:
        error: causes, contexts, notes and the members of exception groups are included. For an
            exception from a worker process the description made there is returned.
        max_traceback: bytes of traceback text to keep.

    Returns:
        Type (qualified, builtins by their bare name), message, and the traceback without the
        engine's own frames above the handler; None where nothing but the error itself is left.
        NUL and lone surrogates are spelled out, since neither is storable.
    """
    try:
        return _describe(error, max_traceback)
    # An exception's class can override all that is asked of it, down to `__cause__`, and raise
    # SystemExit from there.
    except BaseException as broken:  # noqa: BLE001
        return TaskError(
            type=storable(type.__dict__["__qualname__"].__get__(type(error))),
            message=f"<it cannot be described: {type(broken).__name__}>",
            traceback=None,
        )


def _describe(error: BaseException, max_traceback: int) -> TaskError:
    if isinstance(error.__cause__, RemoteTraceback):
        described = error.__cause__.described
        return TaskError(
            type=described.type,
            message=described.message,
            traceback=described.traceback and keep_end(described.traceback, max_traceback),
        )
    return TaskError(
        type=storable(qualified_name(type(error))),
        message=keep_start(storable(message_of(error)), MAX_MESSAGE),
        traceback=_describe_traceback(error, max_traceback),
    )


def qualified_name(cls: type) -> str:
    """As Python's own tracebacks spell a class."""
    module = str(getattr(cls, "__module__", "?"))
    if module in ("builtins", "__main__"):
        return cls.__qualname__
    if module == "__mp_main__":  # the program's main file, loaded in a worker process
        return cls.__qualname__
    return f"{module}.{cls.__qualname__}"


def message_of(error: BaseException) -> str:
    """`str(error)`, also where that raises."""
    try:
        # Sliced as a str: a subclass of it may do anything. More than is kept of any message.
        return str.__getitem__(str(error), slice(_LONGEST_TEXT))
    except BaseException as broken:  # noqa: BLE001 - handlers bring exceptions with any __str__
        return f"<its __str__ raised {type(broken).__name__}>"


def unwrap_single(error: BaseException) -> BaseException:
    """The exception inside a group that holds just this one.

    A trio nursery wraps whatever is raised in it into a group. Unwrapped, a Retry or an error
    with a rule of its own in `on_error` means the same whether the handler used a nursery or not.
    Subclasses of the groups are the handler's own and stay.
    """
    while (
        isinstance(error, BaseExceptionGroup)
        and type(error) in (ExceptionGroup, BaseExceptionGroup)
        and len(error.exceptions) == 1
    ):
        error = error.exceptions[0]
    return error


def _describe_traceback(error: BaseException, limit: int) -> str | None:
    try:
        seen = traceback.TracebackException.from_exception(error, compact=True)
        for part, raised in _parts(seen, error):
            _drop_own_frames(part, raised)
        alone = not (seen.stack or seen.__cause__ or seen.__context__ or seen.exceptions)
        if alone and not getattr(error, "__notes__", None):
            return None
        # A single message of many kilobytes must not push out the frames above it.
        text = "".join(keep_start(storable(chunk), MAX_MESSAGE) for chunk in seen.format())
    except BaseException as broken:  # noqa: BLE001 - all a traceback is made of can be overridden
        return f"<its traceback could not be formatted: {type(broken).__name__}>"
    return keep_end(text, limit)


def _parts(
    seen: traceback.TracebackException, error: BaseException
) -> Iterator[tuple[traceback.TracebackException, BaseException]]:
    """Every formatted exception of the chain with the exception it stands for. The members of a
    group are not among them: they were raised below the handler."""
    stack = [(seen, error)]
    done: set[int] = set()
    while stack:
        part, raised = stack.pop()
        if id(part) in done:
            continue
        done.add(id(part))
        yield part, raised
        if part.__cause__ is not None and raised.__cause__ is not None:
            stack.append((part.__cause__, raised.__cause__))
        if part.__context__ is not None and raised.__context__ is not None:
            stack.append((part.__context__, raised.__context__))


def _drop_own_frames(part: traceback.TracebackException, raised: BaseException) -> None:
    """Cut the engine's frames off the top, up to the first that is the handler's."""
    ours = _own_folders()
    frames = list(part.stack)
    for index, frame in enumerate(frames):
        if frame.filename.startswith(_HANDLERS) or not frame.filename.startswith(ours):
            part.stack = traceback.StackSummary.from_list(frames[index:])
            return
    if isinstance(raised, TaskQueueError):
        part.stack = traceback.StackSummary.from_list([])
    # Else all frames are the engine's and so is the defect: they are what is needed.


def _own_folders() -> tuple[str, ...]:
    """This package, and what it calls handlers through."""
    folders = [_PACKAGE]
    for name in ("trio", "outcome"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            folders.append(str(Path(file).parent) + os.sep)
    return tuple(folders)


def storable(text: str) -> str:
    """Without NUL and lone surrogates, which JSON stores refuse (see `codec`)."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def keep_start(text: str, limit: int) -> str:
    """At most `limit` bytes of the beginning, and how much is missing."""
    data = text.encode()
    if len(data) <= limit:
        return text
    end = f" [... {len(data) - limit} more bytes]"
    return data[:limit].decode(errors="ignore") + end + ("\n" if text.endswith("\n") else "")


def keep_end(text: str, limit: int) -> str:
    """At most `limit` bytes of the end, and how much is missing."""
    data = text.encode()
    if len(data) <= limit:
        return text
    start = f"[{len(data) - limit} bytes and more cut ...]\n"
    kept = max(0, limit - len(start))
    return start + data[len(data) - kept :].decode(errors="ignore")
