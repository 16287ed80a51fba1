"""Another process on the same file: `python -m tests.backends.sqlite.child WHAT PATH`."""

from __future__ import annotations

import sys

import trio

from task_queue_engine.backends.base import Message, NewTask
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import SystemClock
from task_queue_engine.lifecycle import ClaimRequest, Complete, Fail, Started
from task_queue_engine.task import Task, TaskError, new_task_id


def new_task(payload: object = None) -> Task:
    now = SystemClock().now()
    return Task(id=new_task_id(), type="demo", payload=payload, created_at=now, updated_at=now)


async def create(backend: SqliteBackend) -> Task:
    task = new_task()
    await backend.store.create([NewTask(task=task)])
    return task


async def open_once(backend: SqliteBackend) -> None:
    """Start and write one task."""
    async with backend.open():
        await create(backend)


async def send_one(backend: SqliteBackend) -> None:
    """Say "ready"; at a line on standard input, send one message."""
    async with backend.open():
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await backend.queue("default").send([Message(task=new_task())])


async def load(backend: SqliteBackend) -> None:
    """Everything at once, without end. Each task's id is printed once it is stored."""
    queue, store = backend.queue("default"), backend.store

    async def produce() -> None:
        while True:
            task = new_task("x" * 500)
            await store.create([NewTask(task=task)])
            sys.stdout.write(task.id + "\n")
            await queue.send([Message(task=task)])

    async def consume(number: int) -> None:
        while True:
            for delivery in await queue.receive(8, wait=1, visibility=30):
                request = ClaimRequest(
                    task_id=delivery.task_id,
                    message_id=delivery.message_id,
                    receive_count=delivery.receive_count,
                    worker="child",
                )
                (verdict,) = await store.claim([request])
                if not isinstance(verdict, Started):
                    continue
                task = verdict.task
                own = {"task_id": task.id, "attempt": task.attempt}
                if number % 2:
                    await store.record([Complete(**own, result=number)])
                else:
                    await store.record([Fail(**own, error=TaskError(type="x", message="y"))])
                await queue.delete([delivery])

    async with backend.open(), trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(produce)
            nursery.start_soon(consume, number)
        while True:
            await trio.sleep(0.01)
            sys.stdout.flush()


if __name__ == "__main__":
    what, path = sys.argv[1:]
    trio.run({"open": open_once, "send": send_one, "load": load}[what], SqliteBackend(path))
