"""Which forms of a progress say how far a task is, in a terminal and on the pages alike."""

from __future__ import annotations

import math
from typing import Any

import pytest

from task_queue_engine.progress import fraction_of, says_more, steps_of


@pytest.mark.parametrize(
    ("progress", "fraction"),
    [
        (0, 0.0),
        (0.25, 0.25),
        (1, 1.0),
        (45, 0.45),
        (100, 1.0),
        ("45%", 0.45),
        ("45.5 % ", 0.455),
        ({"done": 9, "of": 20}, 0.45),
        ({"done": 9, "total": 20, "step": "labels"}, 0.45),
        ({"current": 0, "total": 20}, 0.0),
        ({"percent": 45}, 0.45),
        ({"fraction": 0.45}, 0.45),
        (None, None),
        (True, None),
        (-1, None),
        (101, None),
        (math.nan, None),
        ("half", None),
        ("nan%", None),
        ({"step": "label"}, None),
        ({"done": 9}, None),
        ({"done": 9, "of": 0}, None),
        ({"done": 10**400, "of": 3}, None),
        ({"done": "9", "of": "20"}, None),
        ({"done": 21, "of": 20}, None),
        ([1, 2], None),
    ],
)
def test_what_says_how_far_a_task_is(progress: Any, fraction: float | None) -> None:
    assert fraction_of(progress) == (None if fraction is None else pytest.approx(fraction))


@pytest.mark.parametrize(
    ("progress", "more", "steps"),
    [
        (0.25, False, ""),
        ("45%", False, ""),
        ({"percent": 45}, False, ""),
        ({"done": 900, "of": 2000}, False, "900 of 2,000"),
        ({"current": 1.5, "total": 3}, False, "1.5 of 3"),
        ({"done": 9, "of": 20, "step": "labels"}, True, "9 of 20"),
        ({"done": 10**400, "of": 10**401}, True, ""),
        ({"done": 21, "of": 20}, True, ""),
        ("labels", True, ""),
        ([1, 2], True, ""),
    ],
)
def test_what_a_bar_leaves_to_be_said(progress: Any, more: bool, steps: str) -> None:
    assert says_more(progress) is more
    assert steps_of(progress) == steps
