"""What Linux says of other processes, any of which may end while it is asked."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether it lives: a zombie, which stays in the list where nothing reaps it, does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended after the file was open
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(pid: int) -> set[int]:
    """Those that any of its threads has started, zombies included."""
    found: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found.update(map(int, (thread / "children").read_text().split()))
    return found
