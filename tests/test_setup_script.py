"""scripts/setup, with a Python that only pretends to install: nothing is fetched here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PRETENDER = """#!/bin/sh
case "$1 ${2-}" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "venv" >>"$LOG" ;;
    "-m pip")
        case $3 in
            install)
                for last; do :; done
                echo "pip $last" >>"$LOG"
                exit "${PIP_STATUS:-0}" ;;
        esac ;;
    "-c "*"version_info < (3, 11)"*) exit "${TOO_OLD:-0}" ;;
    "-c "*ensurepip*) exit "${NO_VENV:-0}" ;;
    "-c "*base_executable*) echo "$0" ;;
    "-c "*'"%d.%d.%d"'*) echo "${VERSION:-3.11.2}" ;;
    "-c "*base_prefix*) echo "${ORIGIN:-somewhere}" ;;
esac
"""


class Project:
    """A folder with what the script needs, and a PATH with nothing but its tools."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a folder with spaces"
        self.tools = root / "bin"
        self.log = root / "log"
        (self.root / "scripts").mkdir(parents=True)
        self.tools.mkdir()
        shutil.copy(ROOT / "scripts/setup", self.root / "scripts/setup")
        (self.root / "pyproject.toml").write_text("[project]\n")
        for tool in ("cat", "cmp", "cp", "cut", "dirname", "head", "mkdir", "rm", "sh"):
            found = shutil.which(tool)
            assert found
            (self.tools / tool).symlink_to(found)
        self.add_python("python3")

    def add_python(self, name: str) -> Path:
        path = self.tools / name
        path.write_text(PRETENDER)
        path.chmod(0o755)
        return path

    def run(self, purpose: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "scripts/setup", purpose],
            cwd=self.root,
            env={"PATH": str(self.tools), "LOG": str(self.log), **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def done(self, purpose: str, **environment: str) -> list[str]:
        """What a run that succeeds did: "venv" and "pip EXTRAS"."""
        self.log.unlink(missing_ok=True)
        run = self.run(purpose, **environment)
        assert run.returncode == 0, run.stderr
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_it_installs_once_and_again_after_a_change_of_pyproject(project: Project) -> None:
    assert project.done("dev") == ["venv", "pip .[aws,images,dev]"]
    assert project.done("dev") == []
    (project.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert project.done("dev") == ["pip .[aws,images,dev]"]
    assert project.done("dev") == []


def test_serving_takes_less_and_is_content_with_more(project: Project) -> None:
    assert project.done("serve") == ["venv", "pip .[aws,images]"]
    assert project.done("dev") == ["pip .[aws,images,dev]"]
    assert project.done("serve") == []


@pytest.mark.parametrize("first", ["serve", "dev"])
def test_after_an_interrupted_installation_it_starts_from_nothing(
    project: Project, first: str
) -> None:
    assert project.run(first, PIP_STATUS="1").returncode == 1
    assert project.done("serve") == ["venv", "pip .[aws,images]"]
    assert project.run("dev", PIP_STATUS="1").returncode == 1
    assert project.done("serve") == ["venv", "pip .[aws,images]"]


def test_a_moved_folder_and_another_interpreter_rebuild_it(project: Project) -> None:
    project.done("serve")
    project.root = project.root.rename(project.root.with_name("moved"))
    assert project.done("serve") == ["venv", "pip .[aws,images]"]
    assert project.done("serve", PYTHON="python3") == []
    other = project.add_python("python3.99")
    other.write_text(PRETENDER.replace("somewhere", "elsewhere"))
    assert project.done("serve", PYTHON="python3.99") == ["venv", "pip .[aws,images]"]
    assert project.done("serve") == []


def test_one_that_somebody_else_made_is_kept(project: Project) -> None:
    subprocess.run(
        [project.tools / "python3", "-m", "venv", project.root / ".venv"],
        env={"PATH": str(project.tools), "LOG": str(project.log)},
        check=True,
        timeout=30,
    )
    assert project.done("serve") == ["pip .[aws,images]"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"TOO_OLD": "1", "VERSION": "3.9.2"},
            (
                "Python 3.11 or newer is needed (python3 is 3.9.2);"
                " install it, or name one: make PYTHON=/path/to/python3.12 ..."
            ),
        ),
        (
            {"NO_VENV": "1"},
            (
                "python3 cannot make virtual environments"
                " (on Debian and Ubuntu: apt install python3.11-venv)"
            ),
        ),
        ({"PYTHON": "python3.77"}, "PYTHON=python3.77 does not run"),
    ],
)
def test_an_unfit_machine_gets_one_line_that_says_what_to_do(
    project: Project, environment: dict[str, str], message: str
) -> None:
    run = project.run("serve", **environment)
    assert (run.returncode, run.stderr) == (1, f"set-up: {message}\n")
    assert not (project.root / ".venv").exists()
