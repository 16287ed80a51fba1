"""SIGINT and SIGTERM as shutdown requests; for the programs, not for embedders."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import trio

logger = logging.getLogger("task_queue_engine.signals")


async def on_signals(
    request: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Call `request` at every SIGINT or SIGTERM, for as long as this runs. The first asks for a
    graceful end, a second one means now: what is called has to tell them apart, as
    `Engine.request_stop` does.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            logger.info("%s received", signal.Signals(number).name)
            request()
