"""SIGINT and SIGTERM as shutdown requests; for the programs, not for embedders."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import trio

logger = logging.getLogger("task_queue_engine.signals")


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def on_signals(
    request: Callable[[], None],
    *,
    at_once: Callable[[], None] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `request` at every SIGINT or SIGTERM, for as long as this runs. The first asks for a
    graceful end, a second one means now: what is called has to tell them apart, as
    `Engine.request_stop` does.

    `at_once` is called in the signal handler itself, which also runs while a task's handler blocks
    the event loop and `request` has to wait. It may do only what may interrupt anything.
    """
    with trio.open_signal_receiver(*_SIGNALS) as signals, _before_trio(at_once):
        task_status.started()
        async for number in signals:
            logger.info("%s received", signal.Signals(number).name)
            request()


@contextmanager
def _before_trio(at_once: Callable[[], None] | None) -> Iterator[None]:
    if at_once is None:
        yield
        return
    trios = signal.getsignal(_SIGNALS[0])
    if not callable(trios):
        raise RuntimeError("trio has not set its signal handler")

    def handler(number: int, frame: FrameType | None) -> None:
        at_once()
        trios(number, frame)

    for number in _SIGNALS:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, trios)
