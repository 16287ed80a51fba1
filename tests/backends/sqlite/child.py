"""Another process on the same file: `python -m tests.backends.sqlite.child WHAT PATH`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection
from functools import partial

import trio

from task_queue_engine.backends.base import Message, NewTask, TaskChange, TaskQueue
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite import queue as sqlite_queue
from task_queue_engine.clock import SystemClock
from task_queue_engine.lifecycle import ClaimRequest, Complete, Fail, Started
from task_queue_engine.task import Task, TaskError, new_task_id
from task_queue_engine.worker import Worker


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


async def receive_by_bell(backend: SqliteBackend) -> None:
    """Say "ready" once it waits for a message and is heard by no look, then which one it got."""
    from trio.testing import wait_all_tasks_blocked  # imports pytest, in 0.1 s

    sqlite_queue.LOOK_EVERY = sqlite_queue.LOOK_EVERY_WHERE_HEARD = 600.0
    queue = backend.queue("default")
    async with backend.open(), trio.open_nursery() as nursery:
        nursery.start_soon(backend.hear_messages, "default")
        while not queue.hears_others:  # noqa: ASYNC110  # soon, and no event says it
            await trio.sleep(0.01)
        async with trio.open_nursery() as both:
            both.start_soon(receive_one, queue)
            await wait_all_tasks_blocked(0.1)
            print("ready", flush=True)
        nursery.cancel_scope.cancel()


async def receive_one(queue: TaskQueue) -> None:
    (delivery,) = await queue.receive(1, wait=600, visibility=30)
    print(delivery.task_id, flush=True)


async def hear(backend: SqliteBackend, change: TaskChange) -> None:
    """Say "ready", then the ids of tasks as they are heard, until standard input ends."""

    def heard(task_ids: Collection[str] | None) -> None:
        print("some" if task_ids is None else " ".join(task_ids), flush=True)

    def hears(is_heard: bool) -> None:
        if is_heard:
            print("ready", flush=True)

    async with backend.open(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(backend.hear_tasks, change, heard, hears=hears))
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def say_notes(backend: SqliteBackend) -> None:
    """Listen, say what there is to note, then which message came."""
    async with backend.open(), trio.open_nursery() as nursery:
        nursery.start_soon(backend.hear_messages, "default")
        while not backend.notes():  # noqa: ASYNC110  # soon, and no event says it
            await trio.sleep(0.01)
        print(*backend.notes(), flush=True)
        await receive_one(backend.queue("default"))
        nursery.cancel_scope.cancel()


async def live(backend: SqliteBackend) -> None:
    """Be a worker, with a child of its own that outlives it, and says its process id."""
    now = SystemClock().now()
    worker = Worker(
        id="victim",
        host="here",
        pid=os.getpid(),
        version="1",
        slots=1,
        started_at=now,
        last_seen=now,
    )
    async with backend.open():
        await backend.workers.put(worker)
        if not os.fork():
            print(os.getpid(), flush=True)
            signal.pause()
        await trio.sleep_forever()


def become(user: int) -> None:
    """Go on as this user, in no group but the one of its number."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


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
    what, path, *user = sys.argv[1:]
    if user:
        become(int(user[0]))
    run: dict[str, Callable[[SqliteBackend], Awaitable[None]]] = {
        "open": open_once,
        "send": send_one,
        "load": load,
        "live": live,
        "receive": receive_by_bell,
        "notes": say_notes,
        "ends": partial(hear, change=TaskChange.ENDED),
        "cancels": partial(hear, change=TaskChange.CANCEL_ASKED),
    }
    trio.run(run[what], SqliteBackend(path))
