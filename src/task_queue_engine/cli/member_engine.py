"""The engine of one process among several: what it says of itself it says of all of them, since a
client does not know which one answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import trio

from task_queue_engine.cli.group_messages import NOTHING, State, What, Whole
from task_queue_engine.cli.membership import Membership
from task_queue_engine.cli.whole import add_up
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import Readiness
from task_queue_engine.engine.engine import Engine
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.engine.views import MetricsView
from task_queue_engine.registry import TaskRegistry

_view = msgspec.json.Decoder(MetricsView)
_state = msgspec.json.Decoder(State)


class MemberEngine(Engine):
    def __init__(
        self, tasks: TaskRegistry, settings: Settings, *, consume: bool, membership: Membership
    ) -> None:
        super().__init__(tasks, settings, consume=consume)
        self._membership = membership
        self._leaving = False

    async def listen(
        self,
        on_order: Callable[[bool], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take the supervisor's orders, and answer what it asks for the others, until cancelled."""
        await self._membership.run(on_order=on_order, report=self._report, task_status=task_status)

    async def tell_ready(self) -> None:
        await self._membership.tell_ready(await self._report("metrics"))

    def stop_taking_work(self) -> None:
        self._leaving = True
        super().stop_taking_work()

    async def metrics(self) -> EngineMetrics:
        """Counts and depth once, all else added up over the processes of this server."""
        own = await super().metrics()
        whole = await self._membership.ask("metrics", _raw(MetricsView.of(own)))
        added_up = add_up(own, (_view.decode(value).metrics() for _, value in whole.values))
        restarts = {"processes_restarted": whole.restarts}
        return replace(added_up, counters=added_up.counters | restarts)

    async def ready(self) -> Readiness:
        """Not ready where a process that serves is not. One that is away serves no one: the others
        do, and it is a note."""
        whole = Whole()

        async def ask() -> None:
            nonlocal whole
            whole = await self._membership.ask("ready")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            own = await super().ready()
        return _of_all(own, whole)

    async def _report(self, what: What) -> msgspec.Raw:
        """This process's own part, for the others."""
        if self._running is None:
            return NOTHING
        if what == "metrics":
            return _raw(MetricsView.of(self.latest_metrics()))
        own = await super().ready()
        return _raw(
            State(
                ready=own.ready,
                reasons=own.reasons,
                notes=own.notes,
                abandoned_threads=own.abandoned_threads,
                stopping=self._leaving,
            )
        )


def _raw(value: MetricsView | State) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _of_all(own: Readiness, whole: Whole) -> Readiness:
    reasons, notes = list(own.reasons), list(own.notes)
    abandoned_threads = own.abandoned_threads
    for number, value in whole.values:
        state = _state.decode(value)
        # The number that nears the limit of a process.
        abandoned_threads = max(abandoned_threads, state.abandoned_threads)
        if state.stopping:
            notes.append(f"process {number}: stopping")
            continue
        reasons += [f"process {number}: {text}" for text in state.reasons if text not in reasons]
        notes += [f"process {number}: {text}" for text in state.notes if text not in notes]
    notes += [f"process {number}: {why}" for number, why in whole.silent]
    return Readiness(
        ready=not reasons,
        reasons=tuple(reasons),
        notes=tuple(notes),
        abandoned_threads=abandoned_threads,
    )
