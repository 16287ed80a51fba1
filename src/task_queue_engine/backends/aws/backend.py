"""The AWS backend: SQS as the queue, DynamoDB as the task store."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Protocol, Self

import trio

from task_queue_engine.backends.aws.dynamodb.schema import check_table_name
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.preflight.checks import (
    Patience,
    check_queue,
    check_regions,
    max_message_bytes,
    parse_redrive_policy,
    size_findings,
    warn_of_clock,
)
from task_queue_engine.backends.aws.preflight.permissions import (
    check_permissions,
    check_writes,
    probes,
)
from task_queue_engine.backends.aws.settings import adopt_env_file, queue_urls, region_for
from task_queue_engine.backends.aws.sqs.batches import as_unavailable
from task_queue_engine.backends.aws.sqs.queue import SqsQueue
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls, urls_by_name
from task_queue_engine.backends.aws.usage import StoreUsage, steps, task_types
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.base import (
    BackendInfo,
    BackendUsage,
    NewTask,
    StrandedPage,
    SubmitVerdict,
    TaskStore,
    TwoServices,
    WorkerStore,
    submit_to_two,
)
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.config import Settings
from task_queue_engine.errors import BackendUnavailable, ConfigurationError

Check = Callable[[AwsClient], Awaitable[None]]

# Seconds: /ready waits 2, and should say which of the two services does not answer.
_PING_TIMEOUT = 1.5

logger = logging.getLogger("task_queue_engine.aws")


class AwsStore(TaskStore, Protocol):
    """What the backend needs of its store besides the tasks."""

    @property
    def workers(self) -> WorkerStore: ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Inside the client's own. Entering it raises ConfigurationError or BackendRefused when the
        table cannot be used, BackendUnavailable where another try may help."""
        ...

    async def ping(self) -> None:
        """Raises BackendUnavailable when no task could be written."""
        ...

    def usage(self) -> StoreUsage:
        """What it has asked of DynamoDB."""
        ...

    async def stranded(
        self,
        queue: str,
        *,
        before: datetime,
        sent_before: datetime | None,
        limit: int,
        cursor: str | None = None,
    ) -> StrandedPage:
        """As `Backend.stranded`, where messages cannot be asked for.

        Args:
            sent_before: messages sent before this have been received or are lost; None where
                nothing is known of them.
        """
        ...


