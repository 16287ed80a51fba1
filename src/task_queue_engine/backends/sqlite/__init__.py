"""Queue and store in one SQLite file."""

from task_queue_engine.backends.sqlite.backend import SqliteBackend

__all__ = ["SqliteBackend"]
