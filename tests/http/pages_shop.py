"""Task types for the tests of the pages in a browser: copied beside the engine under test."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import trio

from task_queue_engine import TaskContext, TaskRegistry

tasks = TaskRegistry()
log = logging.getLogger("shop")

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>"

WORST = (
    f"javascript:alert(1)//\u202e{EVIL}</textarea></style></title></select></pre></details><!--"
    "<svg onload=alert(1)><a href=javascript:alert(1)>x</a>{{7*7}}${7*7}"
    "\x1b[31m\x1b]0;t\x07\x9b2J\u2028"
)
"""It ends each element that a text may be in, turns the direction of writing, and commands
terminals."""


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


@tasks.task("worst", max_attempts=1)
async def worst(payload: Any, context: TaskContext) -> None:
    del payload
    logging.getLogger(WORST).error("%s", f"line {WORST}")
    log.error("%s", "W" * 100_000)
    log.error("%s", "a lone surrogate \ud800 and a NUL \0")
    await context.progress({f"progress {WORST}": WORST})
    raise type(WORST, (Exception,), {})(f"error {WORST}")


class Worst(pydantic.BaseModel):
    __doc__ = WORST

    text: str = pydantic.Field(
        f"default {WORST}", alias=f"name {WORST}", title=WORST, description=f"described {WORST}"
    )
    choice: Literal["a", "choice \"'><script>alert(1)</script></select>"] = "a"
    inner: dict[str, str] = {WORST: WORST}


@tasks.task("worst-form")
async def worst_form(payload: Worst) -> None:
    del payload


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
