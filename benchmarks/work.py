"""Task types of workers that are measured: `tqe worker --app benchmarks.work:tasks`.

Each leaves a mark when it begins.
"""

from __future__ import annotations

import trio

from benchmarks.marks import mark
from task_queue_engine import TaskRegistry

tasks = TaskRegistry()

_TURNS = 200_000


def spin() -> None:
    """About 10 ms of CPU on a machine of 2020, which only Python's own code takes."""
    total = 0
    for n in range(_TURNS):
        total += n


@tasks.task("noop")
async def noop(number: int) -> int:
    return mark(number)


@tasks.task("spin-async")
async def spin_async(number: int) -> None:
    mark(number)
    spin()


@tasks.task("spin-thread")
def spin_thread(number: int) -> None:
    mark(number)
    spin()


@tasks.task("sleep")
async def sleep(seconds: float) -> None:
    mark(0)
    await trio.sleep(seconds)
