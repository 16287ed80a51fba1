"""Exceptions on their way from a worker process to the engine.

The engine needs the exception itself: `Retry.delay`, and the class that rules in `on_error` name.
Pickle alone does not do: exceptions hold locks and sockets, and many (Retry among them) cannot be
called again with their `args`. So an exception travels as its description, which always arrives;
as a pickle where one survives the round trip; and else as its class and what of its state pickles.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import msgspec

from task_queue_engine.execution.failures import RemoteTraceback, describe_error, message_of
from task_queue_engine.task import TaskError

# Bytes of pickled exception; what is larger travels without its state.
_MAX_STATE = 64 * 1024


class RemoteError(msgspec.Struct, frozen=True, kw_only=True):
    """An exception in transit."""

    described: TaskError
    classes: list[tuple[str, str]]
    """(module, qualname) of its class and its bases, up to Exception."""
    pickled: bytes | None = None
    """The exception, where unpickling gives back what was pickled."""
    state: bytes | None = None
    """Pickled (args, attributes) otherwise."""


def pack(error: Exception) -> RemoteError:
    """In the worker process. Never raises, whatever the exception is made of."""
    pickled = _pickle_faithfully(error)
    return RemoteError(
        described=describe_error(error),
        classes=[
            (_spell(cls.__module__), cls.__qualname__)
            for cls in type(error).__mro__
            if issubclass(cls, Exception)
        ],
        pickled=pickled,
        state=_pickle_state(error) if pickled is None else None,
    )


def unpack(remote: RemoteError) -> Exception:
    """In the engine: the exception, with a RemoteTraceback as its cause.

    Its class is the nearest one of its bases that the engine has loaded. Nothing is imported: a
    class that is not imported here cannot be named by any rule, and an import would block.
    """
    error = _rebuild(remote)
    error.__cause__ = RemoteTraceback(remote.described)
    return error


def _rebuild(remote: RemoteError) -> Exception:
    classes = [_find_class(module, qualname) for module, qualname in remote.classes]
    if classes and classes[0] is not None and remote.pickled is not None:
        try:
            error = _LoadedOnly(io.BytesIO(remote.pickled)).load()
        except BaseException:  # noqa: BLE001, S110 - unpickling runs the exception's own code
            pass
        else:
            if type(error) is classes[0]:
                return error

    message = remote.described.message
    args, attributes = _load_state(remote.state) if remote.state else ((message,), {})
    for cls in classes:
        if cls is None:
            continue
        for arguments in (args, (message,)):
            try:
                # Not cls(*args): what __init__ takes is not what BaseException keeps as `args`.
                error = cls.__new__(cls, *arguments)
                vars(error).update(attributes if cls is classes[0] else {})
            except BaseException:  # noqa: BLE001, S112 - the class's own __new__ may raise anything
                continue
            if isinstance(error, Exception):
                return error
    return Exception(message)


def _pickle_faithfully(error: Exception) -> bytes | None:
    try:
        pickled = pickle.dumps(error)
        if len(pickled) > _MAX_STATE:
            return None
        copy = pickle.loads(pickled)  # noqa: S301 - made one line above
        same = type(copy) is type(error) and repr(copy.args) == repr(error.args)
    except BaseException:  # noqa: BLE001 - pickling runs the exception's own code
        return None
    return pickled if same else None


def _pickle_state(error: Exception) -> bytes | None:
    args = error.args if _pickles(error.args) else (message_of(error),)
    attributes = {name: value for name, value in vars(error).items() if _pickles(value)}
    pickled = pickle.dumps((args, attributes))
    return pickled if len(pickled) <= _MAX_STATE else None


def _pickles(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - made by the same expression
    except BaseException:  # noqa: BLE001 - pickling runs the value's own code
        return False
    return True


def _load_state(state: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        args, attributes = _LoadedOnly(io.BytesIO(state)).load()
    except BaseException:  # noqa: BLE001 - unpickling runs the values' own code
        return (), {}
    return args, attributes


class _LoadedOnly(pickle.Unpickler):
    """Finds classes only in modules that are loaded. This keeps imports off the trio loop; it is
    no protection from a hostile pickle, and none is needed: both ends run the same handlers."""

    def find_class(self, module: str, name: str) -> Any:
        module = _spell(module)
        if module not in sys.modules:
            raise pickle.UnpicklingError(f"{module} is not loaded here")
        return super().find_class(module, name)


def _find_class(module: str, qualname: str) -> type[Exception] | None:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _spell(module: str) -> str:
    """A worker process loads the program's main file under another name, as multiprocessing's
    spawn does."""
    return "__main__" if module == "__mp_main__" else module
