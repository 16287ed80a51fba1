"""Temporary files of SQLite with a limit to their size, all of them together.

SQLite has none: a sort that does not fit its cache spills as much as it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

_TEMPORARY = (
    apsw.SQLITE_OPEN_TEMP_DB
    | apsw.SQLITE_OPEN_TEMP_JOURNAL
    | apsw.SQLITE_OPEN_TRANSIENT_DB
    | apsw.SQLITE_OPEN_SUBJOURNAL
)


class TempSpace(apsw.VFS):
    """The system's files, temporary ones counted. Use `limited_temp_space`."""

    def __init__(self, limit: int) -> None:
        self.name = f"temp-space-{id(self):x}"
        self.exceeded = False
        self._limit = limit
        self._used = 0
        super().__init__(self.name, base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's
        if flags[0] & _TEMPORARY:
            return _TempFile(self, name, flags)
        return super().xOpen(name, flags)

    def take(self, count: int) -> None:
        """Raises apsw.FullError past the limit."""
        if self._used + count > self._limit:
            self.exceeded = True
            raise apsw.FullError("the limit of temporary space is reached")
        self._used += count


class _TempFile(apsw.VFSFile):
    # Never smaller than it has been: what SQLite truncates it soon fills again.

    def __init__(
        self, space: TempSpace, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._space = space
        self._size = 0
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's
        grown = offset + len(data) - self._size
        if grown > 0:
            self._space.take(grown)
            self._size += grown
        super().xWrite(data, offset)

    def xClose(self) -> None:  # noqa: N802 - SQLite's
        self._space.take(-self._size)
        self._size = 0
        super().xClose()


@contextmanager
def limited_temp_space(limit: int) -> Iterator[TempSpace]:
    """For connections opened with `vfs=space.name`, and closed before this is left.

    Args:
        limit: bytes.
    """
    space = TempSpace(limit)
    try:
        yield space
    finally:
        space.unregister()
