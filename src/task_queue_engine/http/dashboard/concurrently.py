"""Several calls of the engine at once, for one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bare_errors() -> Iterator[None]:
    """Around a nursery: the first that fails in it comes out by itself and not in an
    ExceptionGroup, for those who are to catch it by its kind."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
