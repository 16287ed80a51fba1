"""A client opened for a test, and jitter without chance."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from botocore.credentials import Credentials
from trio.testing import MockClock

from task_queue_engine.backends.aws.wire.client import AwsClient

# Long enough for what one socket of this process has sent to be seen on another one.
_REAL_PAUSE = 0.02


class NoChance(random.Random):
    """Always draws `drawn`."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


@asynccontextmanager
async def opened(
    url: str,
    jumping: MockClock | None = None,
    *,
    drawn: float = 1.0,
    by_itself: bool = False,
    **options: Any,
) -> AsyncIterator[AwsClient]:
    """A client of the server at `url` for both services. Inside, `jumping` jumps over waits.

    Args:
        by_itself: it looks for credentials, which takes longer than most of these tests.
    """
    if not by_itself:
        options.setdefault("load_credentials", lambda: Credentials("AKID", "secret"))
    client = AwsClient(endpoints={"sqs": url, "dynamodb": url}, rng=NoChance(drawn), **options)
    async with client.open():
        if jumping is not None:
            jumping.autojump_threshold = _REAL_PAUSE
        try:
            yield client
        finally:
            if jumping is not None:
                jumping.autojump_threshold = float("inf")


async def receive(client: AwsClient, wait: float = 20, **options: Any) -> dict[str, Any]:
    parameters = {"QueueUrl": "q", "WaitTimeSeconds": wait}
    return await client.call("sqs", "ReceiveMessage", parameters, long_poll=True, **options)


async def delete(client: AwsClient, **options: Any) -> dict[str, Any]:
    parameters = {"QueueUrl": "q", "Entries": [{"Id": "0", "ReceiptHandle": "r"}]}
    return await client.call("sqs", "DeleteMessageBatch", parameters, **options)


async def put(client: AwsClient, **options: Any) -> dict[str, Any]:
    parameters = {"TableName": "t", "Item": {"id": {"S": "1"}}}
    return await client.call("dynamodb", "PutItem", parameters, **options)


def elapsed_since(start: float) -> float:
    return trio.current_time() - start
