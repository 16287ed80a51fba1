"""A client that writes down what AWS would bill: every request, the payload of SQS's, the bytes
read, the writes refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.aws.cost import units
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed

_WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem"})


@dataclass(slots=True)
class Bill:
    """What a client was answered; requests are counted by the client itself."""

    more_chunks: Counter[str] = field(default_factory=Counter)
    """By SQS operation: payload beyond 64 KB, which counts as more requests."""
    reads: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Read units by operation."""
    applied: int = 0
    """Writes carried out; those that changed something are in the stream."""
    refused: int = 0
    refused_units: int = 0

    def note(self, operation: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        match operation:
            case "SendMessage":
                self._chunks(operation, _payload(asked))
            case "SendMessageBatch":
                self._chunks(operation, sum(_payload(entry) for entry in asked["Entries"]))
            case "ReceiveMessage":
                found = answer.get("Messages") or ()
                self._chunks(operation, sum(_received(message) for message in found))
            case "BatchExecuteStatement":
                for each in answer["Responses"]:
                    self._written(each.get("Error"))
            case "GetItem":
                size = units.item_size(answer.get("Item", {}))
                consistent = asked.get("ConsistentRead", False)
                self.reads[operation] += units.read_units(size, consistent=consistent)
            case "BatchGetItem":
                self._batch_read(operation, asked, answer)
            case "Query":
                self.reads[operation] += _queried(asked, answer)
            case _ if operation in _WRITES:
                self._written(None)

    def note_refusal(self, operation: str, error: AwsRequestFailed) -> None:
        if operation in _WRITES and error.code == "ConditionalCheckFailedException":
            self._written({"Code": "ConditionalCheckFailed", "Item": error.answer.get("Item")})

    def _chunks(self, operation: str, payload: int) -> None:
        self.more_chunks[operation] += units.sqs_requests(payload) - 1

    def _written(self, error: Mapping[str, Any] | None) -> None:
        if not error:
            self.applied += 1
        elif error["Code"] in ("ConditionalCheckFailed", "DuplicateItem"):
            self.refused += 1
            self.refused_units += units.refused_write(error.get("Item"))

    def _batch_read(
        self, operation: str, asked: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> None:
        for table, wanted in asked["RequestItems"].items():
            consistent = wanted.get("ConsistentRead", False)
            found = answer.get("Responses", {}).get(table, [])
            undone = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", ())
            missing = len(wanted["Keys"]) - len(found) - len(undone)
            sizes = [*(units.item_size(item) for item in found), *[0] * missing]
            for size in sizes:
                self.reads[operation] += units.read_units(size, consistent=consistent)


class ObservedClient(AwsClient):
    """The engine's own client, and what it was asked and answered."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bill = Bill()

    async def call(
        self,
        service: Service,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        long_poll: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        try:
            answer = await super().call(
                service, operation, parameters, long_poll=long_poll, timeout=timeout
            )
        except AwsRequestFailed as error:
            self.bill.note_refusal(operation, error)
            raise
        self.bill.note(operation, parameters, answer)
        return answer

    def requests(self, service: Service) -> Counter[str]:
        """HTTP requests by operation, retries and empty polls included; of SQS, as they are
        billed."""
        counts: Counter[str] = Counter()
        for (found, operation), tally in self.statistics().operations.items():
            if found == service:
                counts[operation] = tally.requests + self.bill.more_chunks[operation]
        return counts


def _payload(entry: Mapping[str, Any]) -> int:
    return len(entry["MessageBody"].encode()) + _attributes(entry)


def _received(message: Mapping[str, Any]) -> int:
    return len(message["Body"].encode()) + _attributes(message)


def _attributes(entry: Mapping[str, Any]) -> int:
    return sum(
        len(name) + len(value["DataType"]) + len(value["StringValue"].encode())
        for name, value in (entry.get("MessageAttributes") or {}).items()
    )


def _queried(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    """By the bytes of what it went through, where the answer shows that; else (a filter, a count,
    a part of the attributes) as the server says, which reckons a page of an index rightly."""
    consistent = bool(asked.get("ConsistentRead", False))
    items = answer.get("Items", [])
    shown = len(items) == answer.get("ScannedCount", 0) and "ProjectionExpression" not in asked
    if shown:
        return units.read_units(sum(map(units.item_size, items)), consistent=consistent)
    said = float((answer.get("ConsumedCapacity") or {}).get("CapacityUnits", 0.0))
    return max(said, units.read_units(0, consistent=consistent))
