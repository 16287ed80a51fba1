"""Ends a process whose interpreter is held, and one that does not end after its last line.

The watchdog is a thread, and needs the interpreter lock to act. A handler inside a regular
expression or a C library may hold it for minutes: then no thread runs, and Python does not even
notice the signal. This guard is a process beside the service that shares with it the socket which
the interpreter's own C code writes every signal to (`signal.set_wakeup_fd`), so it hears of a
SIGTERM in the moment it comes. It waits a little longer than the watchdog, which can say more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

logger = logging.getLogger("task_queue_engine.watchdog")

_PROGRAM = Path(__file__).with_name("guard_process.py")


class Guard:
    """Asleep until a shutdown begins, and there until this process has ended.

    Args:
        timeout: seconds from `arm`, or from a signal that nothing here has noticed, to the end.
        hurried_timeout: seconds from `hurry` to the end.
        as_json: whether its last words are a JSON line.
    """

    def __init__(self, *, timeout: float, hurried_timeout: float, as_json: bool) -> None:
        self._arguments = (str(timeout), str(hurried_timeout), "json" if as_json else "text")
        self.signals, self._signals_in = socket.socketpair()
        """Readable when a signal has come, once `wakeup_fd` is set."""
        self._control, self._control_out = socket.socketpair()
        for end in (self.signals, self._signals_in, self._control):
            end.setblocking(False)
        self._process: subprocess.Popen[bytes] | None = None
        # A forked copy must not look like this process to the guard, which ends with it.
        os.register_at_fork(after_in_child=self._let_go)

    @property
    def wakeup_fd(self) -> int:
        """For `signal.set_wakeup_fd`."""
        return self._signals_in.fileno()

    def start(self) -> None:
        # The one variable that an interpreter may need to start at all.
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        shared = (self.signals.fileno(), self._control_out.fileno())
        arguments = (str(os.getpid()), *map(str, shared), *self._arguments)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
                # Without the site packages, and whatever they do at a start.
                [sys.executable, "-I", "-S", str(_PROGRAM), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=shared,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
                env=kept,
            )
        except OSError as error:
            logger.warning("no guard process could be started (%s): going on without", error)
        self._control_out.close()

    def arm(self) -> None:
        """A shutdown has begun. May be called again, and from a signal handler: the earliest end
        counts."""
        self._tell(b"a")

    def hurry(self) -> None:
        """The shutdown is to be over at once."""
        self._tell(b"h")

    def _tell(self, order: bytes) -> None:
        with contextlib.suppress(OSError):  # it is gone, or has heard of it many times
            self._control.send(order)

    def _let_go(self) -> None:
        for end in (self.signals, self._signals_in, self._control):
            end.close()
