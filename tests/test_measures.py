"""What histograms say."""

from __future__ import annotations

import pytest

from task_queue_engine.measures import Distribution, quantile


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, 0.5),
        ((0, 10, 0, 0), 0.95, 1.95),
        ((1, 0, 1, 0), 0.95, 3.8),
        ((1, 0, 1, 0), 0.5, 1.0),
        ((0, 0, 0, 9), 0.5, 4.0),  # above all bounds
    ],
)
def test_a_quantile_is_prometheus_own(
    counts: tuple[int, ...], share: float, expected: float | None
) -> None:
    one = Distribution(name="x", labels={}, bounds=(1.0, 2.0, 4.0), counts=counts, sum=0.0)

    found = quantile(one, share)

    assert found == (expected if expected is None else pytest.approx(expected))
