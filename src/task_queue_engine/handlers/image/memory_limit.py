"""A ceiling on the memory a piece of work may take, for a while, in a process that lives on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def address_space_limit(extra: int) -> Iterator[None]:
    """Inside, this process can allocate about `extra` bytes more than it has now; beyond that,
    allocations fail with MemoryError. Afterwards the limit is what it was before.

    Only the soft limit is moved, and only downwards, so that it can always be put back. It holds
    for all threads. Where the system does not tell a process its size (anything but Linux)
    nothing is limited.
    """
    used = _address_space()
    if used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + extra
    lowered = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    resource.setrlimit(resource.RLIMIT_AS, (lowered, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int | None:
    """Bytes; the first figure of proc(5)'s statm is in pages."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()
