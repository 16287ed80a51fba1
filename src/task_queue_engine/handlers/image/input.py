"""Files read from below `TQE_IMAGE_ROOT` under names that come from clients."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.retry import Discard

# Bytes; Linux's PATH_MAX.
_MAX_PATH = 4096


def check_relative(path: str) -> None:
    """Whether `path` is spelled as a file below some directory. Raises ValueError, saying what
    is wrong with it."""
    if not path:
        raise ValueError("must not be empty")
    if "\x00" in path:
        raise ValueError("contains a NUL character (U+0000)")
    if len(path.encode(errors="surrogatepass")) > _MAX_PATH:
        raise ValueError(f"is longer than {_MAX_PATH} bytes")
    if path.startswith("/"):
        raise ValueError("must be relative, not begin with '/'")
    if ".." in path.split("/"):
        raise ValueError("must not contain '..'")


def read_below(root: Path, path: str, *, max_bytes: int) -> bytes:
    """The content of the regular file `path` below `root`.

    Symbolic links are followed as long as they lead to somewhere below `root`. What was checked is
    what is opened: the resolved path is walked directory by directory with no link followed on the
    way, so that swapping one in after the check gains nothing.

    Raises:
        Discard: no such file, not a regular one, outside of `root`, unreadable, too large.
        ConfigurationError: `root` itself is not there or cannot be read.
        OSError: the disk fails.
    """
    try:
        check_relative(path)
    except ValueError as error:
        raise Discard(f"the source path {error}") from None
    try:
        base = root.resolve(strict=True)
        directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{root}: {error.strerror}", variable="TQE_IMAGE_ROOT") from error
    try:
        descriptor = _open_below(directory, _resolve_below(base, path), path)
    finally:
        os.close(directory)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(path)
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Discard(f"the source file is larger than the limit of {max_bytes} bytes")
    return data


def _resolve_below(base: Path, path: str) -> tuple[str, ...]:
    """The names from `base` down to the file, with no link among them."""
    try:
        parts = (base / path).resolve(strict=True).relative_to(base).parts
    except ValueError:
        raise Discard(f"the source path leads out of TQE_IMAGE_ROOT: {path!r}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise Discard(f"no such file below TQE_IMAGE_ROOT: {path!r}") from None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before 3.13
        raise _unreadable(path, error) from None
    if not parts:
        raise _not_regular(path)
    return parts


def _open_below(directory: int, parts: tuple[str, ...], path: str) -> int:
    """A descriptor; the caller closes both."""
    opened: list[int] = []
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(part, flags, dir_fd=directory)
            opened.append(directory)
        # Opening a device can do something, so look first; a pipe would block, so O_NONBLOCK.
        if not stat.S_ISREG(os.lstat(parts[-1], dir_fd=directory).st_mode):
            raise _not_regular(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(parts[-1], flags, dir_fd=directory)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _not_regular(path: str) -> Discard:
    return Discard(f"the source path is not a regular file: {path!r}")


def _unreadable(path: str, error: Exception) -> Discard:
    # Not str(error): it would show where TQE_IMAGE_ROOT is.
    reason = error.strerror if isinstance(error, OSError) else "a loop of links"
    return Discard(f"the source path cannot be read: {path!r} ({reason})")
