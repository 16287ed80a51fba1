"""How an engine ends: who asks for it, and the whole sequence, from the top of the line down.

Who asks: `Engine.stop` and `request_stop`; the host, by cancelling the engine's nursery; the
supervisor, after a defect. `tqe serve` (`cli/service.py`) asks in two steps, since its HTTP server
has requests to answer in between, and its watchdog (`cli/watchdog.py`) counts beside all of it,
from the signal on:

    a signal ─ the watchdog is armed
       │
       ├─ 1 stop_taking_work()      and the HTTP server answers what it has accepted (5 s at most)
       ├─ 2 request()               for an embedded engine this is the beginning, and includes 1
       │    3 drain                 at most `grace` seconds; a second request skips the rest of it
       │    4 interrupt             at most `flush` seconds
       │    5 the hard deadline
       └─ 6 the rest                then the backend closes, and the watchdog is called off

The watchdog ends the process a few seconds after the hard deadline: what holds the event loop holds
every deadline here too. What holds the interpreter itself holds the watchdog as well: then the
guard (`cli/guard.py`), a process of its own, ends it a little later. `Shutdown.carry_out` is the
steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from task_queue_engine.engine.pipeline import Pipeline

logger = logging.getLogger("task_queue_engine.shutdown")


class Phase(StrEnum):
    RUNNING = "running"
    DRAINING = "draining"
    INTERRUPTING = "interrupting"


class Shutdown:
    """One end of an engine: the requests for it, then its steps.

    Args:
        grace: seconds that running handlers have to finish.
        flush: seconds from the end of the grace to the hard deadline.
    """

    def __init__(self, *, grace: float, flush: float) -> None:
        self._grace_seconds = grace
        self._flush_seconds = flush
        self._no_more_work = trio.Event()
        self._requested = trio.Event()
        # Around the wait for the line to run dry. A second request cancels it.
        self._grace = trio.CancelScope()
        self.phase = Phase.RUNNING

    # --- asking for it ----------------------------------------------------------------------

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def stop_taking_work(self) -> None:
        """Only the first step: a front end still has submissions to hand over."""
        self._no_more_work.set()

    def request(self) -> None:
        """End gracefully. The second call means: now."""
        if self.requested:
            self._grace.cancel()
            return
        self._no_more_work.set()
        self._requested.set()
        self.phase = Phase.DRAINING

    def begin(self) -> None:
        """End gracefully, unless that was asked for before."""
        if not self.requested:
            self.request()

    def hurry(self) -> None:
        """End without any grace."""
        self.begin()
        self._grace.cancel()

    async def instead_of_cancellation(self, run: Callable[[], Awaitable[None]]) -> None:
        """`run()`, out of the host's reach: its cancellation must not tear the line apart in the
        middle, so it becomes a request, and the deadlines below bound what follows."""
        async with trio.open_nursery() as host:
            host.start_soon(self._shielded, run, host.cancel_scope)
            try:
                await trio.sleep_forever()
            finally:
                # The host has cancelled; or `run` is over, and a request no longer matters.
                self.begin()

    async def _shielded(self, run: Callable[[], Awaitable[None]], host: trio.CancelScope) -> None:
        with trio.CancelScope(shield=True):
            await run()
        host.cancel()

    # --- the sequence -----------------------------------------------------------------------

    async def carry_out(self, pipeline: Pipeline) -> None:
        """Wait for the request, then end the pipeline. Each actor that ends closes its channels,
        by which the next one down the line sees the end of its input."""
        line, presence = pipeline.line, pipeline.presence

        # 1. Take no more work. What no handler has started goes back to the queue at once.
        await self._no_more_work.wait()
        if line is not None:
            line.stop_taking_work()
        if presence is not None:
            presence.drain()

        # 2. Close the top: the submitter answers what it has; scheduler and reconciler end, since
        #    they hold nothing.
        await self._requested.wait()
        pipeline.submissions.close()
        pipeline.senders.cancel()

        # 3. Drain: workers finish what they run, the status writer records it, the acker settles.
        self._grace.deadline = trio.current_time() + self._grace_seconds
        with self._grace:
            await pipeline.dry.wait()

        hard_deadline = math.inf
        if self._grace.cancelled_caught:
            # 4. Interrupt: handlers are cancelled, their cleanup runs, their tasks are given back.
            self.phase = Phase.INTERRUPTING
            if line is not None:
                line.interrupt()
            with trio.move_on_after(self._flush_seconds) as flush:
                hard_deadline = flush.deadline
                await pipeline.dry.wait()

            if flush.cancelled_caught:
                # 5. The hard deadline: cancel whatever still hangs.
                pipeline.everything.cancel()
                await pipeline.ended.wait()
                logger.warning(
                    "the time to end is over with %d held message(s) that could not be settled: "
                    "their tasks are taken over when the leases end",
                    pipeline.lease_keeper.statistics().held,
                )

        # 6. The rest: others no longer see this process; leases were kept until the last message
        #    was settled. What still waits for an answer gets one (`Engine._run_pipeline`), worker
        #    processes end, the backend closes.
        if presence is not None:
            with trio.CancelScope(deadline=hard_deadline):
                await presence.leave()
        pipeline.beside.cancel()
        await pipeline.ended.wait()
