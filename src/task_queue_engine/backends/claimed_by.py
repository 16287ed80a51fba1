"""Which version claimed a task, kept so that no older process's claim passes for it.

A process that knows nothing of it leaves there what it finds; so it says of which worker it is. By
a checksum: the name itself lies beside it, and would be twice in every row.
"""

from __future__ import annotations

import zlib
from functools import lru_cache


@lru_cache(maxsize=64)  # a few processes claim: once for each
def claimed_by(version: str | None, worker: str | None) -> str | None:
    """What is stored."""
    return None if version is None or worker is None else f"{version} {_checksum(worker)}"


def version_of(stored: str | None, worker: str | None) -> str | None:
    """The version of the `worker` that started the latest attempt; None: it did not say."""
    version, _, checksum = (stored or "").partition(" ")
    return version if worker is not None and checksum == _checksum(worker) else None


def _checksum(worker: str) -> str:
    return f"{zlib.crc32(worker.encode()):08x}"
