"""Bars with their spread, as SVG: a panel for each figure, a bar for each case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Pixels.
_WIDTH = 760
_LABELS = 210
_VALUES = 90
_BAR = 14
_STEP = 21
_HEAD = 34
_GAP = 16

_INK = "#222222"
_COLOURS = {"ours": "#1f6f50", "before": "#9aa5a0", "other": "#6a8caf"}
# From this many times the least on, lengths are of logarithms: the small ones would be no bars.
_WIDE = 40.0


@dataclass(frozen=True)
class Bar:
    label: str
    kind: str
    """A key of _COLOURS."""
    middle: float
    least: float
    most: float


@dataclass(frozen=True)
class Panel:
    title: str
    digits: int
    bars: Sequence[Bar]


def svg(panels: Sequence[Panel]) -> str:
    height = sum(_HEAD + _STEP * len(panel.bars) + _GAP for panel in panels)
    box = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    top = 0
    for panel in panels:
        lines += _panel(panel, top)
        top += _HEAD + _STEP * len(panel.bars) + _GAP
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int) -> list[str]:
    positive = [bar.least for bar in panel.bars if bar.least > 0]
    most = max((bar.most for bar in panel.bars), default=0.0)
    is_wide = bool(positive) and most / min(positive) > _WIDE
    room = _WIDTH - _LABELS - _VALUES
    # A tenth of it is the foot of a logarithmic scale: the least still has a length.
    foot = min(positive) / 1.5 if positive else 1.0

    def length(number: float) -> float:
        if most <= 0 or number <= 0:
            return 0.0
        if is_wide:
            return room * max(0.0, math.log(number / foot) / math.log(most / foot))
        return room * number / most

    title = panel.title + (" (logarithmic)" if is_wide else "")
    lines = [_text(8, top + 22, title, 'font-weight="bold"')]
    for number, bar in enumerate(panel.bars):
        y = top + _HEAD + number * _STEP
        middle = y + _BAR / 2
        left, right = _LABELS + length(bar.least), _LABELS + length(bar.most)
        end = max(right, _LABELS + length(bar.middle)) + 6
        lines += [
            _text(_LABELS - 8, y + 11, bar.label, 'text-anchor="end"'),
            _rect(y, length(bar.middle), _COLOURS[bar.kind]),
            f'<line x1="{left:.1f}" y1="{middle}" x2="{right:.1f}" y2="{middle}" stroke="{_INK}"/>',
            _text(end, y + 11, f"{bar.middle:,.{panel.digits}f}"),
        ]
    return lines


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="{_INK}" {more}>{escape(text)}</text>'


def _rect(y: float, width: float, colour: str) -> str:
    place = f'x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}"'
    return f'<rect {place} fill="{colour}"/>'
