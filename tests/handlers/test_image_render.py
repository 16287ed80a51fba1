from __future__ import annotations

import resource
import warnings
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from task_queue_engine.handlers.image import render as image_render
from task_queue_engine.handlers.image.jpeg_scans import has_more_scans_than
from task_queue_engine.handlers.image.render import (
    SUPPORTED_FORMATS,
    Format,
    Rendered,
    RenderLimits,
    RenderOptions,
    render,
)
from task_queue_engine.retry import Discard
from tests.handlers.pictures import (
    BLUE,
    CLEAR,
    GREEN,
    RED,
    WHITE,
    decode,
    encode,
    flat,
    halves,
    near,
    noise,
    png_claiming,
    profile_with_red_and_blue_swapped,
)

LIMITS = RenderLimits(max_pixels=1_000_000, max_memory=1024 * 2**20)

FORMATS = SUPPORTED_FORMATS


def made(
    data: bytes, *, limits: RenderLimits = LIMITS, **wanted: Any
) -> tuple[Image.Image, Rendered]:
    rendered = render(data, RenderOptions(**{"width": 20, **wanted}), limits)
    image = decode(rendered.data)
    assert image.size == (rendered.width, rendered.height)
    assert image.format == rendered.format.upper()
    return image, rendered


def rgb(image: Image.Image, x: int, y: int) -> Any:
    return image.convert("RGB").getpixel((x, y))


def rgba(image: Image.Image, x: int, y: int) -> Any:
    return image.convert("RGBA").getpixel((x, y))


# --- formats --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_every_format_becomes_every_other(source: Format, target: Format) -> None:
    data = encode(halves(), source.upper())
    image, rendered = made(data, format=target)
    assert image.size == (20, 10)
    assert near(rgb(image, 3, 5), RED)
    assert near(rgb(image, 16, 5), BLUE)
    assert (rendered.source_format, rendered.source_width, rendered.source_height) == (
        source,
        40,
        20,
    )


@pytest.mark.parametrize("source", FORMATS)
def test_the_format_of_the_source_is_kept_unless_another_is_wanted(source: Format) -> None:
    assert made(encode(flat(), source.upper()))[1].format == source


@pytest.mark.parametrize("target", [name for name in FORMATS if name not in ("png", "gif")])
def test_quality_makes_a_difference(target: Format) -> None:
    data = encode(noise(), "PNG")
    sizes = [
        len(made(data, width=64, format=target, quality=quality)[1].data) for quality in (5, 95)
    ]
    assert sizes[0] * 2 < sizes[1]


def test_a_jpeg_with_further_pictures_is_a_jpeg() -> None:
    data = encode(halves(), "MPO", save_all=True, append_images=[flat(colour=GREEN)])
    image, rendered = made(data)
    assert rendered.format == rendered.source_format == "jpeg"
    assert not rendered.source_animated
    assert near(rgb(image, 3, 5), RED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixel_is_understood(mode: str) -> None:
    if mode == "I;16":
        image = Image.new(mode, (40, 20), 65535)
    else:
        image = Image.new("RGB", (40, 20), WHITE).convert(mode)
    data = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    assert decode(data).mode == mode
    assert near(rgb(made(data, format="png")[0], 10, 5), WHITE)


def test_sixteen_bits_are_scaled_down_not_clipped() -> None:
    data = encode(Image.new("I;16", (40, 20), 32768), "PNG")
    assert near([rgb(made(data)[0], 10, 5)[0]], [127], by=1)


def test_grey_stays_grey() -> None:
    assert made(encode(Image.new("L", (40, 20), 90), "JPEG"))[0].mode == "L"


# --- fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "size"),
    [
        ("inside", (20, 10)),
        ("outside", (40, 20)),
        ("contain", (20, 20)),
        ("cover", (20, 20)),
        ("fill", (20, 20)),
    ],
)
@pytest.mark.parametrize("source", ["JPEG", "PNG"])
def test_the_size_is_exact_for_every_fit(fit: str, size: tuple[int, int], source: str) -> None:
    data = encode(halves((400, 200)), source)
    assert made(data, width=20, height=20, fit=fit)[0].size == size


def test_cover_crops_both_sides_evenly() -> None:
    wide = Image.new("RGB", (400, 100), GREEN)
    wide.paste(RED, (0, 0, 150, 100))
    wide.paste(BLUE, (250, 0, 400, 100))
    for source in ("PNG", "JPEG"):
        image, _ = made(encode(wide, source), width=20, height=20, fit="cover", format="png")
        assert all(near(rgb(image, x, 10), GREEN) for x in (1, 10, 18))


