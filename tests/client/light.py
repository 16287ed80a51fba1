"""An environment with `task-queue-engine-client` and what it depends on, and nothing else.

The wheel is built, and what it needs is taken from this environment, without a network; with
TQE_TEST_PIP=1, as in CI, pip installs it as a user would.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_distribution import build

ROOT = Path(__file__).parents[2]
DISTRIBUTION = ROOT / "distributions" / "client"
WITH_PIP = os.environ.get("TQE_TEST_PIP") == "1"


def pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


class LightEnvironment:
    def __init__(self, path: Path) -> None:
        """Makes it, where it is not there yet; for one process at a time."""
        self.python = path / "bin" / "python"
        with_trio = path / "with-trio"
        self.with_trio = {"PYTHONPATH": str(with_trio)}
        """What a program on trio has besides: for its environment."""
        if with_trio.exists():
            return
        venv.create(path, clear=True, symlinks=True)
        (site_packages,) = (path / "lib").glob("python*/site-packages")
        wheel = build("wheel", DISTRIBUTION, path)
        if WITH_PIP:
            pip = [sys.executable, "-m", "pip", "--python", self.python]
            options = ["--disable-pip-version-check", "-q", "--no-compile"]
            subprocess.run([*pip, "install", *options, wheel], check=True)
        else:
            _link(pyproject(DISTRIBUTION)["project"]["dependencies"], site_packages)
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(site_packages)
        with_trio.mkdir()
        _link(["trio"], with_trio)

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
        """What it prints."""
        ended = subprocess.run(
            [self.python, "-W", "error", *arguments],
            cwd=cwd,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


def _link(requirements: Iterable[str], folder: Path) -> None:
    for name in _closure(requirements):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(str(distribution.locate_file(top)))


def _closure(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that these take, with what those take."""
    left, names = list(requirements), set[str]()
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in names:
            names.add(name)
            left += importlib.metadata.requires(name) or []
    return names
