"""A disk that fails on demand: a VFS between SQLite and the file system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw


class FaultyDisk(apsw.VFS):
    """While `fault` is set, every write (or sync) of a file it opened raises it."""

    def __init__(self) -> None:
        self.base = apsw.vfs_names()[0]  # the default until now
        super().__init__("faulty", base=self.base, makedefault=True)
        self.fault: apsw.Error | None = None
        self.on_sync: apsw.Error | None = None

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: Any, flags: list[int]) -> None:
        super().__init__(disk.base, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        if self._disk.fault is not None:
            raise self._disk.fault
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        if self._disk.on_sync is not None:
            raise self._disk.on_sync
        super().xSync(flags)


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """Every database opened meanwhile is on it."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.unregister()
