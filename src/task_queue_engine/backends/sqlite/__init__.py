"""Queue and store in one SQLite file."""

from task_queue_engine.backends.sqlite.backend import SqliteBackend
from task_queue_engine.backends.sqlite.opening import check_path

__all__ = ["SqliteBackend", "check_path"]
