"""How many processes can run at a time: what the machine has, and what this one may use of it."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_cores(*, cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """The cores that this process may run on (taskset, a cpuset), and no more than its CPU quota
    (`docker run --cpus`, a Kubernetes limit) pays for, a part of one counted as one."""
    try:
        cores = len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore] # Linux
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroups, own))))


def _quota(cgroups: Path, own: Path) -> float:
    """The cores' worth of time that this process and those beside it get; infinity: no limit."""
    quota = math.inf
    for folder in _folders(cgroups, own):
        try:
            if (folder / "cpu.max").exists():  # version 2
                limit, period = (folder / "cpu.max").read_text().split()
            else:
                limit = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            if limit not in ("max", "-1"):
                quota = min(quota, int(limit) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # not a limit of this kind
    return quota


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """Of this process's control group and of all above it: each may have a quota. In a container
    only the root may be there, which is then the container's own."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    folders = [cgroups, cgroups / "cpu"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups if not controllers else cgroups / "cpu"
        if not controllers or "cpu" in controllers.split(","):
            inside = PurePosixPath(path.lstrip("/"))
            folders += [root / inside, *(root / parent for parent in inside.parents)]
    return folders
