"""Draining one SQLite file with several processes: every task is done, and commits are counted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.capacity.one_file import drain, sync_seconds


def test_two_processes_drain_one_file(tmp_path: Path) -> None:
    found = drain(processes=2, workers=2, prefetch=0, count=40, folder=str(tmp_path))
    assert found.tasks_per_second > 0
    assert found.commits_per_task > 0
    assert 0 < found.writer_cpu_us_per_task < found.cpu_us_per_task


def test_a_sync_takes_time(tmp_path: Path) -> None:
    assert sync_seconds(str(tmp_path)) > 0
