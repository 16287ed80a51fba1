"""The task type `image-resize`: a picture from a file, a URL or the payload itself, resized into
a file below `TQE_IMAGE_OUTPUT`.

    {"source": "https://example.com/cat.jpg", "width": 320, "format": "webp"}

It runs in a worker process: a decoder that hangs or crashes takes only that process with it.
Needs Pillow (the extra `images`); without it importing this module raises ImportError.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from task_queue_engine.context import SyncTaskContext
from task_queue_engine.errors import ConfigurationError, CpuTimeExceeded
from task_queue_engine.handlers.fetch.safe_fetch import FetchFailed, FetchRefused, fetch
from task_queue_engine.handlers.image.input import read_below
from task_queue_engine.handlers.image.output import write_output
from task_queue_engine.handlers.image.payload import ImageResize, Source, as_source, format_of
from task_queue_engine.handlers.image.render import (
    Format,
    RenderLimits,
    RenderOptions,
    render,
)
from task_queue_engine.handlers.image.settings import ImageSettings
from task_queue_engine.handlers.process_limits import cpu_time_limit
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Discard, Retry

tasks = TaskRegistry()

_SUFFIXES: dict[Format, str] = {
    "jpeg": ".jpg",
    "png": ".png",
    "webp": ".webp",
    "gif": ".gif",
    "avif": ".avif",
}


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


@tasks.task(
    "image-resize",
    process=True,
    timeout=120,
    on_error={ConfigurationError: None, CpuTimeExceeded: None},
)
def resize_image(payload: ImageResize, context: SyncTaskContext) -> ResizedImage:
    """Resize one picture. A repeated attempt writes the same file again.

    Raises:
        Discard: the source is refused, missing, broken or too large; a URL answered 4xx; the file
            name is taken.
        Retry: a URL's server named a time to come back at; the disk is full or fails.
        FetchFailed: a URL cannot be fetched now.
        ConfigurationError: a setting of this worker is wrong; not retried.

    A picture that takes more CPU time than `TQE_IMAGE_MAX_CPU_SECONDS` ends the process; the task
    then fails with CpuTimeExceeded, and is not retried.
    """
    settings = ImageSettings()
    source = as_source(payload.source)
    data = _read(source, settings)
    with cpu_time_limit(settings.max_cpu_seconds):
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
    if format_of(name) is None:
        name += _SUFFIXES[rendered.format]
    written = write_output(
        settings.directory,
        name,
        rendered.data,
        limits=settings.folder_limits(),
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
