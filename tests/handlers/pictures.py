"""Small images made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)
CLEAR = (0, 0, 0, 0)


def encode(image: Image.Image, pillow_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, pillow_format, **options)
    return file.getvalue()


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def flat(size: tuple[int, int] = (40, 20), colour: Any = RED, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def halves(size: tuple[int, int] = (40, 20), left: Any = RED, right: Any = BLUE) -> Image.Image:
    mode = "RGB" if len(left) == 3 else "RGBA"
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.effect_noise(size, 60).convert("RGB")


def near(one: Any, other: Any, by: int = 12) -> bool:
    """Whether two pixels are of the same colour, give and take what a lossy encoder does."""
    return len(one) == len(other) and all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says this size; there is hardly any data behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def profile_with_red_and_blue_swapped() -> bytes:
    """An ICC profile unlike sRGB in a way no test can miss: sRGB's own, its primaries renamed."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"????"), (b"bXYZ", b"rXYZ"), (b"????", b"bXYZ")):
        profile = profile.replace(old, new)
    return profile