class AwsBackend:
    """
    Args:
        client: opened and closed with the backend.
        urls: of the queue called `queue_name`; others lie beside it, see `urls_by_name`.
        check: what else has to hold before work begins; raises where it does not.
        max_payload: bytes of JSON that submissions may bring, to be compared with what the queues
            take; None: not known.
    """

    def __init__(
        self,
        *,
        client: AwsClient,
        urls: QueueUrls,
        store: AwsStore,
        queue_name: str,
        clock: Clock | None = None,
        check: Check | None = None,
        max_payload: int | None = None,
    ) -> None:
        self._client = client
        self._urls = urls
        self._store = store
        self._queue_name = queue_name
        self._clock: Clock = clock or SystemClock()
        self._check = check
        self._max_payload = max_payload
        self._queues: dict[str, SqsQueue] = {}
        self._is_open = False

    @classmethod
    def from_settings(
        cls, settings: Settings, *, clock: Clock | None = None, runs_tasks: bool = False
    ) -> Self:
        """
        Args:
            runs_tasks: every permission is needed, and looked for before work begins. Others may
                have been given less, on purpose.

        What a `.env` file says about AWS (credentials, endpoints) is put into the environment,
        where botocore looks for it.

        Raises:
            ConfigurationError: naming the variable that is missing or wrong.
        """
        adopt_env_file()
        if settings.poll_wait < 1:
            # Only the empty answer of a long poll says that nothing is left in the queue.
            raise ConfigurationError(
                f"must be at least 1 on SQS, not {settings.poll_wait:g}: without long polls lost "
                "messages would not be noticed",
                variable="TQE_POLL_WAIT",
            )
        urls = queue_urls(settings)
        table = check_table_name(settings.dynamodb_table)
        client = AwsClient(region=region_for(settings, urls), clock=clock)
        store = DynamoStore(
            client,
            table_name=table,
            clock=clock,
            writes=settings.dynamodb_writes,
            retention=settings.retention,
        )

        async def check(client: AwsClient) -> None:
            if runs_tasks:
                await check_permissions(client, probes(urls, table, settings.dynamodb_writes))
            await check_writes(client, table, settings.dynamodb_writes)

        return cls(
            client=client,
            urls=urls,
            store=store,
            queue_name=settings.queue,
            clock=clock,
            check=check,
            max_payload=settings.max_body_bytes,
        )

    @property
    def client(self) -> AwsClient:
        return self._client

    @property
    def store(self) -> AwsStore:
        return self._store

    @property
    def workers(self) -> WorkerStore:
        return self._store.workers

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(name="aws", detail=f"{self._urls.queue}, {self._store}")

    def usage(self) -> BackendUsage:
        """See `MeteredBackend`."""
        store = self._store.usage()
        by_queue = [queue.usage() for queue in self._queues.values()]
        return BackendUsage(
            operations=self._client.statistics().usage(),
            steps=steps(store.by_step),
            task_types=(
                *task_types("dynamodb", [store.by_task_type]),
                *task_types("sqs", by_queue),
            ),
        )

    def queue(self, name: str) -> SqsQueue:
        if name not in self._queues:
            urls = urls_by_name(self._urls, self._queue_name, name)
            self._queues[name] = queue = SqsQueue(name, urls, self._client, clock=self._clock)
            queue.attach(is_open=self._is_open)
        return self._queues[name]

    def steps(self, name: str) -> TwoServices:
        return TwoServices(queue=self.queue(name), store=self._store)

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        return await submit_to_two(tasks, store=self._store, queue_of=self.queue, clock=self._clock)

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        patience = Patience()
        async with AsyncExitStack() as stack:
            await patience.wait_out(lambda: stack.enter_async_context(self._client.open()))
            await self._check_queues(patience)
            await patience.wait_out(lambda: stack.enter_async_context(self._store.open()))
            if self._check is not None:
                await patience.wait_out(partial(self._check, self._client))
            self._attach(is_open=True)
            try:
                yield
            finally:
                self._attach(is_open=False)

    def _attach(self, *, is_open: bool) -> None:
        self._is_open = is_open
        for queue in self._queues.values():
            queue.attach(is_open=is_open)

    async def _check_queues(self, patience: Patience) -> None:
        """One line about what is wrong with the queues, before any work is taken."""

        def look(url: str, variable: str) -> Awaitable[dict[str, str]]:
            return patience.wait_out(partial(check_queue, self._client, url, variable=variable))

        check_regions(self._client, self._urls.by_variable)
        attributes = await look(self._urls.queue, "SQS_QUEUE_URL")
        arn, max_receives = parse_redrive_policy(attributes)
        if arn is None:
            logger.warning(
                "%s has no redrive policy: a message that kills its process is received forever",
                self._urls.queue,
            )
        if max_receives == 1:
            logger.warning(
                "the redrive policy of %s allows one receive: SQS dead-letters what a process dies "
                "with, whatever its max_attempts; set maxReceiveCount to 3",
                self._urls.queue,
            )
        dead = await look(self._urls.dead, "SQS_DLQ_URL")
        if arn is not None and arn != dead["QueueArn"]:
            logger.warning(
                "the redrive policy of %s moves messages to %s, which is not SQS_DLQ_URL",
                self._urls.queue,
                arn,
            )
        self.queue(self._queue_name).configure(
            max_receives=max_receives,
            max_bytes=max_message_bytes(attributes),
            max_dead_bytes=max_message_bytes(dead),
        )
        for finding in size_findings(attributes, dead, max_payload=self._max_payload):
            logger.warning("%s", finding)
        warn_of_clock(self._client)

    async def ping(self) -> None:
        if not self._is_open:
            raise BackendUnavailable("the backend is not open")
        await gather([self._ping_queue, self._ping_store])

    async def _ping_queue(self) -> None:
        parameters = {"QueueUrl": self._urls.queue, "AttributeNames": ["QueueArn"]}
        try:
            await self._client.call("sqs", "GetQueueAttributes", parameters, timeout=_PING_TIMEOUT)
        except AwsRequestFailed as error:
            raise as_unavailable(error) from error

    async def _ping_store(self) -> None:
        with trio.move_on_after(_PING_TIMEOUT):
            await self._store.ping()
            return
        raise BackendUnavailable(f"DynamoDB: no answer within {_PING_TIMEOUT:g} s")

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        if not self._is_open:
            raise BackendUnavailable("the backend is not open")
        return await self._store.stranded(
            queue,
            before=before,
            sent_before=self.queue(queue).received_up_to(),
            limit=limit,
            cursor=cursor,
        )
