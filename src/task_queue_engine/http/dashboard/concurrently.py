"""Several calls of the engine at once, for one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def bare_errors() -> Iterator[None]:
    """Around a nursery: what fails in it comes out by itself and not in an ExceptionGroup, so that
    it is answered as ever. One reason is enough: the backend is in trouble, say."""
    try:
        yield
    except BaseExceptionGroup as group:
        _, reasons = group.split(trio.Cancelled)
        raise _first(reasons or group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
