"""SIGINT, SIGTERM and SIGHUP as shutdown requests; for the programs, not for embedders."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import trio

from task_queue_engine.execution.forks import set_signals_in_forks

logger = logging.getLogger("task_queue_engine.signals")


async def on_signals(
    request: Callable[[], None],
    *,
    at_once: Callable[[], None],
    wakeup: socket.socket,
    wakeup_fd: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `request` at every SIGINT, SIGTERM or SIGHUP, for as long as this runs. The first asks
    for a graceful end, a second one means now: what is called has to tell them apart, as
    `Engine.request_stop` does. A signal that was ignored before stays so: `nohup` does that.

    Args:
        at_once: called in the signal handler itself, which also runs while a task's handler blocks
            the event loop and `request` has to wait. It may do only what may interrupt anything.
        wakeup_fd: what the interpreter writes every signal to, in place of trio's own socket.
        wakeup: the other end of that, which another process may read along.
    """
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]
    with (
        _as_before_in_forks(numbers),
        trio.open_signal_receiver(*numbers) as signals,
        _before_trio(numbers, at_once),
        _woken_by(wakeup_fd),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, wakeup)
            task_status.started()
            async for number in signals:
                logger.info("%s received", signal.Signals(number).name)
                request()


async def on_child_ends(
    look: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Call `look` when processes that this one has started may have ended, for as long as this
    runs. One call may stand for several."""
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        task_status.started()
        async for _ in signals:
            look()


@contextmanager
def _as_before_in_forks(numbers: list[signal.Signals]) -> Iterator[None]:
    handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in numbers}
    if getattr(handlers[signal.SIGINT], "__module__", None) == "trio._core._ki":
        handlers[signal.SIGINT] = signal.default_int_handler
    set_signals_in_forks(handlers)
    try:
        yield
    finally:
        set_signals_in_forks({})


@contextmanager
def _before_trio(numbers: list[signal.Signals], at_once: Callable[[], None]) -> Iterator[None]:
    trios = signal.getsignal(numbers[0])
    if not callable(trios):
        raise RuntimeError("trio has not set its signal handler")

    def handler(number: int, frame: FrameType | None) -> None:
        at_once()
        trios(number, frame)

    for number in numbers:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, trios)


@contextmanager
def _woken_by(wakeup_fd: int) -> Iterator[None]:
    trios = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(trios)


async def _drain(wakeup: socket.socket) -> None:
    """That it is readable has woken the loop, which is all that is needed: the interpreter then
    calls the handlers."""
    while True:
        await trio.lowlevel.wait_readable(wakeup)
        try:
            while wakeup.recv(4096):
                pass
        except BlockingIOError:
            continue
