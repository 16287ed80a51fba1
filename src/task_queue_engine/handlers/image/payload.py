"""What an `image-resize` task asks for, and every check that needs no look at the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated

import msgspec
from msgspec import Meta

from task_queue_engine.handlers.fetch.safe_fetch import check_url
from task_queue_engine.handlers.image.geometry import Fit
from task_queue_engine.handlers.image.input import check_relative
from task_queue_engine.handlers.image.render import MAX_SIDE, SUPPORTED_FORMATS, Format

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Quality = Annotated[int, Meta(ge=1, le=100)]

# \Z, not $, which would let a newline end the text.
FileName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Colour = Annotated[str, Meta(pattern=r"\A#[0-9A-Fa-f]{6}\Z")]

_FORMATS: dict[str, Format] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".gif": "gif",
    ".avif": "avif",
}


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the picture is: exactly one of these."""

    path: str | None = None
    """A file below `TQE_IMAGE_ROOT`, relative to it."""
    url: str | None = None
    """http or https, without credentials."""
    data: bytes | None = msgspec.field(default=None, name="base64")
    """The file's content; in JSON `base64`."""

    def __post_init__(self) -> None:
        members = (self.path, self.url, self.data)
        if members.count(None) != len(members) - 1:
            raise ValueError("needs exactly one of path, url and base64")
        if self.path is not None:
            _check("path", check_relative, self.path)
        if self.url is not None:
            _check("url", check_url, self.url)


class ImageResize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Payload of `image-resize`. Sizes are pixels."""

    source: Source | str
    """A string is a URL if it starts with http:// or https://, else a path."""
    width: Side | None = None
    height: Side | None = None
    """At least one of the two; the other then follows the aspect ratio."""
    fit: Fit = "inside"
    """With both given: inside, outside, contain, cover or fill, as `geometry` has them."""
    without_enlargement: bool = False
    """Never scale a side up."""
    format: Format | None = None
    """jpeg, png, webp, gif or avif; else as `filename` ends, else as the source."""
    quality: Quality | None = None
    """For jpeg, webp (80) and avif (60); png and gif have none and ignore it."""
    background: Colour | None = None
    """#rrggbb: for the rest of a `contain` box (else transparent, or white in a jpeg) and below
    transparency that a jpeg cannot keep (else white)."""
    filename: FileName | None = None
    """Of the result; else the task's id. An ending is added where it has none of an image."""
    overwrite: bool = False
    """Replace a file of this name that another task wrote."""

    def __post_init__(self) -> None:
        as_source(self.source)
        if self.width is None and self.height is None:
            raise ValueError("width or height must be given, or both")
        named = format_of(self.filename)
        if named and self.format and named != self.format:
            raise ValueError(f"filename {self.filename!r} does not go with format {self.format!r}")
        wanted = self.output_format
        if wanted is not None and wanted not in SUPPORTED_FORMATS:
            raise ValueError(f"format: the installed Pillow cannot write {wanted}")

    @property
    def output_format(self) -> Format | None:
        """None: that of the source."""
        return self.format or format_of(self.filename)


def as_source(source: Source | str) -> Source:
    """Raises ValueError for a string that is neither a URL nor a path."""
    if isinstance(source, Source):
        return source
    start = source[:8].lower()
    try:
        if start.startswith(("http://", "https://")):
            return Source(url=source)
        if "://" in source or start.startswith("data:"):
            raise ValueError("must start with http:// or https://, or be a path")
        return Source(path=source)
    except ValueError as error:
        raise ValueError(f"source {error}") from None


def format_of(name: str | None) -> Format | None:
    """What the ending of a file's name says; None where it says nothing."""
    return _FORMATS.get(PurePosixPath(name).suffix.lower()) if name else None


def _check(member: str, check: Callable[[str], None], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{member} {error}") from None
