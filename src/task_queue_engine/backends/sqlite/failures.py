"""SQLite's errors as the engine's: what passes by itself, what never will, and what is a defect."""

from __future__ import annotations

from pathlib import Path

import apsw

from task_queue_engine.errors import BackendError, BackendRefused, BackendUnavailable

# Seconds: until an operator has made room or mended permissions, not with another try in a second.
_RETRY_AFTER = 5.0


def translate(error: apsw.Error, path: str) -> BackendError | None:
    """What to raise instead; None for errors that only a defect of this package can cause.

    Nothing was written where this is answered: the transaction was rolled back.
    """
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return BackendUnavailable(f"{path} is locked by another process ({error})")
        case apsw.FullError():
            return BackendUnavailable(f"no room for {path}: {error}", retry_after=_RETRY_AFTER)
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            folder = Path(path).absolute().parent
            return BackendUnavailable(
                f"{path} cannot be written ({error}); check that it and {folder} may be written",
                retry_after=_RETRY_AFTER,
            )
        case apsw.IOError() | apsw.NoMemError() | apsw.ProtocolError() | apsw.InterruptError():
            return BackendUnavailable(f"{path}: {error}")
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError():
            return BackendRefused(
                f"{path} is damaged or not a SQLite database ({error}); "
                "move it away or restore it from a backup"
            )
        case _:
            return None
