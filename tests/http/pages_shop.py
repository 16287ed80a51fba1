"""Task types for the tests of the pages in a browser: copied beside the engine under test."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import trio

from task_queue_engine import TaskContext, TaskRegistry

tasks = TaskRegistry()
log = logging.getLogger("shop")

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>"


@dataclass
class Mail:
    to: str
    priority: Literal["low", "high"] = "low"
    copies: int = 1


@tasks.task("mail")
async def mail(payload: Mail) -> str:
    return payload.to


@tasks.task("hostile", max_attempts=1)
async def hostile(payload: Any, context: TaskContext) -> None:
    log.warning("%s", EVIL)
    await context.progress({"done": 1, "total": 2, EVIL: EVIL})
    raise type(EVIL, (Exception,), {})(EVIL)


@tasks.task("echo")
async def echo(payload: Any) -> Any:
    return payload


@tasks.task("steps")
async def steps(payload: Any, context: TaskContext) -> None:
    """Runs until it is cancelled."""
    del payload
    step = 0
    while True:
        step = min(step + 1, 99)
        log.warning("step %d", step)
        await context.progress({"percent": step})
        await trio.sleep(0.2)
