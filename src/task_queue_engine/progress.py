"""How far a task is, by the progress that its handler tells."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

# Members of a progress that is an object, as handlers commonly name them.
_DONE = ("done", "current", "completed")
_OF = ("of", "total")
_PERCENT = ("percent", "percentage")
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


def _number(members: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((members[name] for name in names if _is_number(members.get(name))), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
