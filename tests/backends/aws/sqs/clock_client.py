"""Real servers on a clock that tests steer.

A lease or a delay of minutes would make a test last minutes. So this client, between the queue and
the server, keeps the time itself: the server is asked for leases longer than any test, and when the
tests' clock passes a lease's end, the message is made visible there and then; a delayed message is
held back here until its time has come. All else (receipts, counts, redrive, batches) is the
server's own doing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import botocore.credentials
import trio

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.clock import ManualClock

_LONG = 3600


@dataclass(frozen=True, slots=True)
class _Lease:
    url: str
    message_id: str
    until: datetime


class ClockClient(AwsClient):
    """
    Args:
        one_at_a_time: short polls take turns. moto, which looks whether a message is visible and
            then marks it, without a lock, hands one message to two receives of one moment.
    """

    def __init__(self, *, clock: ManualClock, one_at_a_time: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._time = clock
        self._short_polls = trio.CapacityLimiter(1 if one_at_a_time else math.inf)
        self._leases: dict[str, _Lease] = {}
        self._delayed: list[tuple[datetime, str, dict[str, Any]]] = []

    @classmethod
    def of(
        cls, server: LocalServer, clock: ManualClock, *, dynamodb: LocalServer | None = None
    ) -> Self:
        """A client of local servers.

        Args:
            dynamodb: where that is another one.
        """
        key, secret = server.credentials
        return cls(
            clock=clock,
            one_at_a_time=server.name == "moto",
            region=server.region,
            endpoints={"sqs": server.url, "dynamodb": (dynamodb or server).url},
            load_credentials=lambda: botocore.credentials.Credentials(key, secret),
        )

    async def call(
        self,
        service: Any,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        long_poll: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        special = {
            "SendMessageBatch": self._send,
            "ReceiveMessage": self._receive,
            "ChangeMessageVisibilityBatch": self._change,
            "GetQueueAttributes": self._attributes,
        }.get(operation)
        if special is not None:
            return await special(dict(parameters), long_poll)
        return await super().call(
            service, operation, parameters, long_poll=long_poll, timeout=timeout
        )

    async def pass_time(self, seconds: float) -> None:
        self._time.advance(seconds)
        now = self._time.now()
        for receipt, lease in list(self._leases.items()):
            if lease.until <= now:
                del self._leases[receipt]
                entry = {"Id": "0", "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                await super().call(
                    "sqs",
                    "ChangeMessageVisibilityBatch",
                    {"QueueUrl": lease.url, "Entries": [entry]},
                )
        due = [item for item in self._delayed if item[0] <= now]
        self._delayed = [item for item in self._delayed if item[0] > now]
        for _, url, entry in sorted(due, key=lambda item: item[0]):
            await super().call("sqs", "SendMessageBatch", {"QueueUrl": url, "Entries": [entry]})

    async def _send(self, parameters: dict[str, Any], _: bool) -> dict[str, Any]:
        at_once = [entry for entry in parameters["Entries"] if not entry["DelaySeconds"]]
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        if at_once:
            answer |= await super().call(
                "sqs", "SendMessageBatch", parameters | {"Entries": at_once}
            )
        for entry in parameters["Entries"]:
            if delay := entry["DelaySeconds"]:
                at = self._time.now() + timedelta(seconds=delay)
                now = entry | {"DelaySeconds": 0}
                self._delayed.append((at, parameters["QueueUrl"], now))
                answer["Successful"].append({"Id": entry["Id"]})
        return answer

    async def _receive(self, parameters: dict[str, Any], long_poll: bool) -> dict[str, Any]:
        url, lease = parameters["QueueUrl"], parameters["VisibilityTimeout"]
        if url.endswith("-dlq"):
            # Only there to be thorough with a queue that is spread over many machines.
            parameters["WaitTimeSeconds"] = 0
        # A long poll would keep the others waiting; it begins on an empty queue.
        is_short = not parameters.get("WaitTimeSeconds")
        async with self._short_polls if is_short else nullcontext():
            answer = await super().call(
                "sqs",
                "ReceiveMessage",
                parameters | {"VisibilityTimeout": _LONG},
                long_poll=long_poll,
            )
        for message in answer.get("Messages") or ():
            message_id = message["MessageId"]
            self._leases = {
                receipt: held
                for receipt, held in self._leases.items()
                if held.message_id != message_id
            }
            until = self._time.now() + timedelta(seconds=lease)
            self._leases[message["ReceiptHandle"]] = _Lease(url, message_id, until)
        return answer

    async def _change(self, parameters: dict[str, Any], _: bool) -> dict[str, Any]:
        entries = parameters["Entries"]
        longer = [
            entry | {"VisibilityTimeout": _LONG if entry["VisibilityTimeout"] else 0}
            for entry in entries
        ]
        answer = await super().call(
            "sqs", "ChangeMessageVisibilityBatch", parameters | {"Entries": longer}
        )
        for done in answer["Successful"]:
            entry = entries[int(done["Id"])]
            held = self._leases.get(entry["ReceiptHandle"])
            if held is not None:
                until = self._time.now() + timedelta(seconds=entry["VisibilityTimeout"])
                self._leases[entry["ReceiptHandle"]] = _Lease(held.url, held.message_id, until)
                if not entry["VisibilityTimeout"]:
                    del self._leases[entry["ReceiptHandle"]]
        return answer

    async def _attributes(self, parameters: dict[str, Any], _: bool) -> dict[str, Any]:
        # ElasticMQ counts by the millisecond: what came, or came back, within the one in which
        # it is asked is not yet visible to it.
        await trio.sleep(0.002)
        answer = await super().call("sqs", "GetQueueAttributes", parameters)
        name = "ApproximateNumberOfMessagesDelayed"
        if name in answer["Attributes"]:
            held = sum(url == parameters["QueueUrl"] for _, url, _ in self._delayed)
            answer["Attributes"][name] = str(int(answer["Attributes"][name]) + held)
        return answer
