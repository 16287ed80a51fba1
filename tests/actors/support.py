"""What tests of single actors are made of: tasks in a backend, leases, a retry of their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from task_queue_engine import Task, TaskStatus
from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import AbortReason, Attempt, Lease
from task_queue_engine.backends.base import Delivery, Message, NewTask
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import ClaimRequest, Started
from task_queue_engine.task import new_task_id

LEASE = 30.0


def retry(actor: str = "actor", health: ActorHealth | None = None) -> BackendRetry:
    return BackendRetry(actor=actor, health=health or ActorHealth(), rng=random.Random(1))


def make_task(backend: MemoryBackend, **fields: Any) -> Task:
    now = backend.clock.now()
    return Task(
        **(
            {"id": new_task_id(), "type": "t", "payload": 1, "created_at": now, "updated_at": now}
            | fields
        )
    )


async def put(backend: MemoryBackend, *, send: bool = True, **fields: Any) -> Task:
    """A task that was submitted."""
    task = make_task(backend, **fields)
    await backend.store.create([NewTask(task=task)])
    if send:
        await backend.queue("default").send([Message(task=task)])
    return task


async def receive(backend: MemoryBackend, *, visibility: float = LEASE) -> Lease:
    """The next message, received."""
    (delivery,) = await backend.queue("default").receive(1, wait=0, visibility=visibility)
    return Lease(delivery, trio.current_time() + visibility)


async def claim(backend: MemoryBackend, lease: Lease) -> Attempt:
    """What the claimer does with it."""
    delivery = lease.delivery
    request = ClaimRequest(
        task_id=delivery.task_id,
        message_id=delivery.message_id,
        receive_count=delivery.receive_count,
        worker="test",
    )
    (verdict,) = await backend.store.claim([request])
    assert isinstance(verdict, Started)
    lease.attempt = Attempt(verdict.task, lease)
    return lease.attempt


async def claimed(backend: MemoryBackend, **fields: Any) -> Attempt:
    """A task submitted, received and claimed."""
    await put(backend, **fields)
    return await claim(backend, await receive(backend))


def lose(lease: Lease) -> None:
    """What the lease keeper does when the message is gone."""
    lease.lost = True
    if lease.attempt is not None:
        lease.attempt.abort(AbortReason.LEASE_LOST)


def loose_lease(task_id: str = "0") -> Lease:
    """A lease of nothing, where only its identity matters."""
    delivery = Delivery(task_id=task_id, message_id="m", receipt="r", receive_count=1)
    return Lease(delivery, trio.current_time() + LEASE)


def status(backend: MemoryBackend, task_id: str) -> TaskStatus:
    row = backend.store.row(task_id)
    assert row is not None
    return row.task.status


@contextmanager
def queue_gone(name: str) -> Iterator[None]:
    """In the block nothing can be sent to this queue; the others are as ever."""
    send = MemoryQueue.send

    async def send_unless_gone(queue: MemoryQueue, messages: Sequence[Message]) -> object:
        if queue.name == name:
            raise BackendUnavailable(f"the queue {name} does not exist")
        return await send(queue, messages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryQueue, "send", send_unless_gone)
        yield


@asynccontextmanager
async def background(run: Callable[[], Awaitable[None]]) -> AsyncIterator[trio.CancelScope]:
    """The actor runs in the block, and is cancelled at its end if it has not ended by itself."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()
