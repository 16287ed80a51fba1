"""Whether a page of a list takes longer the more tasks there are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import trio

from benchmarks.aws.setup import make_backend, provisioned
from benchmarks.processes import emptied
from benchmarks.rows.base import Case, Column, Figures, Goal, Round, Row, Setup
from local_aws.pairs import Pair, start
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import Backend, ListQuery, NewTask
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import PendingFailure
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id

QUEUE, TABLE = "elasticmq", "dynamodb-local"
"""The pair that is closest to AWS."""

_PAGES = 6
"""Of each list, from the newest on: a page somewhere must not cost more than the first."""
_LONGEST_MS = 300.0

# As tasks are after some weeks: four types, two queues of which one has a tenth, one in a hundred
# FAILED with a traceback, payloads of 200 bytes. Two are unlike all others.
_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO tasks (id, queue, type, status, retry_count, attempt, max_attempts, created_at,
    updated_at, finished_at, cancel_requested, receive_count, payload, error)
SELECT printf('%08x-%04x-7000-8000-%012x', n >> 16, n & 65535, n),
    CASE WHEN n = 1 THEN 'rare' WHEN n % 10 = 0 THEN 'other' ELSE 'default' END,
    'type-' || (n % 4),
    CASE WHEN n % 100 = 0 THEN 3 WHEN n % 1000 = 1 THEN 4 WHEN n > :count - 1000 THEN 0 ELSE 2 END,
    0, 1, 3, :first + n * 1000, :first + n * 1000, :first + n * 1000 + 500, 0, 0,
    CAST('"' || hex(zeroblob(100)) || '"' AS BLOB),
    iif(n % 100 = 0, CAST('{"type":"ConnectionError","message":"no route to host '
        || iif(n = 100, 'rare', n) || '","traceback":"' || hex(zeroblob(1000)) || '"}' AS BLOB),
        NULL)
FROM numbers
"""
_STEP = timedelta(milliseconds=1)


def queries(first: datetime, count: int, an_id: str) -> dict[str, dict[str, Any]]:
    middle = first + count // 2 * _STEP
    return {
        "all": {},
        "by status": {"status": TaskStatus.FAILED},
        "by type": {"type": "type-1"},
        "by type and status": {"type": "type-0", "status": TaskStatus.FAILED},
        "by queue": {"queue": "other"},
        "by a queue with one task, the oldest": {"queue": "rare"},
        "created before": {"created_before": middle},
        "created between": {
            "created_after": middle,
            "created_before": middle + 100 * _STEP,
        },
        "by id": {"id": an_id},
        "by error": {"error": "no route"},
        "by the error of one task, the oldest": {"error": "HOST RARE"},
    }


