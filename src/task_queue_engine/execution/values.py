"""What handlers hand out, results and progress, made fit to be stored or refused clearly."""

from __future__ import annotations

import inspect
from typing import Any

from task_queue_engine.codec import decode_json, encode_json
from task_queue_engine.errors import InvalidTask, PayloadTooLarge, ResultNotStorable
from task_queue_engine.payloads import to_json_types


def encode_result(value: Any, limit: int) -> bytes:
    """The JSON of what a handler returned, at most `limit` bytes.

    Raises:
        ResultNotStorable: it is not JSON (naming the member), or too large.
    """
    try:
        encoded = encode_json(to_json_types(value), field="result")
    except InvalidTask as error:
        if inspect.iscoroutine(value):
            value.close()
            raise ResultNotStorable(
                "result: the handler returned a coroutine; write it as `async def`"
            ) from None
        raise ResultNotStorable(str(error)) from None
    except Exception as error:  # turning objects into JSON may run the user's own serializers
        raise ResultNotStorable(
            f"result: cannot be written as JSON: {type(error).__name__}: {error}"
        ) from error
    if len(encoded) > limit:
        raise ResultNotStorable(
            f"result: is {len(encoded)} bytes of JSON, the limit is {limit} (TQE_MAX_RESULT_BYTES)"
        )
    return encoded


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
