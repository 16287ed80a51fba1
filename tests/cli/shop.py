"""A team's own tasks; the tests copy this file to where `tqe` is run."""

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from task_queue_engine import Backoff, Discard, TaskContext, TaskRegistry

logger = logging.getLogger("shop")
tasks = TaskRegistry()
nothing = TaskRegistry()
price = 3


@dataclass
class Order:
    number: int


@tasks.task("echo")
async def echo(payload: object) -> object:
    return payload


@tasks.task("short")
async def short(number: int) -> int:
    """Of the length of a look-up somewhere."""
    await trio.sleep(0.003)
    return number


@tasks.task("ship")
async def ship(order: Order) -> str:
    return f"PKG-{order.number}"


@tasks.task("fail")
async def fail(reason: str) -> None:
    raise Discard(reason)


@tasks.task("says", max_attempts=2, backoff=Backoff(base=0.01))
async def says(words: str, context: TaskContext) -> None:
    logger.info(words)
    if context.attempt == 1:
        raise ValueError(words)


@tasks.task("gate")
async def gate(name: str) -> str:
    """Say that it runs, then wait until the test opens the gate."""
    await trio.Path(f"{name}.running").touch()
    while not await trio.Path(f"{name}.open").exists():  # noqa: ASYNC110 - another process opens it
        await trio.sleep(0.01)
    return name


@tasks.task("block")
async def block(seconds: float) -> None:
    """What no `async def` may do."""
    # Told while it does: of a signal that comes in the moment before it sleeps the interpreter may
    # run no handler, and then the guard ends the process.
    threading.Timer(0.1, Path("block.running").touch).start()
    time.sleep(seconds)  # noqa: ASYNC251 - the mistake itself


@tasks.task("poison")
async def poison(number: int) -> None:
    """Kill the whole process, as the kernel does when memory runs out."""
    os._exit(number)


@tasks.task("poison_beside")
async def poison_beside(number: int) -> None:
    """The same, as soon as that many tasks behind a gate run or have run."""

    def running() -> int:
        return len([*Path().glob("gate-*.running")])

    while running() < number:  # noqa: ASYNC110 - files have no events
        await trio.sleep(0.01)
    os._exit(9)


@tasks.task("square", process=True)
def square(number: int) -> int:
    return number * number


@tasks.task("hold", process=True)
def hold(name: str) -> str:
    """The gate, in a worker process."""
    Path(f"{name}.running").touch()
    while not Path(f"{name}.open").exists():
        time.sleep(0.01)
    return name
