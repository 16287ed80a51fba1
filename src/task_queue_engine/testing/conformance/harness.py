"""What the suite is given: an open backend, its clock, and what it does not promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from task_queue_engine.backends.base import (
    Backend,
    Created,
    Delivery,
    Done,
    Message,
    NewTask,
    TaskQueue,
    TaskStore,
)
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import ClaimRequest, ClaimVerdict, Started
from task_queue_engine.task import Task, new_task_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What not every backend can keep: False for what this one does not promise."""

    exact_depth: bool = True
    """`depth` and the answer of `dead_letters.purge` are exact at once."""
    ordered_dead_letters: bool = True
    """`dead_letters.page` gives newest first, with cursors that hold."""
    notices_stale_receipts: bool = True
    """Deleting with a stale receipt is answered LeaseLost (SQS reports success). A receipt that
    never was is LeaseLost in any case."""
    in_order: bool = True
    """Messages are received in the order in which they became visible."""
    steerable_clock: bool = True
    """`advance` moves the backend's own idea of time, at no cost."""
    same_message_after_delay: bool = True
    """What is released with a delay comes back as the same message (SQS: a fresh copy)."""
    cancelled_receive_takes_nothing: bool = True
    """At once. (SQS may take messages for a poll whose connection is closed: they are back when
    their lease ends.)"""
    exact_stranded: bool = True
    """`stranded` knows which messages exist."""
    steps_are_one_transaction: bool = True
    """`Steps.is_one_transaction`: `take` claims, and `finish` settles. (Not where queue and store
    are two services.)"""
    expires_dead_letters: bool = True
    """`expire` deletes the dead letters of the tasks that it deletes."""
    finds_beginnings_of_ids: bool = True
    """A list by the beginning of an id; else that is refused."""
    deletes_messages: bool = True
    """Deleting a task deletes its messages and dead letters. (Not where queue and store are two
    services: there a cancelled task is kept until no message of it can come.)"""
    ages_workers: bool = True
    """A worker counts as lost when its row is old. (Not where a row that says nothing new is not
    written, since the backend can tell that its process lives.)"""


class Harness:
    """An open backend, the clock it runs on, and the steps most tests begin with.

    Where a backend's time cannot be set by hand (see `Promises.steerable_clock`), a subclass lets
    it go by in `advance`, moving `clock` along.

    Args:
        backend: open.
        clock: what the backend has been given as its clock.
        make_another: makes a backend with a place of its own, not open yet.
        promises: what the backend does not promise.
    """

    visibility = 30.0
    """Seconds; the lease of the steps below. A backend on a real clock takes a short one."""

    def __init__(
        self,
        backend: Backend,
        *,
        clock: ManualClock,
        make_another: Callable[[], Backend],
        promises: Promises = Promises(),  # frozen
    ) -> None:
        self.backend = backend
        self.clock = clock
        self.make_another = make_another
        self.promises = promises

    @property
    def store(self) -> TaskStore:
        return self.backend.store

    @property
    def queue(self) -> TaskQueue:
        return self.backend.queue("default")

    async def advance(self, seconds: float) -> None:
        """Let this much time go by for the backend."""
        self.clock.advance(seconds)

    # --- steps ------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self.clock.now()

    def later(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)

    def make_task(self, **fields: Any) -> Task:
        now = self.clock.now()
        defaults: dict[str, Any] = {
            "id": new_task_id(),
            "type": "email",
            "payload": {"to": "user@example.com"},
            "created_at": now,
            "updated_at": now,
        }
        return Task(**(defaults | fields))

    async def create(self, task: Task | None = None, **fields: Any) -> Task:
        """A task that is stored, and nothing sent."""
        task = task or self.make_task(**fields)
        assert await self.store.create([NewTask(task=task)]) == [Created()]
        return task

    async def send(self, task: Task, *, delay: float = 0.0) -> None:
        assert await self.queue.send([Message(task=task, delay=delay)]) == [Done()]

    async def submit(self, **fields: Any) -> Task:
        """A task that is stored and sent."""
        task = await self.create(**fields)
        await self.send(task)
        return task

    async def receive(self, max_messages: int = 10) -> list[Delivery]:
        return await self.queue.receive(max_messages, wait=0, visibility=self.visibility)

    async def receive_one(self) -> Delivery:
        (delivery,) = await self.queue.receive(1, wait=5, visibility=self.visibility)
        return delivery

    async def claim(self, delivery: Delivery, *, worker: str = "worker-1") -> ClaimVerdict:
        (verdict,) = await self.store.claim([claim_request(delivery, worker=worker)])
        return verdict

    async def start(self, **fields: Any) -> tuple[Task, Delivery]:
        """A task that is running: submitted, received and claimed."""
        await self.submit(**fields)
        delivery = await self.receive_one()
        verdict = await self.claim(delivery)
        assert isinstance(verdict, Started)
        return verdict.task, delivery

    async def lapse(self) -> None:
        """All leases taken by these steps run out."""
        await self.advance(self.visibility + 1)

    async def get(self, task_id: str) -> Task:
        (task,) = await self.store.get([task_id])
        assert task is not None
        return task


def claim_request(delivery: Delivery, *, worker: str = "worker-1") -> ClaimRequest:
    return ClaimRequest(
        task_id=delivery.task_id,
        message_id=delivery.message_id,
        receive_count=delivery.receive_count,
        copy_of=delivery.copy_of,
        worker=worker,
    )
