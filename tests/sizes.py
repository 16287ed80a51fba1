"""How much of it: what a change is checked by, or the whole of `make test-long`."""

from __future__ import annotations

import os
from typing import TypeVar

LONG = os.environ.get("TQE_TEST_LONG") == "1"


Size = TypeVar("Size")


def size(usual: Size, in_full: Size) -> Size:
    """Of a test whose chance to find something grows with it.

    The usual one keeps `make test` within five minutes on two cores.
    """
    return in_full if LONG else usual
