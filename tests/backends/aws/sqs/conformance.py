"""The AWS backend for the conformance suite, on each local server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from local_aws.pairs import PAIRS, Pair
from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.backend import AwsBackend, AwsStore
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.usage import StoreUsage
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import StrandedPage, WorkerStore
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import ManualClock
from task_queue_engine.testing.conformance import Harness, Promises
from tests.backends.aws.dynamodb.tables import Table, empty_table, few_requests
from tests.backends.aws.sqs.clock_client import ClockClient
from tests.backends.aws.sqs.queues import make_queue
from tests.local_servers import require


class MemoryAwsStore:
    """The memory backend's store, as one that `AwsBackend` can open."""

    def __init__(self, clock: ManualClock) -> None:
        self._backend = MemoryBackend(clock=clock)

    @property
    def workers(self) -> WorkerStore:
        return self._backend.workers

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._backend.open()

    async def ping(self) -> None:
        await self._backend.ping()

    def usage(self) -> StoreUsage:
        return StoreUsage()

    async def stranded(
        self,
        queue: str,
        *,
        before: datetime,
        sent_before: datetime | None,
        limit: int,
        cursor: str | None = None,
    ) -> StrandedPage:
        return StrandedPage(found=(), next_cursor=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend.store, name)


class AwsHarness(Harness):
    def __init__(self, client: ClockClient, backend: AwsBackend, **options: Any) -> None:
        super().__init__(backend, **options)
        self._client = client

    async def advance(self, seconds: float) -> None:
        await self._client.pass_time(seconds)


async def make_queues(server: LocalServer) -> QueueUrls:
    """New ones, for the default queue and for one called `other`."""
    name = f"conformance-{secrets.token_hex(6)}"
    client = ClockClient.of(server, ManualClock())
    async with client.open():
        # Some tests receive a message more often than the redrive policy would let them.
        urls = await make_queue(client, name, max_receives=100)
        await make_queue(client, f"{name}-other", max_receives=100)
    return urls


def make_backend(
    client: AwsClient, urls: QueueUrls, clock: ManualClock, store: AwsStore | None = None
) -> AwsBackend:
    return AwsBackend(
        client=client,
        urls=urls,
        store=store or MemoryAwsStore(clock),
        queue_name="default",
        clock=clock,
    )


@asynccontextmanager
async def opened(
    make: Callable[[], tuple[ClockClient, AwsBackend]], clock: ManualClock, promises: Promises
) -> AsyncIterator[AwsHarness]:
    client, backend = make()
    async with backend.open():
        yield AwsHarness(
            client, backend, clock=clock, promises=promises, make_another=lambda: make()[1]
        )


def aws_harness(
    server_name: str, promises: Promises
) -> Callable[[Path], AbstractAsyncContextManager[Harness]]:
    """The queue, beside the memory backend's store."""

    @asynccontextmanager
    async def harness(_: Path) -> AsyncIterator[Harness]:
        server = require(server_name)
        clock = ManualClock()
        urls = await make_queues(server)

        def make() -> tuple[ClockClient, AwsBackend]:
            client = ClockClient.of(server, clock)
            return client, make_backend(client, urls, clock)

        async with opened(make, clock, promises) as made:
            yield made

    return harness


def pair_harness(
    pair: Pair, promises: Promises
) -> Callable[[Path], AbstractAsyncContextManager[Harness]]:
    """The whole backend, as it is used."""

    @asynccontextmanager
    async def harness(_: Path) -> AsyncIterator[Harness]:
        servers = require(pair.queue), require(pair.table)
        clock = ManualClock()
        urls = await make_queues(servers[0])
        maker = ClockClient.of(servers[0], clock, dynamodb=servers[1])
        async with maker.open(), empty_table(maker, servers[1]) as table:

            def make() -> tuple[ClockClient, AwsBackend]:
                client = ClockClient.of(servers[0], clock, dynamodb=servers[1])
                store = Table(client, table, servers[1], pair.writes).store(clock=clock)
                return client, make_backend(client, urls, clock, store)

            with few_requests(checks=True):
                async with opened(make, clock, promises) as made:
                    yield made

    return harness


# What SQS itself does not promise.
SQS = Promises(
    exact_depth=False,
    in_order=False,
    notices_stale_receipts=False,
    steerable_clock=False,
    same_message_after_delay=False,
    cancelled_receive_takes_nothing=False,
    exact_stranded=False,
    steps_are_one_transaction=False,
    expires_dead_letters=False,
    finds_beginnings_of_ids=False,
    deletes_messages=False,
)

AWS_HARNESSES = {
    "elasticmq": aws_harness("elasticmq", SQS),
    "moto": aws_harness("moto", SQS),
    "fauxqs": aws_harness("fauxqs", SQS),
    "ministack": aws_harness("ministack", SQS),
}

PAIR_HARNESSES = {
    "aws-elasticmq": pair_harness(PAIRS["java"], SQS),
    "aws-moto": pair_harness(PAIRS["moto"], SQS),
    "aws-fauxqs": pair_harness(PAIRS["fast"], SQS),
}

# Where a server is not like SQS: the test, and what the server does.
_MOTO_TAKES_OLD_RECEIPTS = "moto changes a lease by the receipt of an earlier delivery"
QUIRKS = {
    "test_a_receipt_is_stale_once_the_message_was_received_again[moto-extend]": (
        _MOTO_TAKES_OLD_RECEIPTS
    ),
    "test_a_receipt_is_stale_once_the_message_was_received_again[moto-release]": (
        _MOTO_TAKES_OLD_RECEIPTS
    ),
    "test_a_receipt_is_stale_once_the_message_was_received_again[moto-dead_letter]": (
        _MOTO_TAKES_OLD_RECEIPTS
    ),
    "test_the_receipt_is_what_counts[fauxqs-delete]": "fauxqs deletes by nonsense receipts",
    "test_round_trip[fauxqs-unicode]": "fauxqs refuses characters beyond U+FFFF",
}
QUIRKS |= {
    name.replace("[moto", "[aws-moto").replace("[fauxqs", "[aws-fauxqs"): reason
    for name, reason in QUIRKS.items()
}
