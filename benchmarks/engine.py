"""This engine as processes: of the sources here, or of an earlier commit's."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT, commit_of

_OURS = ("TQE_", "AWS_", "SQS_", "DYNAMODB_", "BENCH_")


@dataclass(frozen=True)
class Build:
    """Sources to run, with the interpreter and the packages of this process."""

    source: Path
    """Holds the package."""
    commit: str

    def environment(self, **more: str) -> dict[str, str]:
        """Ours without any setting of the engine, and with these; benchmarks are importable."""
        kept = {
            name: setting
            for name, setting in os.environ.items()
            if not name.startswith(_OURS) and name not in ("WORKER_COUNT", "PORT", "PYTHONPATH")
        }
        path = os.pathsep.join((str(self.source), str(ROOT)))
        return kept | {"PYTHONPATH": path, "TQE_LOG_LEVEL": "WARNING"} | more

    def command(self, *arguments: str) -> list[str]:
        """`tqe` with these arguments."""
        return [sys.executable, "-m", "task_queue_engine", *arguments]

    def python(self, module: str, arguments: Sequence[str] = ()) -> list[str]:
        return [sys.executable, "-m", module, *arguments]


HERE = Build(ROOT / "src", "")


def checked_out(wanted: str, folder: Path) -> Build:
    """An earlier state of this project.

    Args:
        wanted: a folder with a checkout, or a commit of this repository.
        folder: where a commit's sources are put.

    Raises:
        SystemExit: it is neither.
    """
    path = Path(wanted)
    if (path / "src" / "task_queue_engine").is_dir():
        return Build((path / "src").resolve(), commit_of(path))
    named = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--short", f"{wanted}^{{commit}}"]
    try:
        commit = subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(
            f"--against: {wanted} is neither a commit of this repository nor a folder with a"
            " checkout of it"
        ) from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as sources:
        sources.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4 has it
        sources.extractall(folder)
    return Build(folder / "src", commit)
