"""What stands in place of hidden values, and where texts repeat them: see `redaction.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

from task_queue_engine.task import TaskError

HIDDEN = "[redacted]"
WITHHELD = "[redacted: the task itself says more]"

# Characters of a value that is looked for in texts: shorter ones (a PIN, `true`) are in every text.
_SHORTEST = 4
# Characters of the beginning or the end of a value that are looked for too: errors, tracebacks and
# log lines are cut, and libraries shorten what they repeat ("'sk_live_51Habc...9xyz'"). Shorter
# pieces ("https://", "-----BEGIN") are in texts of their own right.
_PIECE = 16
# Characters of a value that is found by its pieces alone: no pattern is made of all of it.
_LONG = 500


def texts_of(value: Any) -> Iterator[str]:
    """How texts may repeat it."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_of(each)
    elif isinstance(value, str):
        yield from (
            text for text in {spell(value) for spell in _SPELLINGS} if len(text) >= _SHORTEST
        )
    elif value is not None and not isinstance(value, bool) and len(str(value)) >= _SHORTEST:
        yield str(value)


_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: repr(text.encode("utf-8", "replace"))[2:-1],
    lambda text: msgspec.json.encode(text).decode()[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: quote(text, safe=""),
    quote,
    quote_plus,
)
"""As it is; as `repr` and JSON write it, msgspec's and the standard library's; in a URL."""


class Mask:
    """Hides values in texts, in upper and lower case; all of each text where `secrets` is None."""

    def __init__(self, secrets: set[str] | None) -> None:
        self._hides_all = secrets is None
        longest_first = sorted(secrets or (), key=len, reverse=True)
        self._long = [text for text in longest_first if len(text) > _PIECE]
        patterns = [re.escape(text) for text in longest_first if len(text) <= _LONG]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def text(self, text: str) -> str:
        if self._hides_all:
            return WITHHELD
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        for secret in self._long:
            text = _without_pieces(text, secret)
        return text

    def error(self, error: TaskError | None) -> TaskError | None:
        if error is None:
            return None
        traceback = None if error.traceback is None else self.text(error.traceback)
        kind = error.type if self._hides_all else self.text(error.type)
        return TaskError(type=kind, message=self.text(error.message), traceback=traceback)

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if value == HIDDEN else self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(each) for name, each in value.items()}
        # A card's number may be one.
        if (
            self._pattern is not None
            and isinstance(value, int | float)
            and (self._pattern.fullmatch(str(value)))
        ):
            return HIDDEN
        return value


def _without_pieces(text: str, secret: str) -> str:
    """Without what it has of the beginning and of the end of `secret`."""
    for piece, is_start in ((secret[:_PIECE], True), (secret[-_PIECE:], False)):
        at = text.find(piece)
        while at >= 0:
            begin, end, more = at, at + _PIECE, _PIECE
            if is_start:
                while end < len(text) and more < len(secret) and text[end] == secret[more]:
                    end, more = end + 1, more + 1
            else:
                while begin and more < len(secret) and text[begin - 1] == secret[-1 - more]:
                    begin, more = begin - 1, more + 1
            text = text[:begin] + HIDDEN + text[end:]
            at = text.find(piece, begin + len(HIDDEN))
    return text
