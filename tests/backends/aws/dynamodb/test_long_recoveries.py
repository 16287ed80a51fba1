"""A recovery that reads many tasks keeps its lease, and little in memory. On virtual time, against
a table of which nothing is stored."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import trio
import trio.testing

from task_queue_engine.backends.aws.dynamodb.crash_recovery import CrashRecovery
from task_queue_engine.backends.aws.dynamodb.process_marks import mark_names, milliseconds
from task_queue_engine.backends.aws.dynamodb.schema import counter_ids
from task_queue_engine.backends.aws.dynamodb.sort_keys import sort_key
from task_queue_engine.clock import ManualClock
from tests.backends.aws.dynamodb.faults import Parameters
from tests.sizes import size

BEGIN = ManualClock().now()
DEAD = "0123456789ab"


def now() -> datetime:
    return BEGIN + timedelta(seconds=trio.current_time())


class Large:
    """Ten shards of tasks that others have created and ended, and a dead process's mark.

    Args:
        tasks: of a shard.
        seconds: of a request.
    """

    def __init__(self, tasks: int, seconds: float) -> None:
        self._tasks = tasks
        self._seconds = seconds
        self._until = 0
        self.is_counted = False
        self.read = 0
        self.readers: set[str] = set()
        self.leases = 0

    def by(self, process: str) -> Any:
        """As this process sees it."""
        return _Seen(self, process)

    async def get(self, process: str, ids: Sequence[str]) -> dict[str, Any]:
        await trio.sleep(self._seconds)
        if counter_ids()[0] in ids:
            values = ("1767225600123", "5", "30")
            mark = {n: {"N": v} for n, v in zip(mark_names(DEAD), values, strict=True)}
            return {} if self.is_counted else {counter_ids()[0]: mark}
        self.read += len(ids)
        self.readers.add(process)
        ended = {"status": {"S": "COMPLETED"}, "token": {"S": "ba98765432101"}}
        return {task_id: {"id": {"S": task_id}, **ended} for task_id in ids}

    async def query(self, parameters: Parameters) -> dict[str, Any]:
        await trio.sleep(self._seconds)
        shard = parameters["ExpressionAttributeValues"][":shard"]["S"]
        if not shard.startswith("ROUTINE"):
            return {"Items": []}
        start = parameters.get("ExclusiveStartKey", {"n": 0})["n"]
        end = min(self._tasks, start + parameters.get("Limit", 3_600))
        entries = [
            {"position": {"S": sort_key(BEGIN, f"{shard}-{n:030d}")}} for n in range(start, end)
        ]
        return {"Items": entries} | ({"LastEvaluatedKey": {"n": end}} if end < self._tasks else {})

    async def update(self, expression: str, condition: str, values: Any) -> Any:
        await trio.sleep(self._seconds)
        if expression.startswith("REMOVE"):
            self.is_counted = True
            return {}
        holds = (
            self._until == int(values[":mine"]["N"])
            if ":mine" in values
            else self._until <= milliseconds(now())
        )
        if not holds:
            return None
        self.leases += 1
        self._until = int(values[":until"]["N"])
        return {}


class _Seen:
    def __init__(self, table: Large, process: str) -> None:
        self._table = table
        self._process = process

    async def get(self, _: str, ids: Sequence[str], **__: Any) -> dict[str, Any]:
        return await self._table.get(self._process, ids)

    async def query(self, _: str, parameters: Parameters) -> dict[str, Any]:
        return await self._table.query(parameters)

    async def update(
        self, _: str, _id: str, expression: str, *, condition: str, values: Any, **__: Any
    ) -> Any:
        return await self._table.update(expression, condition, values)


def recovery(table: Large, process: str) -> CrashRecovery:
    return CrashRecovery(
        table.by(process), process=process, now=now, rng=random.Random(process), dead_after=0.4
    )


async def until_counted(table: Large) -> None:
    with trio.fail_after(3600):
        while not table.is_counted:  # noqa: ASYNC110  # virtual time
            await trio.sleep(1)


async def test_no_other_process_begins_the_same(autojump_clock: trio.testing.MockClock) -> None:
    """However long it takes: here five minutes."""
    table = Large(4_000, 2.0)
    async with trio.open_nursery() as nursery:
        for process in ("one", "two", "three"):
            nursery.start_soon(recovery(table, process).run)
        await until_counted(table)
        assert trio.current_time() > 60
        assert len(table.readers) == 1
        assert table.read == 10 * 4_000
        assert table.leases >= trio.current_time() / 30
        nursery.cancel_scope.cancel()


async def test_it_takes_no_memory_for_what_it_has_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tasks = size(4_000, in_full=10_000)  # of each of ten shards
    table = Large(tasks, 0.001)
    async with trio.open_nursery() as nursery:
        tracemalloc.start()
        try:
            nursery.start_soon(recovery(table, "one").run)
            await until_counted(table)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        nursery.cancel_scope.cancel()
    assert table.read == 10 * tasks
    # Eight pages of 500 take 5.6 MB; the ids of all would add 120 bytes a task.
    assert peak < 8e6
