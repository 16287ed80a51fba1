"""A process is killed between its writes and the flush of the counters: another one finds out what
it had not counted, soon, in a table of any size."""

from __future__ import annotations

import gc
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import botocore.credentials
import pytest
import trio

from task_queue_engine.backends.aws.dynamodb import counter_repair
from task_queue_engine.backends.aws.dynamodb.schema import counter_ids
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import Counts
from task_queue_engine.clock import ManualClock, SystemClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    Cancel,
    Complete,
    Fail,
    Interrupt,
    ScheduleRetry,
    ScheduleSnooze,
)
from task_queue_engine.task import Task
from tests.backends.aws.dynamodb.faults import FaultyClient
from tests.backends.aws.dynamodb.tables import Table, amazons_own, few_requests
from tests.backends.aws.dynamodb.tasks import ERROR, create, request_of, start
from tests.backends.aws.dynamodb.test_counters import marks, totals, until_counts

Rescuer = Callable[..., DynamoStore]


class Late(random.Random):
    """What chance is to put off is put off for as long as it may be: a first repair by 300 s."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Mortal(FaultyClient):
    """Once it is dead, nothing of the process reaches the counters."""

    dead = False

    async def call(self, service: Any, operation: str, parameters: Any, **options: Any) -> Any:
        key = str(parameters.get("Key"))
        if self.dead and operation == "UpdateItem" and "@counts" in key:
            raise BackendUnavailable("by a test")
        return await super().call(service, operation, parameters, **options)


@pytest.fixture
def rescuer(table: Table, clock: ManualClock) -> Rescuer:
    """Its repairs are far away: what is mended is not their doing."""

    def make(client: Any = None, dead_after: float = 0.4) -> DynamoStore:
        return table.store(
            client,
            clock=clock,
            flush_interval=0.02,
            repair_interval=3600.0,
            dead_after=dead_after,
            rng=Late(),
        )

    return make


@asynccontextmanager
async def killed(table: Table, clock: ManualClock) -> AsyncIterator[DynamoStore]:
    """A store whose process has had one flush, does what the block does, and is killed."""
    client = Mortal(table.client)
    async with (store := table.store(client, clock=clock)).open():
        await create(store, clock)
        await store.flush_counts()
        assert await marks(table)
        client.dead = True
        yield store


async def complete(store: DynamoStore, *tasks: Task) -> None:
    await store.record([Complete(task_id=task.id, attempt=1, result=1) for task in tasks])


async def rows(table: Table) -> Counts:
    """What is true."""
    statuses = (item["status"]["S"].lower() for item in await table.scan() if "status" in item)
    return Counts(**Counter(statuses))


async def test_every_step_of_a_task_is_found(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    async with killed(table, clock) as dead:
        await create(dead, clock, 2)
        tasks = await start(dead, clock, 7)
        await complete(dead, *tasks[:3])
        await dead.record(
            [
                Fail(task_id=tasks[3].id, attempt=1, error=ERROR),
                Cancel(task_id=tasks[4].id, attempt=1, error=None),
            ]
        )
        (waiting,) = await create(dead, clock)
        await dead.cancel([waiting.id])
    true = Counts(pending=3, processing=2, completed=3, failed=1, cancelled=2)
    assert await rows(table) == true
    of_dead = await marks(table)
    async with (store := rescuer()).open():
        assert await store.counts() == Counts(pending=1)
        await until_counts(store, true)
        await until_marks(table, lambda found: not found & of_dead)


async def test_what_it_had_flushed_is_not_counted_again(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    """Each of its tasks is somewhere else on its way when the last flush comes."""
    client = Mortal(table.client)
    async with (dead := table.store(client, clock=clock)).open():
        await create(dead, clock)
        running = await start(dead, clock, 5)
        await complete(dead, *running[:2])
        await dead.flush_counts()
        client.dead = True
        await complete(dead, running[2])
        await create(dead, clock)
    async with (store := rescuer()).open():
        await until_counts(store, Counts(pending=2, processing=2, completed=3))


async def test_what_others_go_on_with(table: Table, clock: ManualClock, rescuer: Rescuer) -> None:
    """They write the same rows before it is noticed."""
    async with killed(table, clock) as dead:
        (created,) = await create(dead, clock)
        taken_over, ended = await start(dead, clock, 2)
        (retried,) = await start(dead, clock)
        at = clock.now()
        await dead.record(
            [ScheduleRetry(task_id=retried.id, attempt=1, error=ERROR, run_at=at, scheduled=False)]
        )
    async with (store := rescuer()).open():
        await store.claim([request_of(created.id), request_of(retried.id, count=2)])
        await complete(store, created)
        await store.claim([request_of(task.id, count=2) for task in (taken_over, ended)])
        await store.record([Complete(task_id=ended.id, attempt=2, result=1)])
        true = Counts(pending=1, processing=2, completed=2)
        assert await rows(table) == true
        await until_counts(store, true)


class Throttled(FaultyClient):
    """Its flushes are refused for now."""

    refused = False

    def __init__(self, client: AwsClient) -> None:
        super().__init__(client)
        self.tried = trio.Event()

    async def call(self, service: Any, operation: str, parameters: Any, **options: Any) -> Any:
        if self.refused and "#mark = :number" in parameters.get("UpdateExpression", ""):
            self.tried.set()
            raise BackendUnavailable("by a test")
        return await super().call(service, operation, parameters, **options)


async def test_one_that_cannot_flush_does_not_count_for_itself(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    client = Throttled(table.client)
    async with (store := rescuer(client)).open():
        await create(store, clock)
        await store.flush_counts()
        client.refused = True
        await create(store, clock)
        await client.tried.wait()
        await create(store, clock)
        await trio.sleep(2)  # by its mark it is dead by now
        client.refused = False
        await store.flush_counts()
        assert await store.counts() == Counts(pending=3)


async def test_the_end_of_an_attempt_that_is_retried(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    client = Mortal(table.client)
    async with (dead := table.store(client, clock=clock)).open():
        snoozed, retried, interrupted, _ = await start(dead, clock, 4)
        (reopened,) = await create(dead, clock)
        await dead.cancel([reopened.id])
        await dead.flush_counts()
        client.dead = True
        at = clock.now() + timedelta(seconds=60)
        await dead.record(
            [
                ScheduleSnooze(task_id=snoozed.id, attempt=1, run_at=at, scheduled=False),
                ScheduleRetry(
                    task_id=retried.id, attempt=1, error=ERROR, run_at=at, scheduled=False
                ),
                Interrupt(task_id=interrupted.id, attempt=1),
            ]
        )
    async with (store := rescuer()).open():
        await until_counts(store, Counts(pending=3, processing=1, cancelled=1))


async def test_what_others_take_over_and_start_once_more(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    """Their start is written over that of the process that died."""
    async with killed(table, clock) as dead:
        (task,) = await start(dead, clock)
        await create(dead, clock)
    async with (store := rescuer()).open():
        await store.claim([request_of(task.id, count=2)])
        at = clock.now()
        await store.record(
            [ScheduleRetry(task_id=task.id, attempt=2, error=ERROR, run_at=at, scheduled=False)]
        )
        await store.claim([request_of(task.id, count=3)])
        await store.record([Complete(task_id=task.id, attempt=3, result=1)])
        true = Counts(pending=2, completed=1)
        assert await rows(table) == true
        await until_counts(store, true)


class InTrouble:
    """A table whose index can be read, and its rows cannot."""

    async def query(self, purpose: str, parameters: Any) -> dict[str, Any]:
        return {"Items": []}

    async def get(self, *_: Any, **__: Any) -> Any:
        raise BackendUnavailable("by a test")


async def test_trouble_in_the_middle_of_a_look_leaves_nothing_open() -> None:
    """Else the garbage collector closes it, with a warning."""
    table: Any = InTrouble()
    with pytest.raises(BackendUnavailable):
        await counter_repair._count_by_rows(table, "a shard", above="a position")
    gc.collect()


@amazons_own
async def test_while_others_are_busy(table: Table, clock: ManualClock, rescuer: Rescuer) -> None:
    """Exactly, where a repair has to leave alone what may be of others."""
    async with AsyncExitStack() as stack:
        # Longer than a busy machine lets them stand still: none is to take another for dead.
        busy = [await stack.enter_async_context(opened(rescuer(dead_after=5.0))) for _ in range(3)]
        async with killed(table, clock) as dead:
            tasks = await start(dead, clock, 20)
            await complete(dead, *tasks[:11])
        of_dead = await marks(table)
        over = trio.Event()

        async def work(store: DynamoStore) -> None:
            while not over.is_set():
                await complete(store, *(await start(store, clock, 3))[:2])
                await trio.sleep(0.2)  # or the table grows as fast as it is searched

        async with trio.open_nursery() as nursery:
            for store in busy:
                nursery.start_soon(work, store)
            await until_marks(table, lambda found: not found & of_dead)
            over.set()
        for store in busy:
            await store.flush_counts()
        for store in busy:
            assert await store.counts() == await rows(table)


@asynccontextmanager
async def opened(store: DynamoStore) -> AsyncIterator[DynamoStore]:
    async with store.open():
        yield store


async def until_marks(table: Table, enough: Callable[[set[str]], bool]) -> None:
    """Of the processes that are busy, and of the dead."""
    with trio.fail_after(60):
        while not enough(await marks(table)):  # noqa: ASYNC110  # another process's doing
            await trio.sleep(0.02)


async def test_one_that_is_idle_is_not_taken_for_dead(
    table: Table, clock: ManualClock, rescuer: Rescuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_queue_engine.backends.aws.dynamodb.counters._IDLE_AFTER", 0.1)
    client = FaultyClient(table.client)
    async with (idle := table.store(client, clock=clock, flush_interval=0.01)).open():
        await create(idle, clock, 2)
        await until_marks(table, lambda found: len(found) == 1)
        await until_marks(table, lambda found: not found)
        async with (store := rescuer()).open():
            await trio.sleep(1)  # time enough to notice, were there anything to notice
            assert "crash_recovery" not in store.usage().by_step
            await create(idle, clock)
            await until_counts(store, Counts(pending=3))


async def test_nor_is_one_that_has_only_repaired(
    table: Table, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it counts after that would be lost."""
    monkeypatch.setattr("task_queue_engine.backends.aws.dynamodb.counters._IDLE_AFTER", 0.1)
    async with killed(table, clock) as dead:
        await start(dead, clock, 4)
    of_dead = await marks(table)
    async with (repairing := table.store(clock=clock, flush_interval=0.01)).open():
        assert (await repairing.repair_counts()).corrected
        await until_marks(table, lambda found: found <= of_dead)