def test_contain_leaves_bars_that_are_transparent_white_or_of_the_colour_wanted() -> None:
    data = encode(flat((40, 20)), "PNG")
    box = {"width": 20, "height": 20, "fit": "contain"}

    image, _ = made(data, **box)
    assert rgba(image, 10, 1) == CLEAR
    assert rgba(image, 10, 10) == (*RED, 255)
    assert rgba(image, 10, 18) == CLEAR

    image, _ = made(data, **box, format="jpeg")
    assert near(rgb(image, 10, 1), WHITE)

    image, _ = made(data, **box, background="#0000ff")
    assert rgba(image, 10, 1) == (*BLUE, 255)
    assert image.mode == "RGB"


def test_a_background_does_not_fill_transparency_the_format_can_keep() -> None:
    data = encode(halves(left=(*RED, 255), right=CLEAR), "PNG")
    image, _ = made(data, width=20, height=20, fit="contain", background="#0000ff")
    assert rgba(image, 16, 10)[3] == 0
    assert rgba(image, 10, 1) == (*BLUE, 255)


def test_without_enlargement_keeps_a_small_image() -> None:
    data = encode(flat((8, 4)), "PNG")
    assert made(data, width=100)[0].size == (100, 50)
    assert made(data, width=100, without_enlargement=True)[0].size == (8, 4)


# --- transparency ---------------------------------------------------------------------------


def transparent(pillow_format: str) -> bytes:
    return encode(halves(left=(*RED, 255), right=CLEAR), pillow_format)


@pytest.mark.parametrize("source", ["PNG", "WEBP", "GIF"])
@pytest.mark.parametrize(("background", "colour"), [(None, WHITE), ("#00ff00", GREEN)])
def test_transparency_becomes_the_background_in_a_jpeg(
    source: str, background: str | None, colour: Any
) -> None:
    image, _ = made(transparent(source), format="jpeg", background=background)
    assert near(rgb(image, 3, 5), RED)
    assert near(rgb(image, 16, 5), colour)


