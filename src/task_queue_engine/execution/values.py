"""What handlers hand out, results and progress, made fit to be stored or refused clearly."""

from __future__ import annotations

import inspect
from typing import Any

from task_queue_engine.codec import decode_json, encode_json
from task_queue_engine.errors import InvalidTask, PayloadTooLarge, ResultNotStorable
from task_queue_engine.execution.failures import message_of
from task_queue_engine.payloads import to_json_types


def encode_result(value: Any, limit: int) -> bytes:
    """The JSON of what a handler returned, at most `limit` bytes.

    Raises:
        ResultNotStorable: it is not JSON (naming the member), or too large.
    """
    unfinished = _unfinished(value)
    if unfinished is not None:
        raise ResultNotStorable(f"result: {unfinished}")
    try:
        encoded = encode_json(to_json_types(value), field="result")
    except InvalidTask as error:
        raise ResultNotStorable(str(error)) from None
    # Turning objects into JSON may run the user's own serializers, which may raise anything.
    except (Exception, SystemExit, GeneratorExit) as error:
        raise ResultNotStorable(
            f"result: cannot be written as JSON: {type(error).__name__}: {message_of(error)}"
        ) from error
    if len(encoded) > limit:
        raise ResultNotStorable(
            f"result: is {len(encoded)} bytes of JSON, the limit is {limit} (TQE_MAX_RESULT_BYTES)"
        )
    return encoded


def _unfinished(value: Any) -> str | None:
    """What is wrong with a value that is no result but has yet to run."""
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that it was never awaited
        return "the handler returned a coroutine; write it as `async def`, or await it"
    if inspect.isgenerator(value):
        return "the handler returned a generator: none of it has run; return a list"
    if inspect.isasyncgen(value) or inspect.isawaitable(value):
        return f"the handler returned {_a(type(value).__name__)}, which has yet to run; await it"
    return None


def _a(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def storable_result(value: Any, limit: int) -> Any:
    """The same as builtins: exactly what will be read back, and a copy that no handler holds."""
    return None if value is None else decode_json(encode_result(value, limit), field="result")


def encode_progress(value: Any, limit: int) -> bytes:
    """The JSON of a progress value, at most `limit` bytes. Raises InvalidTask."""
    encoded = encode_json(to_json_types(value), field="progress")
    if len(encoded) > limit:
        raise PayloadTooLarge(len(encoded), limit, field="progress")
    return encoded


def storable_progress(value: Any, limit: int) -> Any:
    """The same as builtins."""
    return decode_json(encode_progress(value, limit), field="progress")
