"""What `--wait` shows of a task in a terminal while it waits."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from typing import TextIO

import msgspec
import trio

from task_queue_engine.cli.cells import clip, width_of
from task_queue_engine.cli.output import due_in_words, printable, seconds_in_words
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import TaskQueueError
from task_queue_engine.progress import fraction_of, says_more, steps_of
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import ProgressEvent, StateEvent

_WIDTH = 20
# Seconds between two drawings, at most: the line says how many it has taken.
_EVERY = 1.0
# And at least: a person sees no more, and a handler may report a thousand times a second.
_PAUSE = 0.05


async def wait_for_end(api: TaskApi, task_id: str, *, timeout: float) -> Task:
    """As `TaskApi.wait`; where stderr is a terminal, with a line on it that shows how far the
    task is, and is gone at the end."""
    if not sys.stderr.isatty():
        return await api.wait(task_id, timeout=timeout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_show, api, task_id, sys.stderr)
        task = await api.wait(task_id, timeout=timeout)
        nursery.cancel_scope.cancel()
    return task


async def _show(api: TaskApi, task_id: str, stream: TextIO) -> None:
    seen = _Seen()
    with _one_line(stream) as write:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, api, task_id, seen)
            while True:
                news = seen.news
                if seen.task is not None:
                    width = shutil.get_terminal_size().columns
                    write(line_of(seen.task, now=datetime.now(UTC), width=width - 1))
                await trio.sleep(_PAUSE)
                with trio.move_on_after(_EVERY - _PAUSE):
                    await news.wait()


class _Seen:
    """The task as it was heard of last."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.news = trio.Event()

    def set(self, task: Task) -> None:
        self.task = task
        self.news.set()
        self.news = trio.Event()


async def _follow(api: TaskApi, task_id: str, seen: _Seen) -> None:
    # What is wrong is for `wait` to say, which rides out what passes.
    with suppress(TaskQueueError):
        async with aclosing(api.events(task_id)) as events:
            async for event in events:
                if isinstance(event, StateEvent):
                    seen.set(await api.get(task_id))
                elif isinstance(event, ProgressEvent) and seen.task is not None:
                    seen.set(msgspec.structs.replace(seen.task, progress=event.progress))
    while True:  # a server of an older version has no events
        with suppress(TaskQueueError):
            seen.set(await api.get(task_id))
        await trio.sleep(_EVERY)


def line_of(task: Task, *, now: datetime, width: int) -> str:
    """Status, bar and what the handler said last, in no more than `width` columns."""
    parts = [str(task.status)]
    if task.status is TaskStatus.PROCESSING and task.started_at is not None:
        running = max(0.0, (now - task.started_at).total_seconds())
        parts.append(seconds_in_words(running))
    elif due := due_in_words(task, now):
        parts.append(due)
    if (fraction := fraction_of(task.progress)) is not None:
        filled = math.floor(fraction * _WIDTH)
        parts.append(f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {math.floor(fraction * 100):3d}%")
    if not says_more(task.progress):
        parts.append(steps_of(task.progress))
    elif isinstance(task.progress, str):
        parts.append(task.progress)
    elif isinstance(task.progress, Mapping | list):
        parts.append(msgspec.json.encode(task.progress).decode())
    return clip(printable("  ".join(filter(None, parts))), width)


@contextmanager
def _one_line(stream: TextIO) -> Iterator[Callable[[str], None]]:
    """Yields what writes a text over the one before; at the end the line is blank."""
    length = 0

    def write(text: str) -> None:
        nonlocal length
        # No control sequences: a terminal of any kind knows what a carriage return is.
        taken = width_of(text)
        stream.write(f"\r{text}{' ' * (length - taken)}")
        stream.flush()
        length = taken

    try:
        yield write
    finally:
        write("")
        stream.write("\r")
        stream.flush()
