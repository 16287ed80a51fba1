from __future__ import annotations

import trio

from benchmarks.marks import mark
from task_queue_engine import Engine, Settings, TaskRegistry

IS_ASYNC = True
LOOP = "trio"
tasks = TaskRegistry()


@tasks.task("noop")
async def noop(number: int) -> int:
    return mark(number)


async def setup() -> None:
    """An engine that takes submissions and runs nothing, as a web application embeds it."""
    global nursery, engine
    nursery = trio.open_nursery()
    inside = await nursery.__aenter__()
    engine = Engine(tasks, Settings(), consume=False)
    await inside.start(engine.run)


async def submit(number: int) -> None:
    await engine.submit(noop, number)


async def close() -> None:
    await engine.stop()
    await nursery.__aexit__(None, None, None)
