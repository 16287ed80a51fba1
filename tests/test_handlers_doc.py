"""Every snippet of docs/handlers.md runs as it is printed: the modules are imported, the program
is run and its tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parent.parent / "docs" / "handlers.md"
SNIPPETS = dict(
    re.findall(
        r"^```python\n# (\w+\.py)\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S
    )
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in SNIPPETS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n", encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_is_left_out() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count("```python\n") == len(SNIPPETS)


def test_its_tests_pass(folder: Path) -> None:
    modules = [name for name in SNIPPETS if name.startswith("test_")]
    assert modules
    run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules)


def test_its_program_runs(folder: Path) -> None:
    said = run(folder, "embedded.py").splitlines()
    assert said[0] == "ship-order starts, attempt 1"
    # A result may be found in the store before the hook is called. The second order may start
    # before the engine stops.
    assert "ship-order succeeded and is COMPLETED" in said
    others = [line for line in said if not line.startswith("ship-order")]
    assert others == ["PKG-7", "Accepted", "Refused"]
