"""The end of a service's process, after its last line in the log.

The interpreter's own end waits for every thread that is not a daemon (those of a busy
ThreadPoolExecutor among them), for child processes that handlers left, and for atexit functions of
libraries, without any bound. All that the service has to do is done by then: atexit functions get
a moment, since error reporters and tracers send their last batch in one, and nothing else does.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from typing import NoReturn

logger = logging.getLogger("task_queue_engine.service")

# Seconds for atexit functions: those of error reporters wait for 2 to 3 by default.
_LAST_CALLS = 5.0


def leave(code: int) -> NoReturn:
    """End this process with `code`, within `_LAST_CALLS` seconds and a little."""
    with contextlib.suppress(RuntimeError):  # no thread to be had: then nothing is waited for
        threading.Thread(target=_force, args=(code,), daemon=True).start()
        atexit._run_exitfuncs()  # prints what they raise, and raises nothing itself
    _flush()
    os._exit(code)


def _force(code: int) -> None:
    time.sleep(_LAST_CALLS)
    # The log may be what it hangs on: once more in a thread, and not for long.
    words = threading.Thread(target=_say_why, daemon=True)
    words.start()
    words.join(1)
    os._exit(code)


def _say_why() -> None:
    logger.warning(
        "functions registered with atexit, or what they wait for (child processes that handlers "
        "left?), have not ended within %g s: leaving without them",
        _LAST_CALLS,
    )
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
