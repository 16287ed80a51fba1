"""How many columns of a terminal a text takes: some characters take two, some none."""

from __future__ import annotations

import unicodedata

_NONE = frozenset({"Mn", "Me"})  # accents that lie on the character before
_TWO = frozenset({"W", "F"})  # of Unicode's East Asian Width: ideographs, most emoji


def width_of(text: str) -> int:
    """Of a text that is printable (`output.printable`)."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def clip(text: str, width: int) -> str:
    """As much of it as fits into so many columns."""
    if text.isascii():
        return text[: max(0, width)]
    taken = 0
    for number, char in enumerate(text):
        taken += _cells(char)
        if taken > width:
            return text[:number]
    return text


def _cells(char: str) -> int:
    if unicodedata.category(char) in _NONE:
        return 0
    return 2 if unicodedata.east_asian_width(char) in _TWO else 1