class _Place:
    """A store that is filled for the first case that needs it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.first = datetime.now(UTC) - timedelta(days=1)
        self.an_id = ""

    def of(self, name: str) -> dict[str, Any]:
        return queries(self.first, self.count, self.an_id)[name]

    @property
    def count(self) -> int:
        raise NotImplementedError

    def opened(self) -> Any:
        raise NotImplementedError

    def measure(self, name: str) -> Figures:
        return trio.run(self._measure, name)

    async def _measure(self, name: str) -> Figures:
        async with self.opened() as backend:
            await backend.store.list_tasks(ListQuery())  # connections and caches are warm
            cursor, found, times = None, 0, []
            for _ in range(_PAGES):
                began = time.perf_counter()
                page = await backend.store.list_tasks(ListQuery(**self.of(name), cursor=cursor))
                times.append((time.perf_counter() - began) * 1e3)
                found += len(page.tasks)
                cursor = page.next_cursor
                if cursor is None:
                    break
        return {"page_ms": sorted(times)[len(times) // 2], "worst_ms": max(times), "found": found}


class _Sqlite(_Place):
    _path: Path | None = None

    @property
    def count(self) -> int:
        return self.setup.size(1_000_000, 200_000, 3_000)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Backend]:
        if self._path is None:
            folder = self.setup.stack.enter_context(emptied(self.setup.folder / "lists"))
            self._path = folder / "tasks.db"
            async with SqliteBackend(self._path).open():
                pass
            connection = apsw.Connection(str(self._path))
            epoch_us = int(self.first.timestamp() * 1e6)
            with connection:
                connection.execute(_FILL, {"count": self.count, "first": epoch_us})
            connection.close()
            n = self.count // 3
            self.an_id = f"{n >> 16:08x}-{n & 65535:04x}-7000-8000-{n:012x}"
        backend = SqliteBackend(self._path)
        async with backend.open():
            yield backend


class _Aws(_Place):
    _settings: Any = None

    @property
    def count(self) -> int:
        return self.setup.size(20_000, 5_000, 200)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Backend]:
        local = start(Pair(QUEUE, TABLE))
        is_new = self._settings is None
        if is_new:
            self._settings = provisioned(local)
        backend = make_backend(self._settings, AwsClient(**local.client_options()))
        async with backend.open():
            if is_new:
                await self._fill(backend)
            yield backend

    async def _fill(self, backend: Backend) -> None:
        store = backend.store
        for first in range(0, self.count, store.max_batch):
            numbers = range(first + 1, min(first + store.max_batch, self.count) + 1)
            tasks = [self._task(n) for n in numbers]
            await _patiently(store.create, [NewTask(task=task) for task in tasks])
            failures = [
                PendingFailure(
                    task_id=task.id,
                    attempt=0,
                    error=TaskError(
                        type="ConnectionError",
                        message=f"no route to host {'rare' if n == 100 else n}",
                        traceback="x" * 2000,
                    ),
                )
                for n, task in zip(numbers, tasks, strict=True)
                if n % 100 == 0
            ]
            await _patiently(store.fail_pending, failures)
            self.an_id = tasks[0].id

    def _task(self, n: int) -> Task:
        created_at = self.first + n * _STEP
        return Task(
            id=new_task_id(),
            type=f"type-{n % 4}",
            queue="rare" if n == 1 else "other" if n % 10 == 0 else "default",
            payload="0" * 200,
            created_at=created_at,
            updated_at=created_at,
        )


async def _patiently(write: Callable[[Any], Awaitable[Any]], items: list[Any]) -> None:
    """The local server may be busy; each write is harmless when it is made again."""
    while True:
        try:
            await write(items)
        except BackendUnavailable:
            await trio.sleep(0.2)
        else:
            return


def _cases(setup: Setup) -> list[Case]:
    places: dict[str, _Place] = {"SQLite": _Sqlite(setup), "local AWS": _Aws(setup)}
    return [
        Case(
            name=f"{where}, {name}",
            measure=partial(place.measure, name),
            about=f"{place.count:,} tasks" if name == "all" else "",
        )
        for where, place in places.items()
        for name in queries(place.first, 1, "")
    ]


def _slowest(where: str) -> Callable[[Round], float | None]:
    def number(round_: Round) -> float | None:
        found = [each["worst_ms"] for name, each in round_.items() if name.startswith(where)]
        return max(found, default=None)

    return number


LISTS = Row(
    name="lists",
    title="A page of a list, at a million tasks",
    how=f"The first {_PAGES} pages of 50 tasks of each list, one after the other, from the store in"
    " this process; the median and the slowest of them, and how many tasks were on them. A filter"
    " that hardly any task passes gets short pages: a look is bounded. ElasticMQ and DynamoDB Local"
    " have fewer tasks, since filling them takes too long.",
    columns={
        "page_ms": Column(heading="page ms", digits=1),
        "worst_ms": Column(heading="slowest ms", digits=1),
        "found": Column(heading="tasks found"),
    },
    cases=_cases,
    goals=[
        Goal(text=f"slowest page, {where}", number=_slowest(where), most=_LONGEST_MS, unit="ms")
        for where in ("SQLite", "local AWS")
    ],
    rounds=(1, 1),
)
