"""Two ways to carry out conditional writes: 25 PartiQL statements a request, or one by one.

A writer never raises for one item's sake: each write gets an answer. It retries what DynamoDB left
undone, and finds out what stands in the way of a refused write where the refusal does not say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol

import msgspec
import trio

from task_queue_engine.backends.aws.dynamodb import expressions, partiql
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Delete, Insert, Write
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.table_client import RETRY_AFTER_REFUSAL, TableClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.error_codes import (
    Meaning,
    meaning_of,
    meaning_of_statement,
)
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.aws.wire.json_protocol import capacity_units
from task_queue_engine.errors import BackendUnavailable

MAX_STATEMENTS = 25
"""Of a BatchExecuteStatement (API reference)."""

# Far below the service's limit; large items would make one slow request of many.
_MAX_REQUEST_BYTES = 4 * 2**20

_LARGE = ("payload", "result", "error", "progress")

# Full jitter below 0.1, 0.2, 0.4, 0.8 and 1 s between them: together within a store's call.
TRIES = 6


class Applied(msgspec.Struct, frozen=True):
    item: Item | None = None
    """Of an Update that asked for it: the new item; of a Delete: what was deleted, if anything."""


class ConditionFailed(msgspec.Struct, frozen=True):
    """Nothing was written."""

    item: Item | None = None
    """As it is, or was a moment later; None: there is none (or it was not wanted)."""


class Unanswered(msgspec.Struct, frozen=True):
    """It may or may not have been written, or could not be for now."""

    reason: BackendUnavailable


class Invalid(msgspec.Struct, frozen=True):
    """Nothing was written, and never will be: too large an item, an attribute of another type."""

    message: str


Result = Applied | ConditionFailed | Unanswered | Invalid


class Answer(msgspec.Struct):
    """One write's result and its part of the price."""

    result: Result
    requests: float = 0.0
    units: float = 0.0


class Writer(Protocol):
    async def write(
        self,
        purpose: str,
        writes: Sequence[Write],
        *,
        explain: bool = True,
        deadline: float = math.inf,
        tries: int = TRIES,
    ) -> list[Answer]:
        """
        Args:
            purpose: what to count it under.
            writes: of different items.
            explain: whether to read the item of a refused write where that costs a request.
            deadline: on trio's clock. Where one is given, the call is not cancelled before, and
                returns then: one write that is refused over and over does not take with it what
                is known of the others. Without one it can be cancelled.
            tries: of a write that DynamoDB leaves undone.
        """
        ...


def make_writer(kind: Literal["batch", "single"], table: TableClient) -> Writer:
    return BatchWriter(table) if kind == "batch" else SingleWriter(table)


class _RetryingWriter(ABC):
    def __init__(self, table: TableClient) -> None:
        self._table = table

    async def write(
        self,
        purpose: str,
        writes: Sequence[Write],
        *,
        explain: bool = True,
        deadline: float = math.inf,
        tries: int = TRIES,
    ) -> list[Answer]:
        answers = [Answer(_UNTRIED) for _ in writes]
        with trio.CancelScope(deadline=deadline, shield=deadline < math.inf):
            await self._try_until_done(purpose, writes, answers, tries)
        puzzling = [i for i, each in enumerate(answers) if each.result == _NOT_EXPLAINED]
        if explain and puzzling:
            with trio.CancelScope(deadline=deadline, shield=deadline < math.inf):
                await self._explain(purpose, writes, answers, puzzling)
        return answers

    async def _try_until_done(
        self, purpose: str, writes: Sequence[Write], answers: Sequence[Answer], tries: int
    ) -> None:
        left = list(range(len(writes)))
        for attempt in range(tries):
            if attempt:
                await self._table.pause(attempt)
            await self._try(purpose, writes, left, answers)
            unanswered = [i for i in left if type(answers[i].result) is Unanswered]
            left = [i for i in unanswered if _is_to_be_retried(answers[i])]
            if not left:
                return

    @abstractmethod
    async def _try(
        self,
        purpose: str,
        writes: Sequence[Write],
        indexes: Sequence[int],
        answers: Sequence[Answer],
    ) -> None:
        """Send the writes at these indexes and fill in their answers."""

    async def _explain(
        self,
        purpose: str,
        writes: Sequence[Write],
        answers: Sequence[Answer],
        puzzling: Sequence[int],
    ) -> None:
        """Read the items of the writes at these indexes, of whose refusal no more is known."""
        ids = {i: writes[i].task_id for i in puzzling}
        for i in puzzling:
            answers[i].result = _UNEXPLAINED
        try:
            found = await self._table.get(purpose, list(ids.values()))
        except BackendUnavailable as error:
            for i in puzzling:
                answers[i].result = Unanswered(error)
            return
        for i, task_id in ids.items():
            answers[i].result = ConditionFailed(found.get(task_id))


