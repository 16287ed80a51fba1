"""An environment with `task-queue-engine-client` and what it depends on, and nothing else.

Made of what this one has, without a network; with TQE_TEST_PIP=1, as in CI, pip builds and installs
it as a user would.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DISTRIBUTION = ROOT / "distributions" / "client"
WITH_PIP = os.environ.get("TQE_TEST_PIP") == "1"


def pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


class LightEnvironment:
    def __init__(self, path: Path) -> None:
        self.python = path / "bin" / "python"
        venv.create(path, with_pip=WITH_PIP, symlinks=True)
        (self._site_packages,) = (path / "lib").glob("python*/site-packages")
        if WITH_PIP:
            self._pip("install", str(DISTRIBUTION))
            return
        described = pyproject(DISTRIBUTION)
        self._link(described["project"]["dependencies"])
        for path_in_it in described["tool"]["hatch"]["build"]["only-include"]:
            target = self._site_packages / Path(path_in_it).relative_to("src")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((DISTRIBUTION / path_in_it).resolve())

    def add_trio(self) -> None:
        """As a program on trio has it."""
        if WITH_PIP:
            self._pip("install", "trio")
        else:
            self._link(["trio"])

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

    def _pip(self, *arguments: str) -> None:
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
        subprocess.run(command, check=True)

    def _link(self, requirements: Iterable[str]) -> None:
        for name in _closure(requirements):
            distribution = importlib.metadata.distribution(name)
            for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                target = self._site_packages / top
                if not target.exists():
                    target.symlink_to(str(distribution.locate_file(top)))


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
