"""Ceilings on what a piece of work may take, for a while, in a process that lives on.

Only soft limits are moved, and only downwards, so that they can always be put back. They hold for
all threads of the process: these are for worker processes.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def address_space_limit(extra: int) -> Iterator[None]:
    """Inside, this process can allocate about `extra` bytes more than it has now; beyond that,
    allocations fail with MemoryError. Where the system does not tell a process its size (anything
    but Linux) nothing is limited.
    """
    used = _address_space()
    if used is None:
        yield
        return
    with _lowered(resource.RLIMIT_AS, used + extra):
        yield


@contextmanager
def cpu_time_limit(extra: float) -> Iterator[None]:
    """Inside, this process can use about `extra` seconds more CPU time than it has used, rounded
    up to whole ones; beyond that the system kills it with SIGXCPU, whatever it is at: the engine
    then raises CpuTimeExceeded for its task. No core is written for that."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    with (
        _lowered(resource.RLIMIT_CORE, 0),
        _lowered(resource.RLIMIT_CPU, math.ceil(used + extra)),
    ):
        yield


@contextmanager
def _lowered(limit: int, wanted: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(limit)
    lowered = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    resource.setrlimit(limit, (lowered, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


def _address_space() -> int | None:
    """Bytes; the first figure of proc(5)'s statm is in pages."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()
