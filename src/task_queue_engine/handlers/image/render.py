"""Bytes of an untrusted image in, bytes of a resized one out.

Only the decoders of five formats ever see the data; its size in pixels is judged from the header,
before anything is decoded; all of the work has a ceiling of memory. Whatever is wrong with an
image is a `Discard`: the same bytes will be wrong again.

The result is upright, in sRGB and without metadata: orientation and colour profile have been
applied, and EXIF (with its places and dates), XMP and comments are gone. Of an animation it is
the first frame.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

try:
    # The plugins by name: Pillow then never loads all of them to look for one.
    from PIL import (
        ExifTags,
        GifImagePlugin,
        Image,
        ImageColor,
        JpegImagePlugin,
        PngImagePlugin,
        UnidentifiedImageError,
        WebPImagePlugin,
    )
except ImportError as missing:
    raise ImportError(
        "image-resize needs Pillow: install this package with its extra 'images'", name="PIL"
    ) from missing

from task_queue_engine.handlers.image.color import to_plain, to_srgb
from task_queue_engine.handlers.image.geometry import Fit, Plan, Size, plan
from task_queue_engine.handlers.image.jpeg_scans import has_more_scans_than
from task_queue_engine.handlers.process_limits import address_space_limit
from task_queue_engine.retry import Discard

try:
    from PIL import AvifImagePlugin

    _AVIF_SUPPORTED = AvifImagePlugin.SUPPORTED
except ImportError:  # Pillow before 11.3
    _AVIF_SUPPORTED = False

Format = Literal["jpeg", "png", "webp", "gif", "avif"]

MAX_SIDE = 16_383
"""Pixels: the longest side a WebP can have (RFC 9649), the least of all these formats."""

_PILLOW_NAMES: dict[Format, str] = {
    "jpeg": JpegImagePlugin.JpegImageFile.format,
    "png": PngImagePlugin.PngImageFile.format,
    "webp": WebPImagePlugin.WebPImageFile.format,
    "gif": GifImagePlugin.GifImageFile.format,
    "avif": "AVIF",
}

_MISSING = {"webp": not WebPImagePlugin.SUPPORTED, "avif": not _AVIF_SUPPORTED}

SUPPORTED_FORMATS: tuple[Format, ...] = tuple(
    name for name in _PILLOW_NAMES if not _MISSING.get(name)
)
"""Those the installed Pillow was built with; no other decoder is let near the data."""

# A JPEG with further pictures behind the first (stereo, previews) comes back as an "MPO".
_OUR_NAMES: dict[str | None, Format] = {
    "MPO": "jpeg",
    **{theirs: ours for ours, theirs in _PILLOW_NAMES.items()},
}

# The scales of the formats differ: AVIF needs a lower number for the same look.
_DEFAULT_QUALITY: dict[Format, int] = {"jpeg": 80, "webp": 80, "avif": 60}

# EXIF orientation -> what puts the picture upright (EXIF 3.0, tag 274).
_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where at least this many times the pixels
# asked for remain on each side: much faster, and not to be seen after the resampling.
_DRAFT_GAP = 2

# From here on Pillow's two-step resampling is as good as one step (its documentation says).
_REDUCING_GAP = 3.0

_WHITE = "#ffffff"

# What the pixels of a result count for in TQE_IMAGE_MAX_PIXELS. Encoding a million pixels of noise
# at quality 100 takes 0.03 s as jpeg, 0.15 s as gif, 0.3 to 0.4 s as png and webp, 0.9 s as avif.
_COST: dict[Format, int] = {"jpeg": 1, "gif": 1, "png": 2, "webp": 2, "avif": 4}

# Times TQE_IMAGE_MAX_PIXELS, for the pixels of a JPEG times its scans: 0.6 ms a million. Encoders
# write ten scans.
_MAX_SCANS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How the result is to be. Sizes in pixels; at least one of `width` and `height` is given."""

    width: int | None = None
    height: int | None = None
    fit: Fit = "inside"
    without_enlargement: bool = False
    format: Format | None = None
    """None: that of the source."""
    quality: int | None = None
    """1 to 100, for the formats that have one: jpeg, webp and avif. None: 80, for avif 60."""
    background: str | None = None
    """#rrggbb: behind transparency that the format cannot keep, and for what `contain` leaves
    empty. None: transparent where the format can be, white where not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderLimits:
    max_pixels: int
    max_memory: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    data: bytes
    format: Format
    width: int
    height: int
    source_format: Format
    source_width: int
    """Of the picture put upright."""
    source_height: int
    source_animated: bool


def render(data: bytes, wanted: RenderOptions, limits: RenderLimits) -> Rendered:
    """Raises Discard, saying what is wrong with the image or why it is not worked on."""
    if wanted.format is not None and wanted.format not in SUPPORTED_FORMATS:
        raise Discard(f"the installed Pillow cannot write {wanted.format}")
    try:
        with _pillow_limits(limits.max_pixels), address_space_limit(limits.max_memory):
            return _render(data, wanted, limits)
    except MemoryError:
        raise Discard(
            f"the image needs more memory than TQE_IMAGE_MAX_MEMORY_BYTES ({limits.max_memory})"
        ) from None


@contextmanager
def _pillow_limits(max_pixels: int) -> Iterator[None]:
    """Pillow's limits are globals: set for the work, then put back for the next task in
    this process. Their own check also covers what decoders find behind the header."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings(), _one_avif_thread():
            warnings.simplefilter("ignore")  # about odd files: no handler could act on them
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _one_avif_thread() -> Iterator[None]:
    """Every core has a worker process already, and threads take a lot of address space."""
    if not _AVIF_SUPPORTED:
        yield
        return
    before = AvifImagePlugin.DEFAULT_MAX_THREADS
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        yield
    finally:
        AvifImagePlugin.DEFAULT_MAX_THREADS = before


