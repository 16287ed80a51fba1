"""What every task came to, held against what its handlers say they did."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple


class Note(NamedTuple):
    """A line of the handlers' log (see `crash_tasks.note`)."""

    what: str
    """"start" or "return"."""
    task_id: str
    attempt: int
    at: float
    pid: int


def read_log(path: Path) -> list[Note]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Note(*json.loads(line)) for line in lines]


@dataclass
class Account:
    """
    Args:
        accepted: what was answered to submissions, by task id.
        rows: the tasks at the end, as the API has them.
        cancelled: task id -> its `attempt` when a cancel was answered with CANCELLED.
    """

    accepted: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, Mapping[str, Any]]
    log: list[Note]
    cancelled: Mapping[str, int] = field(default_factory=dict)

    @property
    def starts(self) -> list[Note]:
        return [note for note in self.log if note.what == "start"]

    def runs(self) -> dict[str, list[Note]]:
        """The starts of each task that was ever started, by attempt."""
        found: defaultdict[str, list[Note]] = defaultdict(list)
        for note in self.starts:
            found[note.task_id].append(note)
        return {
            task_id: sorted(notes, key=lambda note: note.attempt)
            for task_id, notes in found.items()
        }

    def check(self) -> None:
        returned = {(note.task_id, note.attempt) for note in self.log if note.what == "return"}

        assert self.accepted.keys() <= self.rows.keys(), "lost"
        for task_id, row in self.rows.items():
            assert row["status"] in ("COMPLETED", "FAILED", "CANCELLED"), row
            if row["status"] == "COMPLETED":
                assert (task_id, row["attempt"]) in returned, "COMPLETED without a run"
        for task_id, task in self.accepted.items():
            status = self.rows[task_id]["status"]
            if task["type"] in ("hopeless", "poison"):
                assert status in ("FAILED", "CANCELLED"), task
            else:
                assert status in ("COMPLETED", "CANCELLED"), task

        times = Counter((note.task_id, note.attempt) for note in self.starts)
        assert max(times.values()) == 1, "one attempt was started twice"
        for note in self.starts:
            row = self.rows[note.task_id]
            assert note.attempt <= row["attempt"]
            if note.task_id in self.cancelled:
                assert note.attempt <= self.cancelled[note.task_id], "started after its cancel"
            answer = self.accepted.get(note.task_id, {})
            run_at = answer.get("run_at")
            # Submitted again after it had begun, it may have been answered with a retry's time.
            if run_at is not None and answer["attempt"] == 0:
                assert note.at >= datetime.fromisoformat(run_at).timestamp(), "started early"
