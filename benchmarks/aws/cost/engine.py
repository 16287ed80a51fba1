"""The real engine, from the first submission to the last acknowledged message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trio

from benchmarks.aws.cost.observed import ObservedClient
from benchmarks.aws.cost.shapes import MOST_SECONDS, RETRY_DELAY, Idle, Run, Shape, Side
from benchmarks.aws.cost.written import TableStream
from benchmarks.aws.setup import boto, make_backend
from benchmarks.phases import Ended, Tick
from local_aws.pairs import LocalAws
from task_queue_engine import (
    Discard,
    Engine,
    Refused,
    Retry,
    Settings,
    Submission,
    TaskContext,
    TaskRegistry,
)

NAME = "this engine"

_CHUNK = 500
# Seconds. The second look of the sweep is an hour after the first.
_HOURS_AFTER = 7200.0


class JumpingClock:
    """The machine's clock, which can be set ahead: an hour's delay is over at once."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def jump(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


def make_tasks(work: float = 0.0) -> TaskRegistry:
    """
    Args:
        work: seconds that every attempt takes.
    """
    tasks = TaskRegistry()

    @tasks.task("done")
    async def done(payload: str) -> None:
        await trio.sleep(work)

    @tasks.task("retried")
    async def retried(payload: str, context: TaskContext) -> None:
        await trio.sleep(work)
        if context.attempt == 1:
            raise Retry(RETRY_DELAY)

    @tasks.task("failed")
    async def failed(payload: str) -> None:
        await trio.sleep(work)
        raise Discard("it cannot be done")

    return tasks


async def run_engine(
    local: LocalAws,
    settings: Settings,
    shape: Shape,
    count: int,
    tick: Tick,
    work: float = 0.0,
) -> Run:
    """Fill the queue with an engine that only takes submissions, then drain it with another.

    Args:
        work: seconds that every attempt takes.
    """
    clock = JumpingClock()
    stream = TableStream(
        boto(local, "dynamodb"), boto(local, "dynamodbstreams"), settings.dynamodb_table or ""
    )
    producer = ObservedClient(**local.client_options(), clock=clock)
    consumer = ObservedClient(**local.client_options(), clock=clock)
    tasks = make_tasks(work)

    async with trio.open_nursery() as nursery:
        engine = Engine(
            tasks,
            settings,
            backend=make_backend(settings, producer, clock=clock),
            clock=clock,
            consume=False,
            housekeeping=False,
        )
        await nursery.start(engine.run)
        await _submit(engine, shape, count)
        await engine.stop()
    created = await trio.to_thread.run_sync(stream.new_changes)

    clock.jump(shape.delay)
    ended = Ended(count, tick)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        engine = Engine(
            tasks,
            settings,
            backend=make_backend(settings, consumer, clock=clock),
            clock=clock,
            hooks=[ended],
        )
        await nursery.start(engine.run)
        with trio.fail_after(MOST_SECONDS):
            await ended.wait(engine)
        seconds = trio.current_time() - started
        await engine.stop()
    await _look_after(settings, consumer, clock)
    worked = await trio.to_thread.run_sync(stream.new_changes)
    return Run(
        engine=NAME,
        shape=shape.name,
        tasks=count,
        seconds=seconds,
        producing=Side.of(producer, created, stream.indexes),
        consuming=Side.of(consumer, worked, stream.indexes),
    )


async def _look_after(settings: Settings, client: ObservedClient, clock: JumpingClock) -> None:
    """What the store still does about these tasks in the hours after: the sweep's two looks at each
    (ADR 0014)."""
    clock.jump(_HOURS_AFTER)
    backend = make_backend(settings, client, clock=clock)
    async with backend.open():
        cursor: str | None = None
        while True:
            page = await backend.stranded(
                settings.queue, before=clock.now(), limit=1_000, cursor=cursor
            )
            cursor = page.next_cursor
            if cursor is None:
                return


async def _submit(engine: Engine, shape: Shape, count: int) -> None:
    one = Submission(
        task=shape.outcome, payload="x" * shape.payload_bytes, delay=shape.delay or None
    )
    for start in range(0, count, _CHUNK):
        for verdict in await engine.submit_many([one] * min(_CHUNK, count - start)):
            if isinstance(verdict, Refused):
                raise SystemExit(f"a task could not be submitted: {verdict.error}")


async def run_idle(local: LocalAws, settings: Settings, seconds: float) -> Idle:
    """An engine with an empty queue, from when it has opened on. Its few writes are taken for one
    unit each: what an idle engine writes is smaller than 1 KB and in no index."""
    client = ObservedClient(**local.client_options())
    async with trio.open_nursery() as nursery:
        engine = Engine(make_tasks(), settings, backend=make_backend(settings, client))
        await nursery.start(engine.run)
        before, reads = client.requests("sqs"), sum(client.bill.reads.values())
        writes = client.bill.applied + client.bill.refused_units
        await trio.sleep(seconds)
        found = Idle(
            seconds,
            client.requests("sqs") - before,
            sum(client.bill.reads.values()) - reads,
            client.bill.applied + client.bill.refused_units - writes,
        )
        await engine.stop()
    return found
