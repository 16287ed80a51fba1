"""The task type `image-resize`: a picture from a file, a URL or the payload itself, resized into
a file below `TQE_IMAGE_OUTPUT`.

    {"source": "https://example.com/cat.jpg", "width": 320, "format": "webp"}

It runs in a worker process: a decoder that hangs or crashes takes only that process with it.
Needs Pillow (the extra `images`); without it importing this module raises ImportError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from task_queue_engine.context import SyncTaskContext
from task_queue_engine.handlers.fetch.safe_fetch import FetchFailed, FetchRefused, check_url, fetch
from task_queue_engine.handlers.image.geometry import Fit
from task_queue_engine.handlers.image.input import check_relative, read_below
from task_queue_engine.handlers.image.output import write_output
from task_queue_engine.handlers.image.render import (
    MAX_SIDE,
    SUPPORTED_FORMATS,
    Format,
    RenderLimits,
    RenderOptions,
    render,
)
from task_queue_engine.handlers.image.settings import ImageSettings
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Discard, Retry

tasks = TaskRegistry()

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
_SUFFIXES: dict[Format, str] = {
    "jpeg": ".jpg",
    "png": ".png",
    "webp": ".webp",
    "gif": ".gif",
    "avif": ".avif",
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
        named = _format_of(self.filename)
        if named and self.format and named != self.format:
            raise ValueError(f"filename {self.filename!r} does not go with format {self.format!r}")
        wanted = self.output_format
        if wanted is not None and wanted not in SUPPORTED_FORMATS:
            raise ValueError(f"format: the installed Pillow cannot write {wanted}")

    @property
    def output_format(self) -> Format | None:
        """None: that of the source."""
        return self.format or _format_of(self.filename)


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the picture was, put upright."""

    kind: Literal["path", "url", "base64"]
    format: Format
    width: int
    height: int
    bytes: int
    animated: bool
    """Its first frame was taken."""


class ResizedImage(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `image-resize`."""

    path: str
    """Absolute, on the machine of the worker."""
    format: Format
    width: int
    height: int
    bytes: int
    sha256: str
    """Of the file, in hex."""
    source: SourceInfo


@tasks.task("image-resize", process=True, timeout=120)
def resize_image(payload: ImageResize, context: SyncTaskContext) -> ResizedImage:
    """Resize one picture. A repeated attempt writes the same file again.

    Raises:
        Discard: the source is refused, missing, broken or too large; a URL answered 4xx; the file
            name is taken.
        Retry: a URL's server named a time to come back at; the disk is full or fails.
        FetchFailed: a URL cannot be fetched now.
        ConfigurationError: a setting of this worker is wrong.
    """
    settings = ImageSettings()
    source = as_source(payload.source)
    data = _read(source, settings)
    rendered = render(
        data,
        RenderOptions(
            width=payload.width,
            height=payload.height,
            fit=payload.fit,
            without_enlargement=payload.without_enlargement,
            format=payload.output_format,
            quality=payload.quality,
            background=payload.background,
        ),
        RenderLimits(max_pixels=settings.max_pixels, max_memory=settings.max_memory),
    )
    name = payload.filename or context.task_id
    if _format_of(name) is None:
        name += _SUFFIXES[rendered.format]
    written = write_output(
        settings.directory,
        name,
        rendered.data,
        task_id=context.task_id,
        attempt=context.attempt,
        # A name made of the task's id cannot be another task's.
        overwrite=payload.overwrite or payload.filename is None,
    )
    return ResizedImage(
        path=str(written),
        format=rendered.format,
        width=rendered.width,
        height=rendered.height,
        bytes=len(rendered.data),
        sha256=hashlib.sha256(rendered.data).hexdigest(),
        source=SourceInfo(
            kind=_kind(source),
            format=rendered.source_format,
            width=rendered.source_width,
            height=rendered.source_height,
            bytes=len(data),
            animated=rendered.source_animated,
        ),
    )


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


def _read(source: Source, settings: ImageSettings) -> bytes:
    if source.url is not None:
        return _fetch(source.url, settings)
    if source.path is not None:
        if settings.root is None:
            raise Discard("path sources are off: TQE_IMAGE_ROOT is not set on this worker")
        return read_below(settings.root, source.path, max_bytes=settings.max_bytes)
    data = source.data or b""
    if len(data) > settings.max_bytes:
        raise Discard(f"the source is larger than the limit of {settings.max_bytes} bytes")
    return data


def _fetch(url: str, settings: ImageSettings) -> bytes:
    try:
        return fetch(url, settings.fetch_policy())
    except FetchRefused as error:
        raise Discard(str(error)) from error
    except FetchFailed as error:
        if error.retry_after is None:
            raise
        raise Retry(error.retry_after, str(error)) from error


def _kind(source: Source) -> Literal["path", "url", "base64"]:
    if source.url is not None:
        return "url"
    return "path" if source.path is not None else "base64"


def _format_of(name: str | None) -> Format | None:
    return _FORMATS.get(PurePosixPath(name).suffix.lower()) if name else None


def _check(member: str, check: Callable[[str], None], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{member} {error}") from None
