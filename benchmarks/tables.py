"""Plain text: tables on standard output, a line of progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self


def table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1
) -> str:
    """
    Args:
        rows: an empty one is a blank line.
        left: so many of the first columns are aligned to the left, the others to the right.
    """
    widths = [max(map(len, column)) for column in zip(header, *filter(None, rows), strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(["", title, *lines])


class Progress:
    """How far something is, while it goes on; nothing where that is no terminal."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._is_shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_shown:
            print(file=sys.stderr)

    def advance(self, count: int) -> None:
        self._done += count
        if self._is_shown:
            print(f"\r{self._name}: {self._done:,} of {self._total:,}", end="", file=sys.stderr)
