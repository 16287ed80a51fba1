"""One mechanism taken out of the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = Path("src/task_queue_engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A mechanism of a promise, by its text in the source, and what stands there without it."""

    promise: str
    """As in the README."""
    without: str
    """What is missing then, for who reads the report."""
    file: str
    """Below src/task_queue_engine."""
    old: str
    """Occurs once in the file."""
    new: str
    killed_by: tuple[str, ...]
    """The tests that have to fail, as `docs/architecture.md` names them: file::function."""

    def apply(self, source: Path) -> None:
        """Change the copy of the package below `source`.

        Raises:
            LookupError: the text is not there, or more than once: the list is out of date.
        """
        path = source / "task_queue_engine" / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} has {text.count(self.old)} times: {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
