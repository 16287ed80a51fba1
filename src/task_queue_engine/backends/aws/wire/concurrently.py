"""Several requests at once, of which one failure is the failure of all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from task_queue_engine.errors import TaskQueueError

T = TypeVar("T")


async def gather(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results, in order. How many really run at once is for the callee to bound.

    Raises:
        TaskQueueError: the first one; the other calls are cancelled then. It comes bare, not in an
            ExceptionGroup.
    """
    if len(calls) == 1:
        return [await calls[0]()]
    results: dict[int, T] = {}
    failures: list[TaskQueueError] = []

    async def run(index: int) -> None:
        try:
            results[index] = await calls[index]()
        except TaskQueueError as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for index in range(len(calls)):
            nursery.start_soon(run, index)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(calls))]
