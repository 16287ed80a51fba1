"""Where the pixels go: fit modes as pure arithmetic on sizes, exact to the pixel.

The names are those of the sharp library; `contain`, `cover` and `fill` are also CSS's
`object-fit` (CSS Images Module Level 3, section 5.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal, assert_never

Fit = Literal["inside", "outside", "contain", "cover", "fill"]
"""How an image goes into a box of width x height, both given:

- ``inside``: scaled, aspect ratio kept, as large as fits in the box; the result is the image, so
  one side may be shorter than the box. Nothing is cropped, padded or distorted.
- ``outside``: scaled, aspect ratio kept, as small as covers the box; one side may be longer.
- ``contain``: as `inside`, centred on a background of exactly the box.
- ``cover``: as `outside`, with what is beyond the box cropped evenly on both sides: exactly the
  box.
- ``fill``: stretched to exactly the box; the aspect ratio changes.

With one side given the other follows the aspect ratio, and every fit means the same.

Without enlargement no side is ever scaled by more than 1: `inside` and `outside` stay at the
image's own size, `contain` centres it unscaled on the box, `cover` gives min(box, image) on each
side, and so does `fill`.
"""

Size = tuple[int, int]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Plan:
    crop: Box
    """The part of the source that is kept, in the source's pixels."""
    size: Size
    """What that part is scaled to."""
    canvas: Size
    """The result's size; where it differs from `size` the image is centred on a background."""

    def transposed(self) -> Plan:
        """The same for a source whose rows are this one's columns. (The crop is centred, so that
        mirroring does not change it.)"""
        left, top, right, bottom = self.crop
        return Plan((top, left, bottom, right), self.size[::-1], self.canvas[::-1])


def plan(
    source: Size,
    *,
    width: int | None,
    height: int | None,
    fit: Fit,
    without_enlargement: bool,
) -> Plan:
    """At least one of `width` and `height` is given; all numbers are pixels, 1 or more."""
    largest = Fraction(1) if without_enlargement else None
    if width is None or height is None:
        return _whole(source, _scaled(source, _at_most(_by_one(source, width, height), largest)))
    by_width, by_height = Fraction(width, source[0]), Fraction(height, source[1])
    match fit:
        case "inside":
            return _whole(source, _scaled(source, _at_most(min(by_width, by_height), largest)))
        case "outside":
            return _whole(source, _scaled(source, _at_most(max(by_width, by_height), largest)))
        case "contain":
            size = _scaled(source, _at_most(min(by_width, by_height), largest))
            return Plan(_all_of(source), size, (width, height))
        case "cover":
            factor = _at_most(max(by_width, by_height), largest)
            scaled = _scaled(source, factor)
            size = (min(width, scaled[0]), min(height, scaled[1]))
            return Plan(_centred(source, size, factor), size, size)
        case "fill":
            size = (width, height)
            if without_enlargement:
                size = (min(width, source[0]), min(height, source[1]))
            return _whole(source, size)
        case _:
            assert_never(fit)


def _by_one(source: Size, width: int | None, height: int | None) -> Fraction:
    if width is not None:
        return Fraction(width, source[0])
    if height is not None:
        return Fraction(height, source[1])
    raise ValueError("needs a width or a height")


def _at_most(factor: Fraction, largest: Fraction | None) -> Fraction:
    return factor if largest is None else min(factor, largest)


def _scaled(source: Size, factor: Fraction) -> Size:
    """Rounded half up; a side never vanishes."""
    width, height = (max(1, floor(side * factor + Fraction(1, 2))) for side in source)
    return width, height


def _all_of(source: Size) -> Box:
    return (0.0, 0.0, float(source[0]), float(source[1]))


def _whole(source: Size, size: Size) -> Plan:
    return Plan(_all_of(source), size, size)


def _centred(source: Size, size: Size, factor: Fraction) -> Box:
    """The middle part of `source` that becomes `size` when scaled by `factor`."""
    kept_width = min(Fraction(source[0]), size[0] / factor)
    kept_height = min(Fraction(source[1]), size[1] / factor)
    left, top = (source[0] - kept_width) / 2, (source[1] - kept_height) / 2
    return (
        float(left),
        float(top),
        min(float(left + kept_width), float(source[0])),
        min(float(top + kept_height), float(source[1])),
    )
