from __future__ import annotations

import pytest

from task_queue_engine.handlers.image.geometry import Fit, Plan, Size, plan


def made(
    source: Size,
    width: int | None,
    height: int | None,
    fit: Fit = "inside",
    *,
    without_enlargement: bool = False,
) -> Plan:
    return plan(
        source, width=width, height=height, fit=fit, without_enlargement=without_enlargement
    )


ALL: tuple[Fit, ...] = ("inside", "outside", "contain", "cover", "fill")


@pytest.mark.parametrize(
    ("fit", "size", "canvas"),
    [
        ("inside", (100, 50), (100, 50)),
        ("outside", (200, 100), (200, 100)),
        ("contain", (100, 50), (100, 100)),
        ("cover", (100, 100), (100, 100)),
        ("fill", (100, 100), (100, 100)),
    ],
)
def test_a_wide_image_in_a_square_box(fit: Fit, size: Size, canvas: Size) -> None:
    chosen = made((400, 200), 100, 100, fit)
    assert (chosen.size, chosen.canvas) == (size, canvas)


def test_cover_keeps_the_middle_and_the_others_keep_everything() -> None:
    assert made((400, 200), 100, 100, "cover").crop == (100, 0, 300, 200)
    assert made((200, 400), 100, 100, "cover").crop == (0, 100, 200, 300)
    for fit in ("inside", "outside", "contain", "fill"):
        assert made((400, 200), 100, 100, fit).crop == (0, 0, 400, 200)


@pytest.mark.parametrize("fit", ALL)
def test_with_one_side_given_every_fit_follows_the_aspect_ratio(fit: Fit) -> None:
    assert made((400, 200), 100, None, fit).canvas == (100, 50)
    assert made((400, 200), None, 100, fit).canvas == (200, 100)


@pytest.mark.parametrize(
    ("fit", "size", "canvas"),
    [
        ("inside", (40, 20), (40, 20)),
        ("outside", (40, 20), (40, 20)),
        ("contain", (40, 20), (100, 100)),
        ("cover", (40, 20), (40, 20)),
        ("fill", (40, 20), (40, 20)),
    ],
)
def test_without_enlargement_a_smaller_image_stays_as_it_is(
    fit: Fit, size: Size, canvas: Size
) -> None:
    chosen = made((40, 20), 100, 100, fit, without_enlargement=True)
    assert (chosen.size, chosen.canvas) == (size, canvas)
    assert chosen.crop == (0, 0, 40, 20)


@pytest.mark.parametrize(
    ("fit", "size"),
    [
        ("inside", (100, 25)),
        ("outside", (200, 50)),  # would be 400 x 100
        ("contain", (100, 25)),
        ("cover", (100, 50)),
        ("fill", (100, 50)),
    ],
)
def test_without_enlargement_an_image_longer_on_one_side_only(fit: Fit, size: Size) -> None:
    assert made((200, 50), 100, 100, fit, without_enlargement=True).size == size


def test_without_enlargement_does_not_hinder_reduction() -> None:
    for fit in ALL:
        assert made((400, 200), 100, 100, fit, without_enlargement=True) == made(
            (400, 200), 100, 100, fit
        )


def test_enlarging_is_the_default() -> None:
    assert made((10, 20), 100, None).size == (100, 200)


@pytest.mark.parametrize(
    ("source", "width", "height", "size"),
    [
        ((3, 2), 100, 100, (100, 67)),
        ((1000, 667), 100, 100, (100, 67)),
        ((1000, 665), 100, 100, (100, 67)),  # 66.5
        ((1000, 664), 100, 100, (100, 66)),
        ((4000, 3), 100, 100, (100, 1)),  # never 0
        ((3, 4000), 100, 100, (1, 100)),
        ((7919, 6997), 333, 294, (333, 294)),
    ],
)
def test_sides_are_rounded_to_the_nearest_pixel(
    source: Size, width: int, height: int, size: Size
) -> None:
    assert made(source, width, height).size == size


def test_inside_never_exceeds_the_box_nor_outside_falls_short_of_it() -> None:
    primes = (2, 3, 7, 31, 97, 401)
    for source in [(a, b) for a in primes for b in primes]:
        for width, height in [(5, 7), (89, 3), (100, 100), (1, 1)]:
            inside = made(source, width, height, "inside").size
            assert inside[0] <= width
            assert inside[1] <= height
            assert inside[0] == width or inside[1] == height
            outside = made(source, width, height, "outside").size
            assert outside[0] >= width
            assert outside[1] >= height
            cover = made(source, width, height, "cover")
            assert cover.canvas == (width, height)
            left, top, right, bottom = cover.crop
            assert 0 <= left < right <= source[0]
            assert 0 <= top < bottom <= source[1]
            assert (right - left) / (bottom - top) == pytest.approx(width / height)


def test_transposed_is_the_plan_for_the_image_on_its_side() -> None:
    assert made((400, 200), 100, 100, "cover").transposed() == made((200, 400), 100, 100, "cover")
    assert made((400, 200), 60, 100, "contain").transposed() == made((200, 400), 100, 60, "contain")
