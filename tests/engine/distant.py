"""A queue and a store that are two services a network away, whose requests are counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from task_queue_engine.backends.base import (
    Delivery,
    NewTask,
    QueueCapabilities,
    SubmitVerdict,
    TwoServices,
    submit_to_two,
)
from task_queue_engine.backends.memory import MemoryBackend

# Items of one request, as SQS and DynamoDB have it; callers' batches are sent as several at once.
_IN_A_REQUEST = {
    "receive": 10,
    "send": 10,
    "delete": 10,
    "release": 10,
    "create": 25,
    "claim": 25,
    "record": 25,
}


class Distant:
    """Every call to a memory backend takes `latency` seconds, however many are under way."""

    def __init__(self, backend: MemoryBackend, *, latency: float, jitter: float = 0.0) -> None:
        """
        Args:
            jitter: share of the latency by which it varies, up and down.
        """
        self.clock = backend.clock
        self.info = backend.info
        self.latency = latency
        self._jitter = jitter
        self._rng = random.Random(1)
        self.requests: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.most_under_way: Counter[str] = Counter()
        self.store: Any = _Called(backend.store, self)
        self.workers = backend.workers
        self._backend = backend
        self._queues: dict[str, Any] = {}

    def queue(self, name: str) -> Any:
        return self._queues.setdefault(name, _DistantQueue(self._backend.queue(name), self))

    def steps(self, name: str) -> TwoServices:
        return TwoServices(queue=self.queue(name), store=self.store)

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        return await submit_to_two(tasks, store=self.store, queue_of=self.queue, clock=self.clock)

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._backend.open()

    async def ping(self) -> None:
        await self._backend.ping()

    async def stranded(self, queue: str, **arguments: Any) -> Any:
        return await self._backend.stranded(queue, **arguments)

    async def carry(self, operation: str, items: int) -> None:
        """The way there and back."""
        self.requests[operation] += -(-items // _IN_A_REQUEST.get(operation, 100))
        self.under_way[operation] += 1
        most = self.most_under_way
        most[operation] = max(most[operation], self.under_way[operation])
        try:
            await trio.sleep(self.latency * (1 + self._jitter * self._rng.uniform(-1, 1)))
        finally:
            self.under_way[operation] -= 1


class _Called:
    def __init__(self, target: Any, distant: Distant) -> None:
        self._target = target
        self._distant = distant

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in _IN_A_REQUEST:
            return attribute

        async def call(items: Sequence[Any], **arguments: Any) -> Any:
            await self._distant.carry(name, len(items))
            return await attribute(items, **arguments)

        return call


class _DistantQueue(_Called):
    """As SQS: ten messages a request, of which several look at once where there is more."""

    max_batch = 100
    capabilities = QueueCapabilities(settle_linger=0.1)

    def __init__(self, target: Any, distant: Distant) -> None:
        super().__init__(target, distant)
        self._is_deep = False

    async def receive(self, most: int, *, wait: float, visibility: float) -> list[Delivery]:
        limit = min(most, 10)
        if self._is_deep and most > 10:
            limit = most // 10 * 10
        receive = self._target.receive
        await self._distant.carry("receive", limit)
        found: list[Delivery] = await receive(limit, wait=wait, visibility=visibility)
        if limit == 10 == len(found) and most >= 20:
            limit = most // 10 * 10
            await self._distant.carry("receive", limit - 10)
            found += await receive(limit - 10, wait=0, visibility=visibility)
        self._is_deep = len(found) >= limit and limit >= most // 10 * 10
        return found
