"""Tasks that say in a file of their own what they did; the tests of crashes run them."""

import json
import os
import random
import signal
import time
from typing import Any

import trio

from task_queue_engine import Backoff, Discard, Snooze, TaskRegistry

tasks = TaskRegistry()
SOON = Backoff(base=0.05, cap=0.2)
MANY = 50
"""Attempts: more than there are processes to be killed."""


def note(what: str, context: Any) -> None:
    about = [what, context.task_id, context.attempt, time.time(), os.getpid()]
    line = json.dumps(about) + "\n"
    # One write, appended as a whole: several processes share the file, and one may die in between.
    descriptor = os.open("ran.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@tasks.task("quick", max_attempts=MANY, backoff=SOON)
async def quick(payload: Any, context: Any) -> Any:
    note("start", context)
    note("return", context)
    return payload


@tasks.task("slow", max_attempts=MANY, backoff=SOON)
async def slow(payload: Any, context: Any) -> None:
    note("start", context)
    await trio.sleep(random.uniform(0, 0.3))
    await context.progress("halfway")
    note("return", context)


@tasks.task("flaky", max_attempts=MANY, backoff=SOON)
async def flaky(payload: Any, context: Any) -> None:
    note("start", context)
    if random.random() < 0.4:
        raise ConnectionError
    if random.random() < 0.2:
        raise Snooze(0.1)
    note("return", context)


@tasks.task("hopeless", max_attempts=MANY)
async def hopeless(payload: Any, context: Any) -> None:
    note("start", context)
    raise Discard


@tasks.task("thread", max_attempts=MANY, backoff=SOON)
def thread(payload: Any, context: Any) -> None:
    note("start", context)
    time.sleep(random.uniform(0, 0.2))
    note("return", context)


@tasks.task("poison", max_attempts=2, backoff=SOON, process=True)
def poison(payload: Any, context: Any) -> None:
    note("start", context)
    os.kill(os.getpid(), signal.SIGKILL)
