"""What is published holds the whole package: the source distribution, and the wheel made of it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def build(target: str, sources: Path, folder: Path) -> Path:
    """The archive of these sources: an `sdist` or a `wheel`."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", folder]
    subprocess.run([*command, "--target", target], cwd=sources, check=True)
    (archive,) = folder.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return archive


def test_both_distributions_hold_every_file_of_the_package(tmp_path: Path) -> None:
    there = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "task_queue_engine").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "task_queue_engine/http/dashboard/templates/layout.html" in there
    # As `python -m build` does it.
    archive = build("sdist", ROOT, tmp_path)
    with tarfile.open(archive) as sources:
        sources.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4 has it
        sources.extractall(tmp_path / "sources")
    (unpacked,) = (tmp_path / "sources").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as packed:
        in_wheel = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert in_wheel == there
