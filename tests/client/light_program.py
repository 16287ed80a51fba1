"""A program of a user with nothing but the client installed: light_program.py WAY URL."""

from __future__ import annotations

import sys
from contextlib import suppress

import msgspec

from task_queue_engine import Submission, TaskNotFound, TaskRegistry
from task_queue_engine.client import AsyncClient, Client

tasks = TaskRegistry()


class Order(msgspec.Struct):
    number: int
    city: str


class Parcel(msgspec.Struct):
    order: int
    label: str


@tasks.task("pack")
def pack(order: Order) -> Parcel:
    raise NotImplementedError("for the server")


def plain(url: str) -> None:
    with Client(url, tasks=tasks) as client:
        handle = client.submit(pack, Order(1, "Oslo"))
        assert client.wait(handle.id, timeout=20).status.is_terminal
        assert handle.result(timeout=20) == Parcel(1, "Oslo #1")
        (verdict,) = client.submit_many([Submission(task="pack", payload=Order(2, "Bonn"))])
        assert client.result(verdict.task.id, timeout=20).label == "Bonn #2"
        assert handle.id in {task.id for task in client.list(type="pack")}
        with suppress(TaskNotFound):
            client.get("00000000-0000-7000-8000-000000000000")
            raise AssertionError("there is no such task")


async def on_a_loop(url: str) -> None:
    async with AsyncClient(url, tasks=tasks) as client:
        handle = await client.submit(pack, Order(3, "Rome"))
        assert (await client.wait(handle.id, timeout=20)).status.is_terminal
        assert await handle.result(timeout=20) == Parcel(3, "Rome #3")
        (verdict,) = await client.submit_many([Submission(task="pack", payload=Order(4, "Lyon"))])
        assert (await client.result(verdict.task.id, timeout=20)).label == "Lyon #4"
        assert handle.id in [task.id async for task in client.list(type="pack")]


way, url = sys.argv[1:]
if way == "plain":
    plain(url)
elif way == "asyncio":
    import asyncio

    asyncio.run(on_a_loop(url))
else:
    import trio

    trio.run(on_a_loop, url)
print(way, "works")
