"""What a handler's progress says, where it has a form that says how far the task is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

# Members of a progress that is an object, as handlers commonly name them.
_DONE = ("done", "current", "completed")
_OF = ("of", "total")
_PERCENT = ("percent", "percentage")
_MOST_STEPS = 1e15
"""Beyond it a number is no count, but as many digits as JSON may have."""
_FRACTION = ("fraction", "progress")


def fraction_of(progress: Any) -> float | None:
    """How far a task is, from 0 to 1, where its progress has a form that says so: a number from 0
    to 1, or to 100 as percent, "45%", {"done": 9, "of": 20}, {"percent": 45}, {"fraction": 0.45}.
    """
    fraction: float | None = None
    if isinstance(progress, Mapping):
        done, of = _number(progress, _DONE), _number(progress, _OF)
        percent = _number(progress, _PERCENT)
        if done is not None and of:
            with suppress(OverflowError):  # JSON knows no largest number
                fraction = done / of
        elif percent is not None:
            fraction = percent / 100
        else:
            fraction = _number(progress, _FRACTION)
    elif isinstance(progress, str) and progress.rstrip().endswith("%"):
        with suppress(ValueError):
            fraction = float(progress.rstrip()[:-1]) / 100
    elif _is_number(progress):
        fraction = progress if progress <= 1 else progress / 100
    if fraction is None or not 0 <= fraction <= 1:  # NaN, too
        return None
    return fraction


def says_more(progress: Any) -> bool:
    """Whether there is more in it than how far the task is."""
    if fraction_of(progress) is None:
        return True
    return isinstance(progress, Mapping) and len(progress) > (2 if steps_of(progress) else 1)


def steps_of(progress: Any) -> str:
    """ "9 of 20", where it is an object that says both; else empty."""
    if not isinstance(progress, Mapping):
        return ""
    done, of = _number(progress, _DONE), _number(progress, _OF)
    if done is None or not of or not 0 <= done <= of < _MOST_STEPS:
        return ""
    return f"{done:,} of {of:,}"


def _number(members: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((members[name] for name in names if _is_number(members.get(name))), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
