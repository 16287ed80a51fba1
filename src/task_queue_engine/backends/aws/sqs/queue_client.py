"""Requests to one queue: in batches, counted by task type, their errors sorted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from task_queue_engine.backends.aws.sqs import message_format
from task_queue_engine.backends.aws.sqs.batches import (
    Entry,
    as_unavailable,
    in_requests,
    send_batches,
)
from task_queue_engine.backends.aws.usage import UsageByType
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.base import QueueVerdict, Rejected
from task_queue_engine.errors import BackendUnavailable

CALL_TIMEOUT: Final = 4.0
"""Seconds for one call with its retries: a submission is still answered, and its task left to the
scheduler, where SQS has gone silent and the store has not."""


class QueueClient:
    """Every method raises BackendUnavailable until `is_open` says that `client` is."""

    def __init__(self, client: AwsClient, url: str, usage: UsageByType) -> None:
        self._client = client
        self.url = url
        self._usage = usage
        self.is_open = False

    async def send(
        self, messages: Sequence[message_format.Outgoing], *, max_bytes: int
    ) -> list[QueueVerdict]:
        """
        Args:
            max_bytes: the queue's limit for one message; over it a message is Rejected.
        """
        good = [message for message in messages if message.size <= max_bytes]
        entries = [
            {
                "MessageBody": message.body,
                "MessageAttributes": message.attributes,
                "DelaySeconds": message.delay,
            }
            for message in good
        ]
        requests = in_requests(
            [message.size for message in good], max_bytes=message_format.MAX_MESSAGE_BYTES
        )
        sent = iter(
            await self._in_batches(
                "SendMessageBatch", entries, requests, [message.task_type for message in good]
            )
        )
        return [
            next(sent)
            if message.size <= max_bytes
            else Rejected(f"the message is {message.size} bytes, the queue's limit is {max_bytes}")
            for message in messages
        ]

    async def delete(
        self, receipts: Sequence[str], task_types: Sequence[str] = ()
    ) -> list[QueueVerdict]:
        entries = [{"ReceiptHandle": receipt} for receipt in receipts]
        return await self._of_receipts("DeleteMessageBatch", entries, task_types)

    async def change_visibility(
        self, receipts: Sequence[str], seconds: int, task_types: Sequence[str] = ()
    ) -> list[QueueVerdict]:
        entries = [{"ReceiptHandle": receipt, "VisibilityTimeout": seconds} for receipt in receipts]
        return await self._of_receipts("ChangeMessageVisibilityBatch", entries, task_types)

    async def receive(
        self, limit: int, *, wait: int, lease: int, attributes: Sequence[str]
    ) -> list[dict[str, Any]]:
        """One ReceiveMessage. What it brings is for the caller to `share`."""
        answer = await self.call_or_unavailable(
            "ReceiveMessage",
            {
                "MaxNumberOfMessages": limit,
                "WaitTimeSeconds": wait,
                "VisibilityTimeout": lease,
                "MessageSystemAttributeNames": message_format.SYSTEM_ATTRIBUTES,
                "MessageAttributeNames": attributes,
            },
            long_poll=True,
        )
        found: list[dict[str, Any]] = answer.get("Messages") or []
        return found

    async def counts(self, *names: str) -> list[int]:
        """The queue's attributes of these names, which are numbers; 0 where one is not said."""
        answer = await self.call_or_unavailable("GetQueueAttributes", {"AttributeNames": names})
        attributes = answer.get("Attributes") or {}
        return [int(attributes.get(name, 0)) for name in names]

    def share(self, task_types: Sequence[str], *, requests: int) -> None:
        """So many requests have served the tasks of these types."""
        self._usage.share(task_types, requests=requests)

    async def call_or_unavailable(
        self, operation: str, parameters: Mapping[str, Any], *, long_poll: bool = False
    ) -> dict[str, Any]:
        try:
            return await self.call(operation, parameters, long_poll=long_poll)
        except AwsRequestFailed as error:
            raise as_unavailable(error) from error

    async def call(
        self, operation: str, parameters: Mapping[str, Any], *, long_poll: bool = False
    ) -> dict[str, Any]:
        """
        Raises:
            AwsRequestFailed, BackendUnavailable.
        """
        if not self.is_open:
            raise BackendUnavailable("the backend is not open")
        # A call that is cancelled before it begins sends nothing.
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._client.call(
            "sqs",
            operation,
            {"QueueUrl": self.url, **parameters},
            long_poll=long_poll,
            timeout=None if long_poll else CALL_TIMEOUT,
        )

    async def _of_receipts(
        self, operation: str, entries: Sequence[Entry], task_types: Sequence[str]
    ) -> list[QueueVerdict]:
        requests = in_requests([0] * len(entries), max_bytes=1)  # no size is near the limit
        return await self._in_batches(operation, entries, requests, task_types)

    async def _in_batches(
        self,
        operation: str,
        entries: Sequence[Entry],
        requests: list[range],
        task_types: Sequence[str],
    ) -> list[QueueVerdict]:
        self.share(task_types, requests=len(requests))
        return await send_batches(self.call, operation, entries, requests)


def fill(
    verdicts: list[QueueVerdict], indexes: Sequence[int], answers: Sequence[QueueVerdict]
) -> None:
    """Put the answers where they belong."""
    for i, verdict in zip(indexes, answers, strict=True):
        verdicts[i] = verdict
