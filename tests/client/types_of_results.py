"""For mypy, which `make check` runs on it: a handle's result has the type of the handler's."""

from __future__ import annotations

from typing import Any, assert_type

from task_queue_engine import Engine, TaskHandle
from task_queue_engine.client import AsyncClient, Client, SyncTaskHandle


def plain(number: int) -> str:
    return str(number)


async def on_a_loop(number: int) -> bytes:
    return bytes(number)


def without_a_loop(client: Client) -> None:
    assert_type(client.submit(plain, 1), SyncTaskHandle[str])
    assert_type(client.submit(on_a_loop, 1, delay=5), SyncTaskHandle[bytes])
    assert_type(client.submit("plain", 1), SyncTaskHandle[Any])
    assert_type(client.submit(on_a_loop, 1).result(timeout=5), bytes)


async def with_one(client: AsyncClient, engine: Engine) -> None:
    assert_type(await client.submit(plain, 1), TaskHandle[str])
    assert_type(await (await client.submit(on_a_loop, 1)).result(), bytes)
    assert_type(await engine.submit(on_a_loop, 1), TaskHandle[bytes])
    assert_type(await engine.submit("plain"), TaskHandle[Any])
