"""Tests that apply only to backends that keep a certain promise."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from task_queue_engine.testing.conformance.harness import Promises

_Test = Callable[..., Awaitable[None]]


def needs(promise: str, **where: object) -> Callable[[_Test], _Test]:
    """The test is skipped for a backend that does not keep this promise, a field of `Promises`.

    Args:
        where: only for this value of a parameter of the test.
    """
    assert promise in Promises.__dataclass_fields__

    def decorate(test: _Test) -> _Test:
        @functools.wraps(test)
        async def unless_unmet(**arguments: Any) -> None:
            __tracebackhide__ = True
            if unmet := unmet_needs(unless_unmet, arguments, arguments["harness"].promises):
                pytest.skip(f"this backend does not promise: {unmet}")
            await test(**arguments)

        unless_unmet.needs = (promise, where)  # type: ignore[attr-defined]  # read below
        return unless_unmet

    return decorate


def unmet_needs(
    test: Callable[..., object], arguments: Mapping[str, object], promises: Promises
) -> str | None:
    """The promise that the test needs for these arguments and that is not given, or None. For
    leaving such tests out before they run."""
    promise, where = getattr(test, "needs", (None, {}))
    applies = all(arguments.get(name) is value for name, value in where.items())
    return None if promise is None or not applies or getattr(promises, promise) else promise
