"""The PAYLOAD argument of `tqe submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from task_queue_engine.codec import decode_json
from task_queue_engine.errors import InvalidTask

_LOOKS_LIKE_JSON = ("{", "[", '"')


def read_payload(text: str, stdin: BinaryIO) -> Any:
    """JSON; `@FILE` and `-` (stdin) hold JSON; any other word stands for itself, as a string.

    What begins like an object, an array or a string has to be one: a slip in it must not turn it
    into text.

    Raises:
        InvalidTask: not JSON, or the file cannot be read.
    """
    if text == "-":
        return decode_json(stdin.read(), field="payload (from stdin)")
    if text.startswith("@"):
        return _read_file(text[1:])
    try:
        return decode_json(_encode(text), field="payload")
    except InvalidTask:
        if text.startswith(_LOOKS_LIKE_JSON):
            raise
        return text


def _read_file(name: str) -> Any:
    try:
        data = Path(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InvalidTask(f"cannot read the file {name!r}: {reason}", field="payload") from None
    return decode_json(data, field=f"payload (from {name})")


def _encode(text: str) -> bytes:
    # Arguments that are not UTF-8 come as lone surrogates (PEP 383).
    return text.encode("utf-8", "surrogateescape")
