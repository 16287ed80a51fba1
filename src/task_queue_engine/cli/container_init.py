"""The first process of a container, where the container runtime has put none in front.

Process 1 inherits every orphan of its container and has to reap it, or it stays a zombie for ever.
A service cannot: it does not know orphans from children whose exit a handler waits for. So the
service becomes a child of process 1, which passes signals on and reaps. With `docker run --init`,
tini or dumb-init in front the service is not process 1, and none of this happens.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def put_init_in_front() -> None:
    """Returns in the process that is to be the service. Before anything starts a thread: it
    forks."""
    if os.getpid() != 1:
        return
    signals = {*_PASSED_ON, signal.SIGCHLD}
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    service = os.fork()
    if service:
        _be_init(service, signals)
    os.setpgid(0, 0)  # a Ctrl-C in the terminal comes to process 1, and from there once
    signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _be_init(service: int, signals: set[signal.Signals]) -> NoReturn:
    """Until the service ends; the container ends with it, whatever else runs there."""
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            os.kill(service, number)
            continue
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == service:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
            if ended == 0:
                break
