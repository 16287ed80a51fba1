"""What is published holds the whole package: the source distribution, and the wheel made of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(
    os.environ.get("TQE_TEST_PIP") != "1", reason="TQE_TEST_PIP=1 builds with pip and the network"
)
def test_both_distributions_hold_every_file_of_the_package(tmp_path: Path) -> None:
    there = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "task_queue_engine").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "task_queue_engine/http/dashboard/templates/layout.html" in there
    builder = tmp_path / "builder"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", builder]
    subprocess.run([*pip, "hatchling>=1.27"], check=True)

    def build(target: str, cwd: Path) -> None:
        command = [sys.executable, "-m", "hatchling", "build", "--directory", tmp_path]
        environment = os.environ | {"PYTHONPATH": str(builder)}
        subprocess.run([*command, "--target", target], cwd=cwd, env=environment, check=True)

    # As `python -m build` does it.
    build("sdist", ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(tmp_path / "sources", filter="data")
    (unpacked,) = (tmp_path / "sources").iterdir()
    build("wheel", unpacked)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        in_wheel = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert in_wheel == there