@pytest.mark.parametrize("source", ["PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("target", [name for name in FORMATS if name != "jpeg"])
def test_transparency_is_kept_where_the_format_can(source: str, target: Format) -> None:
    image, _ = made(transparent(source), format=target)
    assert near(rgba(image, 3, 5), (*RED, 255))
    assert rgba(image, 16, 5)[3] == 0


def test_the_colour_behind_transparent_pixels_does_not_bleed_into_the_edge() -> None:
    data = encode(halves(left=(*RED, 255), right=(*GREEN, 0)), "PNG")
    image, _ = made(data, width=7)
    for x in range(7):
        red, green, _, alpha = rgba(image, x, 1)
        assert alpha == 0 or (red > 240 and green < 15)


def test_half_transparent_pixels_of_a_gif_are_there_or_not() -> None:
    data = encode(halves(left=(*RED, 200), right=(*RED, 60)), "PNG")
    image, _ = made(data, format="gif")
    assert rgba(image, 3, 5) == (*RED, 255)
    assert rgba(image, 16, 5)[3] == 0


# --- metadata -------------------------------------------------------------------------------


def exif(orientation: int | None = None) -> Image.Exif:
    tags = Image.Exif()
    if orientation is not None:
        tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.Make] = "a camera"
    return tags


UPRIGHT = {  # how each orientation is stored, from the picture as it is to be seen
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


def four_corners(size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, WHITE)
    width, height = size[0] // 2, size[1] // 2
    image.paste(RED, (0, 0, width, height))
    image.paste(GREEN, (width, 0, 2 * width, height))
    image.paste(BLUE, (0, height, width, 2 * height))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fit", ["inside", "cover"])
def test_the_picture_is_put_upright(orientation: int, source: str, fit: str) -> None:
    stored = four_corners((160, 80))
    for step in UPRIGHT[orientation]:
        stored = stored.transpose(step)
    data = encode(stored, source, exif=exif(orientation))
    height = 10 if fit == "inside" else 14
    image, rendered = made(data, width=20, height=height, fit=fit, format="png")
    assert image.size == (20, height)
    assert (rendered.source_width, rendered.source_height) == (160, 80)
    corners = [(2, 2), (17, 2), (2, height - 3), (17, height - 3)]
    for (x, y), colour in zip(corners, (RED, GREEN, BLUE, WHITE), strict=True):
        assert near(rgb(image, x, y), colour, by=30)


def test_contain_pads_the_picture_as_it_is_seen() -> None:
    stored = flat((40, 20)).transpose(Image.Transpose.ROTATE_90)
    data = encode(stored, "PNG", exif=exif(6))
    image, _ = made(data, width=20, height=20, fit="contain")
    assert rgba(image, 10, 1) == CLEAR
    assert rgba(image, 1, 10) == (*RED, 255)


@pytest.mark.parametrize("target", FORMATS)
def test_no_metadata_goes_along(target: Format) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a secret")
    text.add_text("XML:com.adobe.xmp", "<x:xmpmeta>a secret</x:xmpmeta>")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    png = encode(flat(), "PNG", exif=exif(), pnginfo=text, icc_profile=profile, dpi=(72, 72))
    jpeg = encode(
        flat(), "JPEG", exif=exif(), comment="a secret", xmp=b"a secret", icc_profile=profile
    )
    for data in (png, jpeg):
        image, rendered = made(data, format=target)
        assert b"secret" not in rendered.data
        assert b"a camera" not in rendered.data
        assert not image.getexif()
        assert not {"icc_profile", "exif", "xmp", "comment", "dpi"} & image.info.keys()


def test_broken_exif_does_not_spoil_a_good_picture() -> None:
    data = encode(flat(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert near(rgb(made(data)[0], 10, 5), RED)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_colour_profile_is_applied(mode: str) -> None:
    profile = profile_with_red_and_blue_swapped()
    data = encode(flat().convert(mode), "PNG", icc_profile=profile)
    image, _ = made(data)
    assert near(rgb(image, 10, 5), BLUE)
    assert rgba(image, 10, 5)[3] == 255


def test_the_alpha_channel_outlives_the_colour_profile() -> None:
    data = encode(
        halves(left=(*RED, 255), right=CLEAR),
        "PNG",
        icc_profile=profile_with_red_and_blue_swapped(),
    )
    image, _ = made(data)
    assert near(rgba(image, 3, 5), (*BLUE, 255))
    assert rgba(image, 16, 5)[3] == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["garbage", "for other colours"])
def test_a_useless_colour_profile_is_ignored(mode: str, kind: str) -> None:
    profile = b"garbage" if kind == "garbage" else lab_profile()
    data = encode(Image.new("RGB", (40, 20), WHITE).convert(mode), "JPEG", icc_profile=profile)
    assert near(rgb(made(data)[0], 10, 5), WHITE)


def lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


# --- animations -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(source: str) -> None:
    data = encode(flat(), source, save_all=True, append_images=[flat(colour=BLUE)], duration=50)
    image, rendered = made(data)
    assert rendered.source_animated
    assert getattr(image, "n_frames", 1) == 1
    assert near(rgb(image, 10, 5), RED)


# --- hostile --------------------------------------------------------------------------------


def test_a_bomb_is_refused_by_its_header() -> None:
    for limits in (LIMITS, replace(LIMITS, max_pixels=2_000_000_000)):
        with pytest.raises(Discard, match="TQE_IMAGE_MAX_PIXELS"):
            render(png_claiming(50_000, 50_000), RenderOptions(width=10), limits)


@pytest.mark.parametrize(("size", "fits"), [((1000, 1000), True), ((1001, 1000), False)])
def test_the_limit_of_pixels_is_exact(size: tuple[int, int], fits: bool) -> None:
    data = encode(Image.new("1", size), "PNG")
    if fits:
        made(data)
    else:
        with pytest.raises(Discard, match=r"more pixels than TQE_IMAGE_MAX_PIXELS \(1000000\)"):
            render(data, RenderOptions(width=10), LIMITS)


def test_a_frame_larger_than_its_gif_is_refused() -> None:
    data = bytearray(encode(flat(), "GIF"))
    where = data.index(b"\x2c\0\0\0\0")  # image descriptor: position, then size
    data[where + 5 : where + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(Discard):
        render(bytes(data), RenderOptions(width=10), LIMITS)


@pytest.mark.parametrize(
    "wanted",
    [
        RenderOptions(width=1001, height=1000, fit="fill"),
        RenderOptions(width=16_000),
        RenderOptions(height=16_000, without_enlargement=False),
        RenderOptions(width=16_383, height=1, fit="outside"),
    ],
)
def test_a_result_over_the_limits_is_refused_before_it_is_made(wanted: RenderOptions) -> None:
    with pytest.raises(Discard, match=r"the result would be \d+x\d+ pixels"):
        render(encode(flat(), "PNG"), wanted, LIMITS)


@pytest.mark.parametrize(
    ("name", "side"), [("jpeg", 1000), ("gif", 1000), ("png", 707), ("webp", 707), ("avif", 500)]
)
def test_a_format_that_is_slow_to_write_has_fewer_pixels(name: Format, side: int) -> None:
    if name not in SUPPORTED_FORMATS:
        pytest.skip(f"this Pillow cannot write {name}")
    data = encode(flat((20, 20)), "PNG")
    assert render(data, RenderOptions(width=side, format=name), LIMITS).width == side
    with pytest.raises(Discard, match="TQE_IMAGE_MAX_PIXELS"):
        render(data, RenderOptions(width=side + 1, format=name), LIMITS)


def with_more_scans(data: bytes, count: int) -> bytes:
    """The last scan of a progressive JPEG, again and again: each refines nothing and takes as long
    as any other."""
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_a_jpeg_that_goes_over_its_picture_without_end_is_refused() -> None:
    data = encode(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    made(with_more_scans(data, 64 - scans))
    with pytest.raises(Discard, match="more than 64 scans"):
        render(with_more_scans(data, 65 - scans), RenderOptions(width=10), LIMITS)
    # In proportion to the pixels.
    small = encode(Image.new("L", (500, 500)), "JPEG", progressive=True)
    made(with_more_scans(small, 200))
    with pytest.raises(Discard, match="more than 256 scans"):
        render(with_more_scans(small, 300), RenderOptions(width=10), LIMITS)


def test_scans_are_counted_in_the_picture_only() -> None:
    scan = b"\xff\xda"
    data = encode(noise((100, 100)), "JPEG", exif=b"Exif\0\0" + scan * 1000, comment=scan * 1000)
    assert not has_more_scans_than(data + scan * 1000, 1)
    assert has_more_scans_than(data, 0)
    fill = data.replace(scan, b"\xff\xff\xff\xda")  # fill bytes before a marker are allowed
    assert has_more_scans_than(fill, 0)
    for end in range(0, len(data), 97):
        has_more_scans_than(data[:end], 1)


def test_memory_over_the_limit_is_refused_and_the_process_can_go_on() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    limits = RenderLimits(max_pixels=100_000_000, max_memory=64 * 2**20)
    data = encode(Image.new("1", (9000, 9000)), "PNG")
    with pytest.raises(Discard, match="TQE_IMAGE_MAX_MEMORY_BYTES"):
        render(data, RenderOptions(width=9000, height=9000, fit="fill", format="jpeg"), limits)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    made(encode(flat(), "PNG"))


@pytest.mark.parametrize("pillow_format", ["BMP", "TIFF", "ICO", "PPM", "TGA", "PDF", "EPS"])
def test_other_types_are_refused_though_pillow_knows_them(pillow_format: str) -> None:
    with pytest.raises(Discard, match="not an image of a known type"):
        render(encode(flat(), pillow_format), RenderOptions(width=10), LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"<html>404</html>",
        b"\x00" * 1000,
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(Discard, match="not an image of a known type"):
        render(data, RenderOptions(width=10), LIMITS)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.1, 0.5, 0.9])
def test_truncated_images_are_refused(source: Format, kept: float) -> None:
    data = encode(noise(), source.upper())
    with pytest.raises(Discard):
        render(data[: int(len(data) * kept)], RenderOptions(width=10), LIMITS)


@pytest.mark.parametrize("source", FORMATS)
def test_damaged_images_are_refused_or_rendered_and_nothing_else(source: Format) -> None:
    data = encode(noise((24, 24)), source.upper())
    for at in range(0, len(data), max(1, len(data) // 60)):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        with suppress(Discard):
            made(bytes(damaged), width=5, format="png")


def test_pillows_globals_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_345_678)
    filters = list(warnings.filters)
    made(encode(flat(), "PNG"))
    with pytest.raises(Discard):
        render(b"", RenderOptions(width=10), LIMITS)
    assert Image.MAX_IMAGE_PIXELS == 12_345_678
    assert warnings.filters == filters


def test_what_decoders_check_for_themselves_is_held_to_the_limit_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int | None] = []
    to_plain = image_render.to_plain

    def watched(image: Image.Image) -> Image.Image:
        seen.append(Image.MAX_IMAGE_PIXELS)
        return to_plain(image)

    monkeypatch.setattr(image_render, "to_plain", watched)
    made(encode(flat(), "PNG"))
    assert seen == [LIMITS.max_pixels]


def test_a_format_pillow_was_built_without_is_neither_written_nor_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_render, "SUPPORTED_FORMATS", ("jpeg", "png"))
    with pytest.raises(Discard, match="cannot write webp"):
        render(encode(flat(), "PNG"), RenderOptions(width=10, format="webp"), LIMITS)
    with pytest.raises(Discard, match=r"not an image of a known type \(jpeg, png\)"):
        render(encode(flat(), "WEBP"), RenderOptions(width=10), LIMITS)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[tuple[int, int]] = []
    to_plain = image_render.to_plain

    def watched(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return to_plain(image)

    monkeypatch.setattr(image_render, "to_plain", watched)
    data = encode(halves((800, 400)), "JPEG")
    image, rendered = made(data, width=40)
    assert sizes == [(100, 50)]
    assert image.size == (40, 20)
    assert (rendered.source_width, rendered.source_height) == (800, 400)