def _render(data: bytes, wanted: RenderOptions, limits: RenderLimits) -> Rendered:
    with _open(data, limits) as image:
        source_format = _OUR_NAMES[image.format]
        output_format = wanted.format or source_format
        orientation = _orientation(image)
        sideways = orientation in _SIDEWAYS
        source = image.size[::-1] if sideways else image.size
        chosen = plan(
            source,
            width=wanted.width,
            height=wanted.height,
            fit=wanted.fit,
            without_enlargement=wanted.without_enlargement,
        )
        _check_result(chosen.canvas, output_format, limits)
        # Turned after scaling, when it is small.
        picture = _decode_and_scale(image, chosen.transposed() if sideways else chosen)
        profile = image.info.get("icc_profile")
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    picture = to_srgb(picture, profile)
    picture = _on_canvas(picture, chosen.canvas, output_format, wanted.background)
    return Rendered(
        data=_encode(picture, output_format, wanted.quality),
        format=output_format,
        width=picture.width,
        height=picture.height,
        source_format=source_format,
        source_width=source[0],
        source_height=source[1],
        source_animated=animated,
    )


def _open(data: bytes, limits: RenderLimits) -> Image.Image:
    """Reads the header only."""
    too_many_pixels = Discard(
        f"the image has more pixels than TQE_IMAGE_MAX_PIXELS ({limits.max_pixels})"
    )
    try:
        decoders = tuple(_PILLOW_NAMES[name] for name in SUPPORTED_FORMATS)
        image = Image.open(io.BytesIO(data), formats=decoders)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_many_pixels from None
    except UnidentifiedImageError:
        raise Discard(f"not an image of a known type ({', '.join(SUPPORTED_FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything; it is about the bytes
        raise _broken(error) from None
    # Image.open has looked already, but what it does about it hangs on the globals above, and
    # those are not this thread's alone.
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise too_many_pixels
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        most = limits.max_pixels * _MAX_SCANS // pixels
        if has_more_scans_than(data, most):
            raise Discard(f"the image is a JPEG of more than {most} scans")
    return image


def _broken(error: Exception) -> Discard:
    return Discard(f"the image is broken or truncated: {error}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - broken metadata is thrown away, as whole metadata is
        return 1


def _check_result(size: Size, output_format: Format, limits: RenderLimits) -> None:
    width, height = size
    cost = _COST[output_format]
    if max(size) > MAX_SIDE or width * height * cost > limits.max_pixels:
        part = "" if cost == 1 else f" divided by {cost} for {output_format}"
        raise Discard(
            f"the result would be {width}x{height} pixels; the limits are {MAX_SIDE} a side and "
            f"TQE_IMAGE_MAX_PIXELS ({limits.max_pixels}){part} in all"
        )


def _decode_and_scale(image: Image.Image, chosen: Plan) -> Image.Image:
    full = image.size
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, _least_size_to_decode(full, chosen))
    try:
        image.load()
        plain = to_plain(image)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything; it is about the bytes
        raise _broken(error) from None
    by_x, by_y = plain.width / full[0], plain.height / full[1]
    left, top, right, bottom = chosen.crop
    return plain.resize(
        chosen.size,
        Image.Resampling.LANCZOS,
        box=(
            left * by_x,
            top * by_y,
            min(right * by_x, plain.width),
            min(bottom * by_y, plain.height),
        ),
        reducing_gap=_REDUCING_GAP,
    )


def _least_size_to_decode(full: Size, chosen: Plan) -> Size:
    left, top, right, bottom = chosen.crop
    return (
        ceil(full[0] * chosen.size[0] * _DRAFT_GAP / (right - left)),
        ceil(full[1] * chosen.size[1] * _DRAFT_GAP / (bottom - top)),
    )


def _on_canvas(
    picture: Image.Image, canvas: Size, output_format: Format, background: str | None
) -> Image.Image:
    """`picture` centred on a canvas of that size, with no transparency the format cannot keep."""
    opaque = output_format == "jpeg"
    if opaque and picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, background or _WHITE)
        picture = Image.alpha_composite(ground, picture).convert("RGB")
    if picture.size == canvas:
        return picture
    if background is not None or opaque:
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        colour = ImageColor.getcolor(background or _WHITE, mode)
    else:
        mode, colour = "RGBA", (0, 0, 0, 0)
    ground = Image.new(mode, canvas, colour)
    offset = ((canvas[0] - picture.width) // 2, (canvas[1] - picture.height) // 2)
    ground.paste(picture.convert(mode), offset)
    return ground


def _encode(picture: Image.Image, output_format: Format, quality: int | None) -> bytes:
    options: dict[str, Any] = {}
    if output_format in _DEFAULT_QUALITY:
        options["quality"] = quality or _DEFAULT_QUALITY[output_format]
    match output_format:
        case "jpeg":
            options["optimize"] = True
        case "avif":
            options["max_threads"] = 1
        case "gif" if picture.mode == "RGBA":
            # A pixel of a GIF is there or is not.
            alpha = picture.getchannel("A").point(lambda value: 255 if value >= 128 else 0)
            picture.putalpha(alpha)
    picture.info = {}  # some encoders write what the decoder found there
    encoded = io.BytesIO()
    picture.save(encoded, _PILLOW_NAMES[output_format], **options)
    return encoded.getvalue()
