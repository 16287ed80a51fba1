"""A program of its own: imports `tqe` and forks for each start, of that or of another module that
needs the same. See `preloaded.py`."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
from typing import Any

MOST = 1 << 20
"""Bytes of a start: arguments and environment."""
PACKAGE = "task_queue_engine"
# What `tqe serve` has loaded once it listens, on SQLite or AWS.
MODULES = (
    "cli.commands.services",
    "cli.service",
    "http.server",
    "backends.sqlite",
    "backends.aws.backend",
)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in MODULES:
        importlib.import_module(f"{PACKAGE}.{name}")
    # The last collection of each program would copy what is shared, to walk through it: 0.3 s.
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MOST, 4)
        bury()
        if not message:  # the tests are over
            return
        if os.fork() == 0:
            control.close()
            if be_the_program(descriptors):
                run(json.loads(message))
                return
        for descriptor in descriptors:
            os.close(descriptor)


def bury() -> None:
    """Those that have waited for a program to its end."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def be_the_program(descriptors: list[int]) -> bool:
    """Returns in the program. Its parent writes two lines, its process id and how it ended."""
    told = descriptors.pop()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        # As a login has it, and not as `nohup make test` does.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        for descriptor in {*descriptors, told}:
            os.close(descriptor)
        return True
    for descriptor in set(descriptors):
        os.close(descriptor)
    os.write(told, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def run(given: Any) -> None:
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["env"])
    time.tzset()
    sys.path[0] = given["cwd"]
    sys.orig_argv = [sys.executable, "-m", given["module"], *given["arguments"]]
    sys.argv = [sys.argv[0], *given["arguments"]]
    runpy.run_module(given["module"], run_name="__main__", alter_sys=True)


main()
