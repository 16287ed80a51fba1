"""Trouble between the store and the server, on demand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from task_queue_engine.backends.aws.dynamodb.schema import COUNTER_PREFIX
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.errors import BackendUnavailable

WRITES = ("BatchExecuteStatement", "PutItem", "UpdateItem", "DeleteItem")

Parameters = Mapping[str, Any]
Send = Callable[[Parameters], Awaitable[dict[str, Any]]]
Fault = Callable[[Send, Parameters], Awaitable[dict[str, Any]]]


class FaultyClient:
    """An AwsClient whose next calls can be made to go wrong. Faults of one operation are used up
    in the order in which they were armed, one by each call.

    Args:
        of_counters: faults of UpdateItem hit the counters, which are written at times of their
            own, and not the tasks; without it, the tasks and not the counters.
    """

    def __init__(self, client: AwsClient, *, of_counters: bool = False) -> None:
        self._client = client
        self._of_counters = of_counters
        self._faults: dict[str, deque[Fault]] = {}
        self.calls: Counter[str] = Counter()
        self.statements: list[int] = []
        """How many were in each batch."""

    @property
    def region(self) -> str:
        return self._client.region

    @property
    def credentials_origin(self) -> str:
        return self._client.credentials_origin

    def endpoint(self, service: Any) -> str:
        return self._client.endpoint(service)

    def clock_skew(self, service: Any) -> float:
        return self._client.clock_skew(service)

    def has_answered(self, service: Any) -> bool:
        return False  # as at the start of an engine: what made the table is no part of that

    async def call(
        self, service: Any, operation: str, parameters: Parameters, **options: Any
    ) -> dict[str, Any]:
        self.calls[operation] += 1
        if "Statements" in parameters:
            self.statements.append(len(parameters["Statements"]))

        async def send(changed: Parameters) -> dict[str, Any]:
            return await self._client.call(service, operation, changed, **options)

        waiting = self._faults.get(operation)
        if waiting and (
            operation != "UpdateItem" or self._of_counters is _is_of_the_counters(parameters)
        ):
            return await waiting.popleft()(send, parameters)
        return await send(parameters)

    # --- arming -----------------------------------------------------------------------------

    def arm(self, fault: Fault, *operations: str, times: int = 1) -> None:
        for operation in operations:
            self._faults.setdefault(operation, deque()).extend([fault] * times)

    def arm_writes(self, fault: Fault, *, times: int = 1) -> None:
        """For whichever operation the store writes with."""
        self.arm(fault, *WRITES, times=times)

    def armed(self, operation: str) -> int:
        """How many of its faults have not been used up."""
        return len(self._faults.get(operation, ()))

    def disarm(self) -> None:
        self._faults.clear()


def _is_of_the_counters(parameters: Parameters) -> bool:
    key: str = parameters.get("Key", {}).get("id", {}).get("S", "")
    return key.startswith(COUNTER_PREFIX)


async def nothing_wrong(send: Send, parameters: Parameters) -> dict[str, Any]:
    return await send(parameters)


async def lost_answer(send: Send, parameters: Parameters) -> dict[str, Any]:
    """Carried out, and the caller does not hear of it."""
    with suppress(AwsRequestFailed):
        await send(parameters)
    raise BackendUnavailable("answer lost by a test")


async def sent_twice(send: Send, parameters: Parameters) -> dict[str, Any]:
    """The answer was lost, and the client has sent the request again."""
    with suppress(AwsRequestFailed):
        await send(parameters)
    return await send(parameters)


async def not_sent(send: Send, parameters: Parameters) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    raise BackendUnavailable("made to fail by a test")


def failing(error: Exception) -> Fault:
    async def fault(send: Send, parameters: Parameters) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        raise error

    return fault


def statements_failing(*codes: str) -> Fault:
    """The first statements of the batch are answered with these codes and not carried out."""

    async def fault(send: Send, parameters: Parameters) -> dict[str, Any]:
        statements = parameters["Statements"]
        errors = [{"Error": {"Code": code, "Message": "by a test"}} for code in codes]
        left = statements[len(errors) :]
        answer = await send({**parameters, "Statements": left}) if left else {"Responses": []}
        return answer | {"Responses": errors[: len(statements)] + answer["Responses"]}

    return fault


async def nothing_explained(send: Send, parameters: Parameters) -> dict[str, Any]:
    """A server that does not say what stood in the way of a refused statement."""
    answer = await send(parameters)
    for response in answer["Responses"]:
        response.get("Error", {}).pop("Item", None)
    return answer
