"""The formats there are; which of them the installed Pillow has, `render` knows."""

from __future__ import annotations

from typing import Literal

Format = Literal["jpeg", "png", "webp", "gif", "avif"]

MAX_SIDE = 16_383
"""Pixels: the longest side a WebP can have (RFC 9649), the least of all these formats."""
