"""Pixels of any kind into the few kinds that are worked on, and those into sRGB."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image, ImageCms, features

_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})

_PLAIN = frozenset({"L", "RGB", "RGBA", "CMYK"})


def to_plain(image: Image.Image) -> Image.Image:
    """`image` with mode L, RGB, RGBA or CMYK: palettes resolved, 16 bits brought down to 8,
    transparency of any kind an alpha channel."""
    if image.mode in _SIXTEEN_BITS:  # convert("L") alone would clip, not scale
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in _PLAIN:
        return image
    return image.convert("RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A plain image with mode L, RGB or RGBA, its colours those of sRGB.

    `profile` is the ICC profile that came with it. Without one, or with one that is broken or for
    another colour space, the colours are taken to be sRGB already, as browsers do.
    """
    converted = _by_profile(image, profile) if profile else None
    if converted is not None:
        return converted
    return image.convert("RGB") if image.mode == "CMYK" else image


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    if not features.check("littlecms2"):
        return None
    colours = image.convert("RGB") if image.mode == "RGBA" else image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colours, source, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # broken, or of another colour space than the image
    if converted is None:  # only where it works in place
        return None
    if image.mode == "L":
        return converted.convert("L")
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
