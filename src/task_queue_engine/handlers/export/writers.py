"""CSV, JSON and JSON Lines, a row at a time."""

from __future__ import annotations

import base64
import csv
import math
import re
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from task_queue_engine.handlers.export.payload import (
    Delimiter,
    ExportFormat,
    first_duplicate,
)
from task_queue_engine.retry import Discard

# What spreadsheets take for the beginning of a formula (OWASP, "CSV Injection"), with the
# full-width forms that some of them fold into it.
_SIGNS = "=+@\uff1d\uff0b\uff0d\uff20-"
_CONTROLS = ("\t", "\r", "\n", "\0")

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

_encode = msgspec.json.Encoder().encode


class Sink(Protocol):
    def write(self, data: bytes, /) -> None: ...


class RowWriter(Protocol):
    """`begin` once, `write` per row, `end` once: then the sink has a whole document."""

    def begin(self) -> None: ...

    def write(self, row: Sequence[Any]) -> None: ...

    def end(self) -> None: ...


def make_writer(
    form: ExportFormat, sink: Sink, columns: tuple[str, ...], *, delimiter: Delimiter
) -> RowWriter:
    """Raises Discard where JSON objects would lose a column to another of the same name."""
    if form == "csv":
        return CsvWriter(sink, columns, delimiter)
    if (twice := first_duplicate(list(columns))) is not None:
        raise Discard(f"two columns are named {twice!r}: rename one with AS")
    return JsonWriter(sink, columns) if form == "json" else JsonLinesWriter(sink, columns)


class CsvWriter:
    """RFC 4180: a header row, CRLF, UTF-8.

    Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers stay
    numbers. Null is empty, and so are NaN and the infinities; blobs are base64; arrays and objects
    are JSON.

    A spreadsheet whose language separates by another character than `delimiter` tears the cells
    apart, quotes or no quotes, and lines with them: what would then begin a cell is treated alike.
    Inside JSON it is written as an escape, which means the same.
    """

    def __init__(self, sink: Sink, columns: tuple[str, ...], delimiter: Delimiter = ",") -> None:
        self._columns = columns
        self._writer = csv.writer(_Utf8(sink), delimiter=delimiter, lineterminator="\r\n")
        others = "".join({",", ";", "\t"} - {delimiter})
        self._torn = re.compile(rf'(^|[{others}\r\n])("*)(?=[{_SIGNS}])')
        # A comma may also stand before a string, where the commas of JSON itself are.
        before = f'^"|[{others}]' if "," in others else f"[{others}]"
        self._torn_json = re.compile(rf'({before})((?:\\")*)([{_SIGNS}])')

    def begin(self) -> None:
        if self._columns:
            self._writer.writerow([self._text(name) for name in self._columns])

    def write(self, row: Sequence[Any]) -> None:
        self._writer.writerow([self._cell(value) for value in row])

    def end(self) -> None:
        pass

    def _cell(self, value: Any) -> str | int | float:
        match value:
            case None:
                return ""
            case bool():
                return "true" if value else "false"
            case int():
                return value
            case float():
                return value if math.isfinite(value) else ""
            case bytes():
                return self._text(base64.b64encode(value).decode("ascii"))
            case str():
                return self._text(value)
            case _:
                return _JSON_STRING.sub(self._json_string, _encode(value).decode())

    def _text(self, text: str) -> str:
        """As a spreadsheet shows it and does not run it."""
        whole = self._torn.sub(r"\1'\2", text)
        return f"'{whole}" if whole.startswith(_CONTROLS) else whole

    def _json_string(self, string: re.Match[str]) -> str:
        return self._torn_json.sub(
            lambda found: f"{found[1]}{found[2]}\\u{ord(found[3]):04x}", string[0]
        )


class JsonLinesWriter:
    """One JSON object a line. Blobs are base64; NaN and the infinities, which JSON does not have,
    are null.
    """

    def __init__(self, sink: Sink, columns: tuple[str, ...]) -> None:
        self._sink = sink
        self._columns = columns

    def begin(self) -> None:
        pass

    def write(self, row: Sequence[Any]) -> None:
        self._sink.write(self.encode(row) + b"\n")

    def end(self) -> None:
        pass

    def encode(self, row: Sequence[Any]) -> bytes:
        # msgspec writes bytes as base64 and NaN as null.
        return _encode(dict(zip(self._columns, row, strict=True)))


class JsonWriter(JsonLinesWriter):
    """One JSON array, an object a line."""

    def __init__(self, sink: Sink, columns: tuple[str, ...]) -> None:
        super().__init__(sink, columns)
        self._separator = b"[\n"

    def write(self, row: Sequence[Any]) -> None:
        self._sink.write(self._separator + self.encode(row))
        self._separator = b",\n"

    def end(self) -> None:
        self._sink.write(b"[]\n" if self._separator == b"[\n" else b"\n]\n")


class _Utf8:
    """What csv.writer writes to."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, text: str, /) -> None:
        self._sink.write(text.encode())
