"""The store for the conformance suite: with the memory backend's queue, on each local server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.dynamodb.item_format import to_row
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import (
    BackendInfo,
    NewTask,
    Steps,
    Stranded,
    StrandedPage,
    SubmitVerdict,
    TwoServices,
    WorkerStore,
    submit_to_two,
)
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from task_queue_engine.clock import Clock, ManualClock
from task_queue_engine.testing.conformance import Harness, Promises
from tests.backends.aws.dynamodb.faults import FaultyClient
from tests.backends.aws.dynamodb.tables import (
    Table,
    create_table,
    empty_table,
    few_requests,
    open_client,
    writes_of,
)
from tests.local_servers import require


class DynamoWithMemoryQueue:
    """What the store can only guess, whether a message exists, this queue can tell.

    Args:
        table: the name of one that is there; None: one is made, at the first opening.
    """

    def __init__(
        self, server: LocalServer, clock: Clock, writes: str = "", table: str | None = None
    ) -> None:
        self._client = open_client(server)
        self._clock = clock
        name = table or f"conformance-{secrets.token_hex(6)}"
        self._table = Table(self._client, name, server, writes or writes_of(server))
        self._queues = MemoryBackend(clock=clock)
        self.faults = FaultyClient(self._client)
        """Between the store and the server."""
        self._store = self._table.store(
            self.faults, clock=clock, orphaned_after=timedelta(), sweep_lag=5.0
        )
        self._is_created = table is not None

    @property
    def store(self) -> DynamoStore:
        return self._store

    @property
    def workers(self) -> WorkerStore:
        return self._store.workers

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(name="dynamodb", detail=str(self._store))

    def queue(self, name: str) -> MemoryQueue:
        return self._queues.queue(name)

    def steps(self, name: str) -> Steps:
        return TwoServices(queue=self.queue(name), store=self.store)

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        return await submit_to_two(tasks, store=self.store, queue_of=self.queue, clock=self._clock)

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        async with self._client.open(), self._queues.open():
            if not self._is_created:
                await create_table(self._table)
                self._is_created = True
            async with self._store.open():
                yield

    async def ping(self) -> None:
        await self._store.ping()

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        page = await self._store.stranded(
            queue, before=before, sent_before=before, limit=limit, cursor=cursor
        )
        return replace(
            page, found=tuple([each for each in page.found if await self._is_stranded(each)])
        )

    async def _is_stranded(self, stranded: Stranded) -> bool:
        item = await self._table.item(stranded.task.id)
        assert item is not None
        queue = self.queue(stranded.task.queue)
        return queue.why_stranded(to_row(item)) is stranded.kind


def dynamodb_harness(
    server_name: str, writes: str = ""
) -> Callable[[Path], AbstractAsyncContextManager[Harness]]:
    @asynccontextmanager
    async def harness(_: Path) -> AsyncIterator[Harness]:
        server = require(server_name)
        clock = ManualClock()
        client = open_client(server)
        async with client.open(), empty_table(client, server) as table:
            backend = DynamoWithMemoryQueue(server, clock, writes, table)
            with few_requests():
                async with backend.open():
                    yield Harness(
                        backend,
                        clock=clock,
                        promises=DYNAMODB,
                        make_another=lambda: DynamoWithMemoryQueue(server, clock, writes),
                    )

    return harness


DYNAMODB = Promises(
    finds_beginnings_of_ids=False,
    deletes_messages=False,
    expires_dead_letters=False,
    steps_are_one_transaction=False,
)

DYNAMODB_HARNESSES = {
    "dynamodb": dynamodb_harness("dynamodb-local"),
    "dynamodb-single": dynamodb_harness("dynamodb-local", "single"),
    "dynamodb-ministack": dynamodb_harness("ministack"),
    "dynamodb-moto": dynamodb_harness("moto"),
}
