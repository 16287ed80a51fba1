"""Whether a setting can be the path of an SQLite file. Beside the backend and not in it: a command
looks at the path before it loads what opens the file, or never does."""

from __future__ import annotations

from task_queue_engine.errors import BackendRefused


def check_path(path: str) -> None:
    """Raises BackendRefused for what SQLite would take for something else than a file's name."""
    if not path or path == ":memory:" or path.startswith("file:") or "\0" in path:
        raise BackendRefused(
            f"{path!r} is not the path of a file; set TQE_DATABASE to one (nothing else outlives "
            "the process, and a queue has to)"
        )
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 come as lone surrogates (PEP 383)
        raise BackendRefused(
            f"{path!r} is not UTF-8, as SQLite needs a path to be; set TQE_DATABASE to another one"
        ) from None
