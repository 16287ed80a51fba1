"""The program of the guard, see `guard.py`: `SERVICE SIGNALS CONTROL TIMEOUT HURRIED text|json`.

It runs in an interpreter without site packages, so it imports nothing but the standard library, and
of that little: it is there for as long as the service is, and should weigh next to nothing.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

_SHUTDOWN = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

# Seconds between looks at signals that are not for us, while the service does not take them.
_LOOK_AGAIN = 0.05

_LAST_WORDS = (
    "the time to end is over and the interpreter does not turn, most likely because a handler "
    "holds its lock (a regular expression, a C library): killing the process; held tasks are "
    "taken over when their leases end"
)


def main() -> None:
    service, signals_fd, control_fd = (int(argument) for argument in sys.argv[1:4])
    timeout, hurried = float(sys.argv[4]), float(sys.argv[5])
    for number in _SHUTDOWN:
        signal.signal(number, signal.SIG_IGN)  # a service manager may send them to all processes
    control, signals = socket.socket(fileno=control_fd), socket.socket(fileno=signals_fd)
    watched = select.poll()
    watched.register(control, select.POLLIN)
    watched.register(signals, select.POLLIN)

    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        left = None if deadline is None else 1000 * (deadline - time.monotonic())
        seconds: list[float] = []
        for descriptor, _ in watched.poll(left):
            if descriptor == control_fd:
                orders = control.recv(64)
                if not orders:
                    return  # the service has ended
                seconds += [hurried if order == ord("h") else timeout for order in orders]
            elif _SHUTDOWN.intersection(_peek(signals)):
                watched.unregister(signals)
                seconds.append(timeout)
            else:
                time.sleep(_LOOK_AGAIN)
        for one in seconds:
            end = time.monotonic() + one
            deadline = end if deadline is None else min(deadline, end)

    if os.getppid() == service:
        _say()
        os.kill(service, signal.SIGKILL)


def _peek(signals: socket.socket) -> bytes:
    """The numbers of the signals that the service has not taken yet: they stay there for it."""
    try:
        return signals.recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def _say() -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    if sys.argv[6] == "json":
        line = (
            f'{{"time":"{now}Z","level":"CRITICAL","logger":"task_queue_engine.watchdog",'
            f'"message":"{_LAST_WORDS}"}}\n'
        )
    else:
        line = f"{now}.000Z CRITICAL watchdog: {_LAST_WORDS}\n"
    # Where it is written to may be what everything hangs on, or closed.
    stderr = select.poll()
    stderr.register(2, select.POLLOUT)
    try:
        if stderr.poll(0):
            os.write(2, line.encode())
    except OSError:
        return


if __name__ == "__main__":
    main()
