"""What the peers need: an environment for each, and Redis.

    python -m benchmarks.peers.setup          make what is missing, and end

Environments are kept where the local servers are (`local_aws.downloads`), and made anew when
versions.toml names other packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from local_aws.downloads import NotAvailable, virtual_environment

VERSIONS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("versions.toml").read_text(encoding="utf-8")
)

# Seconds for one call of apt-get.
_APT_TIMEOUT = 300


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made where there is none.

    Raises:
        NotAvailable: its packages cannot be installed here; the message says why.
    """
    return virtual_environment(f"peer-{peer}", *VERSIONS[peer]["packages"])


def version_of(peer: str) -> str:
    """As versions.toml pins it: `celery 5.7.0`."""
    name = VERSIONS[peer]["shows"]
    pins = (each.partition("==") for each in VERSIONS[peer]["packages"])
    return next(f"{name} {pin}" for package, _, pin in pins if package.partition("[")[0] == name)


def redis_server() -> str:
    """The program; Debian's package is installed where there is none and this is root.

    Raises:
        NotAvailable: there is none, and it cannot be installed.
    """
    found = shutil.which("redis-server")
    if found:
        return found
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise NotAvailable("redis-server is not installed (on Debian: apt install redis-server)")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "redis-server"]):
        try:
            subprocess.run(
                [apt, "--quiet", "--quiet", *arguments],
                env=quiet,
                check=True,
                capture_output=True,
                text=True,
                timeout=_APT_TIMEOUT,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise NotAvailable(f"redis-server could not be installed: {error}") from None
    found = shutil.which("redis-server")
    if found is None:
        raise NotAvailable("redis-server was installed, and is not on the PATH")
    return found


def prepare() -> int:
    """Make whatever is missing, and say of each whether it is there.

    Returns:
        How many cannot be made here: their rows will say so.
    """
    missing = 0
    wanted: dict[str, Callable[[], object]] = {"redis": redis_server}
    wanted |= {peer: partial(python_of, peer) for peer in VERSIONS}
    for title, make in wanted.items():
        try:
            make()
        except NotAvailable as reason:
            missing += 1
            print(f"{title}: {reason}", file=sys.stderr)
        else:
            print(f"{title}: ready", file=sys.stderr, flush=True)
    return missing


if __name__ == "__main__":
    sys.exit(1 if prepare() else 0)
