"""What handlers hand out, results and progress, made fit to be stored or refused clearly."""

from __future__ import annotations

from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from task_queue_engine.codec import decode_json, encode_json
from task_queue_engine.errors import InvalidTask, PayloadTooLarge, ResultNotStorable
from task_queue_engine.foreign import contained
from task_queue_engine.payloads import Conversion, make_converter, to_json_types


def encode_result(value: Any, limit: int, conversion: Conversion | None = None) -> bytes:
    """The JSON of what a handler returned, at most `limit` bytes.

    Args:
        conversion: of the handler's return annotation. What goes through it comes back as it is;
            what was returned in spite of it is written by the rules of its own class.

    Raises:
        ResultNotStorable: it is not JSON (naming the member), or too large, or turning it into JSON
            ran code that raised.
    """
    return _pack(value, limit, conversion)[1]


def storable_result(value: Any, limit: int, conversion: Conversion | None = None) -> Any:
    """The same as builtins: exactly what will be read back, and a copy that no handler holds."""
    return None if value is None else _pack(value, limit, conversion)[0]


def _pack(value: Any, limit: int, conversion: Conversion | None) -> tuple[Any, bytes]:
    try:
        data, encoded = _pack_announced(value, conversion or _UNANNOUNCED)
    except InvalidTask as error:
        raise ResultNotStorable(_unfinished(value) or str(error)) from None
    if len(encoded) > limit:
        raise ResultNotStorable(
            f"result: is {len(encoded)} bytes of JSON, the limit is {limit} (TQE_MAX_RESULT_BYTES)"
        )
    return data, encoded


def _unfinished(value: Any) -> str | None:
    """What is wrong with a value that is no result but has yet to run."""
    kind = type(value)  # not `__class__`, which may be the value's own code
    if issubclass(kind, CoroutineType):
        value.close()  # or Python warns that it was never awaited
        return "result: the handler returned a coroutine; write it as `async def`, or await it"
    if issubclass(kind, GeneratorType):
        return "result: the handler returned a generator: none of it has run; return a list"
    if issubclass(kind, AsyncGeneratorType | Awaitable):
        return f"result: the handler returned {kind.__name__!r}, which has yet to run; await it"
    return None


_UNANNOUNCED = make_converter(Any, field="result")


def _pack_announced(value: Any, conversion: Conversion) -> tuple[Any, bytes]:
    try:
        return conversion.pack(value)
    except InvalidTask:
        # Not what was announced, or not to be told from it; what the handler returned counts.
        with contained("writing it as JSON", field="result"):
            encoded = encode_json(to_json_types(value, field="result"), field="result")
        return decode_json(encoded, field="result"), encoded


def encode_progress(value: Any, limit: int) -> bytes:
    """The JSON of a progress value, at most `limit` bytes. Raises InvalidTask."""
    with contained("writing it as JSON", field="progress"):
        encoded = encode_json(to_json_types(value, field="progress"), field="progress")
    if len(encoded) > limit:
        raise PayloadTooLarge(len(encoded), limit, field="progress")
    return encoded


def storable_progress(value: Any, limit: int) -> Any:
    """The same as builtins."""
    return decode_json(encode_progress(value, limit), field="progress")
