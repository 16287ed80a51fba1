"""Requests to one table: counted, bounded in number, their errors sorted."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import trio

from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.usage import Usage
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.aws.wire.explanations import refuse
from task_queue_engine.backends.aws.wire.json_protocol import capacity_units
from task_queue_engine.errors import BackendError, BackendUnavailable, ConfigurationError

MAX_KEYS = 100
"""Of a BatchGetItem (API reference)."""

# About one item: the caller judges it.
_OF_THE_ITEM = Meaning.CONDITION_FAILED | Meaning.ITEM_INVALID
# Of a table, or an index: "The table does not have the specified index".
_NOT_AS_EXPECTED = Meaning.TABLE_MISSING | Meaning.ITEM_INVALID
RETRY_AFTER_REFUSAL = 5.0
"""Seconds: until an operator has mended permissions or the table; another try in a second would not
help."""

# Of a BatchGetItem that leaves keys undone. The pauses between tries without any progress are
# below 0.05, 0.1, ... and 1 s: on average 2 s in all.
_TRIES = 8
_BASE_DELAY = 0.05
_MAX_DELAY = 1.0


class TableClient:
    """
    Args:
        concurrency: requests under way at once for writes, and as many again for reads, so that
            a long listing does not hold up the recording of results.
        timeout: seconds for one request with the client's retries.
    """

    def __init__(
        self,
        client: AwsClient,
        *,
        table: str,
        concurrency: int,
        timeout: float,
        rng: random.Random,
    ) -> None:
        self._client = client
        self.name = table
        self._timeout = timeout
        self._rng = rng
        self._writing = trio.Semaphore(concurrency)
        self._reading = trio.Semaphore(concurrency)
        self._usage: defaultdict[str, Usage] = defaultdict(Usage)
        self.is_open = False
        self.last_write_failed = False
        """For a reason that lies in the table or the way to it, not in the item."""

    def usage(self) -> Mapping[str, Usage]:
        """By purpose."""
        return self._usage

    async def write(
        self, purpose: str, operation: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """
        Args:
            purpose: what to count it under: a method of the store.

        Raises:
            BackendUnavailable: whether it was carried out is not known.
            AwsRequestFailed: it was refused, for a reason that lies in the item.
        """
        try:
            document = await self._call(purpose, operation, parameters, self._writing)
        except BackendUnavailable:
            self.last_write_failed = True
            raise
        self.last_write_failed = False
        self._usage[purpose].write_units += sum(capacity_units(document))
        return document

    async def read(
        self, purpose: str, operation: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """
        Raises:
            BackendUnavailable
        """
        try:
            document = await self._call(purpose, operation, parameters, self._reading)
        except AwsRequestFailed as error:
            raise BackendUnavailable(
                f"table {self.name}: {_explained(error)}", retry_after=RETRY_AFTER_REFUSAL
            ) from error
        self._usage[purpose].read_units += sum(capacity_units(document))
        return document

    async def update(
        self,
        purpose: str,
        item_id: str,
        expression: str,
        *,
        names: Mapping[str, str],
        values: Item | None = None,
        condition: str | None = None,
        returning: bool = False,
        consumed: Callable[[float], None] | None = None,
    ) -> Item | None:
        """UpdateItem of one of the store's own items, which are no tasks.

        Args:
            consumed: told the write units, where it was carried out and the server says.

        Returns:
            The new item where it is wanted (`returning`), else an empty one; None where the
            condition does not hold.

        Raises:
            BackendUnavailable: whether it was carried out is not known.
        """
        parameters: dict[str, Any] = {
            "TableName": self.name,
            "Key": {"id": {"S": item_id}},
            "UpdateExpression": expression,
            "ExpressionAttributeNames": names,
        }
        if returning:
            parameters["ReturnValues"] = "ALL_NEW"
        if values is not None:
            parameters["ExpressionAttributeValues"] = values
        if condition is not None:
            parameters["ConditionExpression"] = condition
        try:
            document = await self.write(purpose, "UpdateItem", parameters)
        except AwsRequestFailed as error:
            if meaning_of(error.code) & Meaning.CONDITION_FAILED:
                return None
            raise BackendUnavailable(f"table {self.name}: {error}") from error
        units = sum(capacity_units(document))
        if consumed is not None and units:
            consumed(units)
        found: Item = document.get("Attributes", {})
        return found

    async def query(self, purpose: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One page of a Query."""
        return await self.read(purpose, "Query", {"TableName": self.name, **parameters})

    async def get(
        self,
        purpose: str,
        ids: Sequence[str],
        *,
        consistent: bool = True,
        attributes: Sequence[str] = (),
    ) -> dict[str, Item]:
        """The items of these ids that exist.

        Args:
            attributes: the only ones wanted, `id` among them; none: all. It costs the same, and
                spares the way of large payloads.
        """
        unique = list(dict.fromkeys(ids))
        options: dict[str, Any] = {"ConsistentRead": consistent}
        if attributes:
            aliases = {f"#{n}": name for n, name in enumerate(attributes)}
            options["ProjectionExpression"] = ",".join(aliases)
            options["ExpressionAttributeNames"] = aliases
        found: dict[str, Item] = {}
        if len(unique) == 1:
            document = await self.read(
                purpose,
                "GetItem",
                {"TableName": self.name, "Key": {"id": {"S": unique[0]}}, **options},
            )
            if "Item" in document:
                found[unique[0]] = document["Item"]
            return found
        chunks = [unique[start : start + MAX_KEYS] for start in range(0, len(unique), MAX_KEYS)]
        await gather([partial(self._get_batch, purpose, chunk, options, found) for chunk in chunks])
        return found

    async def _get_batch(
        self,
        purpose: str,
        ids: Sequence[str],
        options: Mapping[str, Any],
        found: dict[str, Item],
    ) -> None:
        keys: list[Any] = [{"id": {"S": task_id}} for task_id in ids]
        for attempt in range(_TRIES):
            document = await self.read(
                purpose,
                "BatchGetItem",
                {"RequestItems": {self.name: {"Keys": keys, **options}}},
            )
            for item in document.get("Responses", {}).get(self.name, ()):
                found[item["id"]["S"]] = item
            left = document.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if not left:
                return
            # Progress without any delay: the answer was merely over its 16 MB.
            if len(left) == len(keys):
                await self.pause(attempt)
            keys = left
        raise BackendUnavailable(f"DynamoDB left {len(keys)} reads undone, {_TRIES} times")

    async def pause(self, attempt: int) -> None:
        """Full jitter below a bound that doubles with every `attempt` (0, 1, ...)."""
        bound = min(_MAX_DELAY, _BASE_DELAY * 2.0**attempt)
        await trio.sleep(self._rng.uniform(0, bound))

    async def check(self, operation: str, parameters: Mapping[str, Any], *, lacking: str) -> None:
        """At the start: an answer that work cannot begin with is final.

        Args:
            lacking: what to say where DynamoDB finds no such thing.

        Raises:
            ConfigurationError, BackendRefused, BackendUnavailable.
        """
        request = {"TableName": self.name, **parameters}
        try:
            await self._client.call("dynamodb", operation, request, timeout=self._timeout)
        except AwsRequestFailed as error:
            if meaning_of(error.code) & _NOT_AS_EXPECTED:
                raise ConfigurationError(
                    f"{lacking} in {self._client.region} for these credentials "
                    f"(tqe provision makes one): {error.message}",
                    variable="DYNAMODB_TABLE",
                ) from error
            refuse(error, self._client, "dynamodb")
        except BackendError as error:
            refuse(error, self._client, "dynamodb")

    def clock_skew(self) -> float:
        """Seconds that DynamoDB's clock is ahead of this machine's."""
        return self._client.clock_skew("dynamodb")

    def count(self, purpose: str, items: int) -> None:
        self._usage[purpose].items += items

    async def _call(
        self,
        purpose: str,
        operation: str,
        parameters: Mapping[str, Any],
        places: trio.Semaphore,
    ) -> dict[str, Any]:
        if not self.is_open:
            raise BackendUnavailable("the backend is not open")
        try:
            places.acquire_nowait()  # saves the checkpoint that the request has anyway
        except trio.WouldBlock:
            await places.acquire()
        try:
            self._usage[purpose].requests += 1
            try:
                return await self._client.call(
                    "dynamodb",
                    operation,
                    {**parameters, "ReturnConsumedCapacity": "TOTAL"},
                    timeout=self._timeout,
                )
            except AwsRequestFailed as error:
                if meaning_of(error.code) & _OF_THE_ITEM:
                    raise
                # An operator has to mend it; until then work waits.
                raise BackendUnavailable(
                    f"table {self.name}: {_explained(error)}", retry_after=RETRY_AFTER_REFUSAL
                ) from error
        finally:
            places.release()


def _explained(error: AwsRequestFailed) -> str:
    means = meaning_of(error.code)
    if means & Meaning.TABLE_MISSING:
        return "DynamoDB knows no such table or index in this region"
    if means & Meaning.ACCESS_DENIED:
        return f"permission denied: {error.message}"
    return str(error)
