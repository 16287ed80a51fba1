"""Third-party servers, fetched once with their registries' own clients and kept outside
the source tree: `$XDG_CACHE_HOME/task-queue-engine` (`~/.cache/task-queue-engine`).
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

INSTALL_TIMEOUT: Final = 300
"""Seconds."""
TRIES: Final = 3
"""Registries have bad moments."""
# Seconds between two tries: most of those moments are over by then.
_PAUSE: Final = 5.0

_NODE_PLATFORMS = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "darwin-arm64",
}


class NotAvailable(Exception):
    """This machine lacks what the server needs; the message says what."""


def maven(name: str, coordinates: str) -> Path:
    """The folder with the jars of `group:artifact:version` and all they need."""
    group, artifact, version = coordinates.split(":")

    def install(folder: Path) -> None:
        (folder / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0">'
            "<modelVersion>4.0.0</modelVersion>"
            "<groupId>local</groupId><artifactId>local</artifactId><version>1</version>"
            f"<dependencies><dependency><groupId>{group}</groupId>"
            f"<artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
            "</dependencies></project>"
        )
        _run(
            [
                _program("mvn", "Maven"),
                "--quiet",
                "--batch-mode",
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                "-DoutputDirectory=lib",
            ],
            folder,
        )

    return _installed(f"{name}-{version}", install) / "lib"


def npm(name: str, *packages: str) -> Path:
    """The folder `node_modules` with these packages (`name@version`)."""

    def install(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}')
        _run(
            [
                _program("npm", "npm"),
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--omit=dev",
                *packages,
            ],
            folder,
        )

    version = packages[0].rpartition("@")[2]
    return _installed(f"{name}-{version}", install) / "node_modules"


def virtual_environment(name: str, *requirements: str) -> Path:
    """The Python of an environment of its own: for packages whose pins would fight ours."""

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        _run([str(folder / "bin/python"), "-m", "pip", "install", "-q", *requirements], folder)

    version = requirements[0].rpartition("=")[2]
    if len(requirements) > 1:  # another pin of any of them is another environment
        version += f"-{zlib.crc32(' '.join(requirements).encode()):08x}"
    return _installed(f"{name}-{version}", install, in_place=True) / "bin" / "python"


def debian(name: str) -> Path:
    """The folder into which Debian's package of this name is unpacked, as under `/`. It is not
    installed: no service of it starts, and it takes no rights. So it has to do with what it
    brings."""

    def install(folder: Path) -> None:
        apt = _program("apt-get", "apt")
        try:
            _run([apt, "--quiet", "download", name], folder)
        except NotAvailable:
            if os.geteuid() != 0:
                raise
            _run([apt, "--quiet", "update"], folder)  # there was no list of packages, or an old one
            _run([apt, "--quiet", "download", name], folder)
        (package,) = folder.glob("*.deb")
        _run([_program("dpkg-deb", "dpkg"), "--extract", str(package), str(folder)], folder)
        package.unlink()

    return _installed(f"debian-{name}", install)


def prometheus() -> Path:
    """The folder of the programs `prometheus` and `promtool`.

    Raises:
        NotAvailable: they are not on the PATH, and this system has no package of them.
    """
    found = [shutil.which(program) for program in ("prometheus", "promtool")]
    if found[0] and found[1]:
        return Path(found[0]).parent
    return debian("prometheus") / "usr" / "bin"


def chromium() -> Path:
    """The browser that tests look at the pages with: Debian's, installed where this is root and it
    is missing. Its headless shell is preferred: the same engine without a browser's windows, for a
    third of the CPU time.

    Raises:
        NotAvailable: it is not on the PATH, and this system does not install it.
    """
    names = ("chromium-headless-shell", "chromium", "chromium-browser")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        apt = _program("apt-get", "apt")
        if os.geteuid() != 0:
            raise NotAvailable("Chromium is not installed, and only root may do that")
        _run([apt, "--quiet", "update"], Path("/"))
        # Fonts, since without any a page's text is empty boxes.
        install = [apt, "--quiet", "--yes", "install", "fonts-dejavu-core"]
        try:
            _run([*install, names[0]], Path("/"))
        except NotAvailable:  # Debian 11 and Ubuntu have no package of it
            _run([*install, names[1]], Path("/"))
        found = next(filter(None, map(shutil.which, names)), None) or _program(names[1], "Chromium")
    return Path(found)


def axe() -> Path:
    """The script that looks for what keeps people from using a page (axe-core)."""
    return npm("axe", "axe-core@4.14.1") / "axe-core" / "axe.min.js"


def node_package(version: str) -> str:
    """The npm package that carries Node.js itself for this machine, as `name@version`."""
    found = _NODE_PLATFORMS.get((platform.system(), platform.machine()))
    if found is None:
        raise NotAvailable(f"no Node.js package for {platform.system()} on {platform.machine()}")
    return f"node-{found}@{version}"


def _program(command: str, title: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise NotAvailable(f"{title} ({command}) is not installed")
    return found


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "task-queue-engine"


def _installed(name: str, install: Callable[[Path], None], *, in_place: bool = False) -> Path:
    """The folder of this name in the cache, made by `install` where there is none.

    It is made beside and moved when whole, so that an aborted download leaves nothing that looks
    finished. `in_place`: for what does not survive being moved; a mark says that it is whole.
    """
    folder = _cache() / name
    mark = folder / ".complete"
    if mark.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{name}.lock")):
        if mark.exists():
            return folder
        work = folder if in_place else folder.with_name(f"{name}.part")
        for leftover in (folder, work):
            shutil.rmtree(leftover, ignore_errors=True)
        work.mkdir()
        try:
            install(work)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        (work / ".complete").touch()
        if work != folder:
            work.rename(folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], folder: Path) -> None:
    for tries_left in reversed(range(TRIES)):
        try:
            subprocess.run(
                command,
                cwd=folder,
                check=True,
                timeout=INSTALL_TIMEOUT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "").strip().splitlines()
            last = said[-1] if said else f"exit code {error.returncode}"
            failure = f"{Path(command[0]).name} could not fetch it: {last}"
        except subprocess.TimeoutExpired:
            failure = f"{Path(command[0]).name} did not fetch it within {INSTALL_TIMEOUT} s"
        else:
            return
        if tries_left:
            time.sleep(_PAUSE)
    raise NotAvailable(failure)
