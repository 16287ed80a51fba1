"""The part of the line that runs tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from task_queue_engine.actors.acker import Acker
from task_queue_engine.actors.claimer import Claimer
from task_queue_engine.actors.poller import Poller
from task_queue_engine.actors.status_writer import StatusWriter
from task_queue_engine.actors.warmer import Warmer
from task_queue_engine.actors.worker import Worker
from task_queue_engine.worker import RunningTask


class Actor(Protocol):
    async def run(self) -> None: ...

    def statistics(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """From the queue's messages to their settlement. An engine has all of it or, with
    `consume=False`, none: `Pipeline.line` is None then."""

    poller: Poller
    claimer: Claimer
    warmer: Warmer
    workers: tuple[Worker, ...]
    status_writer: StatusWriter
    acker: Acker

    @property
    def actors(self) -> dict[str, Actor]:
        """By name, from the top down."""
        return {
            "poller": self.poller,
            "claimer": self.claimer,
            "warmer": self.warmer,
            **{f"worker-{n}": worker for n, worker in enumerate(self.workers, start=1)},
            "status_writer": self.status_writer,
            "acker": self.acker,
        }

    @property
    def busy_workers(self) -> int:
        return sum(worker.statistics().busy for worker in self.workers)

    def running(self) -> list[RunningTask]:
        """What handlers run now."""
        attempts = [worker.running for worker in self.workers]
        return [
            RunningTask(
                task_id=attempt.task.id,
                type=attempt.task.type,
                attempt=attempt.task.attempt,
                since=attempt.task.started_at or attempt.task.updated_at,
            )
            for attempt in attempts
            if attempt is not None
        ]

    def stop_taking_work(self) -> None:
        """Receive and start nothing more. What no handler has started goes back to the queue, what
        waits for a place in a worker too."""
        self.poller.stop()
        self.claimer.stop()
        self.warmer.stop()
        for worker in self.workers:
            worker.give_back_unstarted()

    def interrupt(self) -> None:
        """Stop what runs, and what a worker may still take; wait for no receive and no answer to a
        claim any longer."""
        self.poller.cut_short()
        self.claimer.cut_short()
        for worker in self.workers:
            worker.interrupt()