async def test_one_that_was_taken_for_dead_counts_nothing_twice(
    table: Table, clock: ManualClock, rescuer: Rescuer, caplog: pytest.LogCaptureFixture
) -> None:
    """It was frozen, and goes on."""
    async with (frozen := table.store(clock=clock)).open():
        await create(frozen, clock)
        # Flushed by itself, and from then on not for an hour.
        async with (other := table.store(clock=clock)).open():
            await until_counts(other, Counts(pending=1))
        await complete(frozen, *(await start(frozen, clock, 4))[:1])
        async with (store := rescuer()).open():
            await until_counts(store, Counts(pending=1, processing=3, completed=1))
            await frozen.flush_counts()
            assert "another has counted for it" in caplog.text
            assert await frozen.counts() == Counts(pending=1, processing=3, completed=1)
            await create(frozen, clock)
            await frozen.flush_counts()
            assert await store.counts() == Counts(pending=2, processing=3, completed=1)


async def test_a_repair_and_a_recovery_do_not_count_the_same(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    async with killed(table, clock) as dead:
        await start(dead, clock, 4)
    true = Counts(pending=1, processing=4)
    async with (repairing := table.store(clock=clock, flush_interval=0.01)).open():
        assert (await repairing.repair_counts()).corrected
        assert await repairing.counts() == true
    async with (store := rescuer()).open():
        await until_marks(table, lambda found: not found)
        assert await store.counts() == true


@pytest.mark.parametrize("minutes", [2, 60])
async def test_it_looks_at_recent_tasks_only(
    table: Table, clock: ManualClock, rescuer: Rescuer, minutes: int
) -> None:
    """Whatever the size of the table: where the dead process had young tasks in hand, at those."""
    async with (store := table.store(clock=clock)).open():
        await create(store, clock, 150)
    clock.advance(minutes * 60)
    async with killed(table, clock) as dead:
        await create(dead, clock, 3)
    client = FaultyClient(table.client)
    async with (store := rescuer(client)).open():
        await until_counts(store, Counts(pending=154))
        usage = store.usage().by_step["crash_recovery"]
        # 40 queries and the four tasks.
        assert usage.requests <= 40 + 4 + 1
        if "moto" not in table.server.name:
            assert usage.read_units <= 40 * 0.5 + 4 * 0.5 + 4


async def test_it_looks_as_far_back_as_what_was_in_hand(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    """A handler has run for ten minutes, beside many short ones."""
    client = Mortal(table.client)
    async with (dead := table.store(client, clock=clock)).open():
        long, *_ = await start(dead, clock, 2)
        await dead.flush_counts()
        clock.advance(600)
        await create(dead, clock)
        await dead.flush_counts()
        client.dead = True
        await complete(dead, long)
    async with (store := rescuer()).open():
        await until_counts(store, Counts(pending=1, processing=1, completed=1))


async def test_it_looks_as_far_back_as_what_was_started_lately(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    """The queue is behind: the next tasks will be about as old."""
    client = Mortal(table.client)
    async with (other := table.store(clock=clock)).open():
        await create(other, clock, 1)
        clock.advance(60)
        waiting = await create(other, clock, 2)
    clock.advance(240)
    async with (dead := table.store(client, clock=clock)).open():
        await dead.claim([request_of(waiting[0].id)])
        await complete(dead, waiting[0])
        await dead.flush_counts()
        client.dead = True
        clock.advance(60)
        await dead.claim([request_of(waiting[1].id)])
    async with (store := rescuer()).open():
        await until_counts(store, Counts(pending=1, processing=1, completed=1))


async def test_one_of_an_older_version_does_not_say_how_far_back(
    table: Table, clock: ManualClock, rescuer: Rescuer
) -> None:
    async with killed(table, clock) as dead:
        (mark,) = await marks(table)
        for item_id in counter_ids():
            item = await table.item(item_id) or {}
            if mark in item:
                del item[mark.replace("flushed_", "age_")]
                await table.put(item)
        created_at = clock.now() - timedelta(minutes=10)
        await create(dead, clock, created_at=created_at)
    async with (store := rescuer()).open():
        await until_counts(store, Counts(pending=2))


@pytest.mark.parametrize("what", ["claim", "claim of one that waited", "end", "cancel", "retry"])
async def test_what_would_not_be_found_is_flushed_at_once(
    table: Table, clock: ManualClock, what: str
) -> None:
    async with (store := table.store(clock=clock)).open():
        await create(store, clock)
        await until_flushed(table)
        old = make_old(clock) if what in ("claim", "end") else {}
        if what == "claim of one that waited":
            # Far less than the limit, and older than the process has said that its tasks are.
            old = {"created_at": clock.now() - timedelta(minutes=5)}
        (task,) = await create(store, clock, **old)
        await store.claim([request_of(task.id)])
        if what == "end":
            await complete(store, task)
        if what == "cancel":
            (waiting,) = await create(store, clock)
            await store.cancel([waiting.id])
        if what == "retry":
            at = clock.now()
            await store.record(
                [ScheduleRetry(task_id=task.id, attempt=1, error=ERROR, run_at=at, scheduled=False)]
            )
        true = await rows(table)
        async with (other := table.store(clock=clock)).open():
            await until_counts(other, true)


async def until_flushed(table: Table) -> None:
    """The first change of a busy process is flushed at once: it shows that one, and no other."""
    with trio.fail_after(20):
        while (await totals(table)).get("pending") != 1:  # noqa: ASYNC110  # the store's own doing
            await trio.sleep(0.01)


def make_old(clock: ManualClock) -> dict[str, Any]:
    return {"created_at": clock.now() - timedelta(minutes=16)}


async def test_the_ordinary_way_is_not_flushed_at_once(table: Table, clock: ManualClock) -> None:
    """It would cost a write unit for each request."""
    async with (store := table.store(clock=clock, flush_interval=60)).open():
        await create(store, clock)
        await until_flushed(table)
        await trio.sleep(0.3)  # the store knows of it, too
        before = store.usage().by_step["counters"].requests
        await complete(store, *await start(store, clock, 3))
        await trio.sleep(0.3)
        assert store.usage().by_step["counters"].requests == before


@pytest.mark.parametrize("table", ["dynamodb-local/batch"], indirect=True)
async def test_killed_by_the_kernel(table: Table) -> None:
    """Processes that work as fast as they can are killed in the middle of it, one after another."""
    server = table.server
    address = [server.url, server.region, *server.credentials]
    program = [sys.executable, "-m", __name__, *address, table.name]
    for _ in range(4):
        known = await marks(table)
        process = await trio.lowlevel.open_process(program, stdout=-1)
        assert process.stdout is not None
        worked = b""
        while worked.count(b".") < 3:
            worked += await process.stdout.receive_some(100)
        # What it did in the round trip before it had a mark waits for the repair.
        await until_marks(table, lambda found, known=known: bool(found - known))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await process.stdout.aclose()
    of_dead = await marks(table)
    # Longer than a busy server takes to carry out what the killed process had sent.
    settings = {"flush_interval": 0.1, "repair_interval": 3600.0, "dead_after": 5.0}
    async with (store := table.store(clock=SystemClock(), rng=Late(), **settings)).open():
        before = await store.counts()
        await until_marks(table, lambda found: not found & of_dead)
        true = await rows(table)  # the server carries out what had been sent to it
        assert true.completed > 0
        assert before != true, "nothing was lost: this shows nothing"
        assert await store.counts() == true


async def work_for_ever(url: str, region: str, key: str, secret: str, name: str) -> None:
    clock = SystemClock()
    client = AwsClient(
        region=region,
        endpoints={"dynamodb": url, "sqs": url},
        load_credentials=lambda: botocore.credentials.Credentials(key, secret),
    )
    async with client.open():
        store = DynamoStore(client, table_name=name, clock=clock, flush_interval=0.3)
        async with store.open(), trio.open_nursery() as nursery:

            async def work() -> None:
                while True:
                    tasks = await start(store, clock, 5)
                    await complete(store, *tasks[:4])
                    sys.stdout.write(".")
                    sys.stdout.flush()

            for _ in range(3):
                nursery.start_soon(work)


if __name__ == "__main__":
    with few_requests():
        trio.run(work_for_ever, *sys.argv[1:])