class BatchWriter(_RetryingWriter):
    """BatchExecuteStatement: conditions of its own and an answer of its own for each statement.

    DynamoDB refuses a request that names an item twice, so `writes` must not.
    """

    async def _try(
        self,
        purpose: str,
        writes: Sequence[Write],
        indexes: Sequence[int],
        answers: Sequence[Answer],
    ) -> None:
        await gather(
            [
                partial(self._send, purpose, writes, chunk, answers)
                for chunk in _chunks(writes, indexes)
            ]
        )

    async def _send(
        self,
        purpose: str,
        writes: Sequence[Write],
        indexes: Sequence[int],
        answers: Sequence[Answer],
    ) -> None:
        table = self._table.name
        statements = [partiql.statement(table, writes[i]) for i in indexes]
        try:
            document = await self._table.write(
                purpose, "BatchExecuteStatement", {"Statements": statements}
            )
        except BackendUnavailable as error:
            for i in indexes:
                answers[i].result = Unanswered(error)
            return
        except AwsRequestFailed as error:
            await self._send_alone(purpose, writes, indexes, answers, error)
            return
        responses = document.get("Responses", [])
        if len(responses) != len(indexes):
            odd = BackendUnavailable("DynamoDB answered for another number of statements")
            for i in indexes:
                answers[i].result = Unanswered(odd)
            return
        units = capacity_units(document)
        of_a_request = 1 / len(indexes)
        if len(units) != len(indexes):
            units = [sum(units) * of_a_request] * len(indexes)
        for i, response, consumed in zip(indexes, responses, units, strict=True):
            answer = answers[i]
            answer.result = _result_of(table, response)
            answer.requests += of_a_request
            answer.units += consumed

    async def _send_alone(
        self,
        purpose: str,
        writes: Sequence[Write],
        indexes: Sequence[int],
        answers: Sequence[Answer],
        error: AwsRequestFailed,
    ) -> None:
        """The request was refused as a whole (a number out of DynamoDB's range, say): find out
        which statement is to blame, and carry out the others."""
        if len(indexes) == 1:
            answers[indexes[0]].result = Invalid(error.message)
            return
        await gather([partial(self._send, purpose, writes, [i], answers) for i in indexes])


class SingleWriter(_RetryingWriter):
    """PutItem, UpdateItem, DeleteItem: for servers without PartiQL."""

    async def _try(
        self,
        purpose: str,
        writes: Sequence[Write],
        indexes: Sequence[int],
        answers: Sequence[Answer],
    ) -> None:
        await gather([partial(self._send, purpose, writes[i], answers[i]) for i in indexes])

    async def _send(self, purpose: str, write: Write, answer: Answer) -> None:
        operation, parameters = expressions.request(write)
        answer.requests += 1
        try:
            document = await self._table.write(
                purpose, operation, {"TableName": self._table.name, **parameters}
            )
        except BackendUnavailable as error:
            answer.result = Unanswered(error)
        except AwsRequestFailed as error:
            if meaning_of(error.code) & Meaning.CONDITION_FAILED:
                answer.result = ConditionFailed(error.answer.get("Item"))
            else:
                answer.result = Invalid(error.message)
        else:
            answer.units += sum(capacity_units(document))
            answer.result = Applied(document.get("Attributes"))


class _LeftUndone(BackendUnavailable):
    """DynamoDB said of a statement that it was not carried out, and may be later."""


_UNTRIED = Unanswered(_LeftUndone("DynamoDB did not answer in time"))
_NOT_EXPLAINED = ConditionFailed()
_UNEXPLAINED = Unanswered(BackendUnavailable("DynamoDB did not say in time what the item is like"))


def _is_to_be_retried(answer: Answer) -> bool:
    """What the client has given up on is not tried again here: it has had its retries."""
    return isinstance(answer.result, Unanswered) and isinstance(answer.result.reason, _LeftUndone)


def _result_of(table: str, response: dict[str, Any]) -> Result:
    error = response.get("Error")
    if not error:
        return Applied(response.get("Item"))
    code, message = error.get("Code", ""), error.get("Message", "")
    means = meaning_of_statement(code)
    if means & Meaning.CONDITION_FAILED:
        return ConditionFailed(error.get("Item"))
    if means & (Meaning.THROTTLED | Meaning.TRANSIENT):
        return Unanswered(_LeftUndone(f"DynamoDB: {code}: {message}"))
    if means & Meaning.ITEM_INVALID:
        return Invalid(message)
    # AccessDenied, ResourceNotFound.
    why = f"table {table}: {code}: {message}"
    return Unanswered(BackendUnavailable(why, retry_after=RETRY_AFTER_REFUSAL))


def _chunks(writes: Sequence[Write], indexes: Sequence[int]) -> list[list[int]]:
    chunks: list[list[int]] = []
    room = 0
    for i in indexes:
        size = _size_of(writes[i])
        if not chunks or len(chunks[-1]) == MAX_STATEMENTS or size > room:
            chunks.append([])
            room = _MAX_REQUEST_BYTES
        chunks[-1].append(i)
        room -= size
    return chunks


def _size_of(write: Write) -> int:
    """About: of what can be large."""
    if isinstance(write, Delete):
        return 0
    values = write.item if isinstance(write, Insert) else write.sets
    size = 0
    for name in _LARGE:
        if name in values:
            size += len(values[name].get("S", ""))
    return size
