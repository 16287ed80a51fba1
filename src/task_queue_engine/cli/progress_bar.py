"""What `--wait` shows of a task in a terminal while it waits."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
import trio

from task_queue_engine.cli.cells import clip, width_of
from task_queue_engine.cli.output import due_in_words, printable, seconds_in_words
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import TaskQueueError
from task_queue_engine.task import Task, TaskStatus

# Members of a progress that is an object, as handlers commonly name them.
_DONE = ("done", "current", "completed")
_OF = ("of", "total")
_PERCENT = ("percent", "percentage")
_FRACTION = ("fraction", "progress")

_WIDTH = 20
# Seconds. Progress is stored at most about so often, and a person sees no more.
_EVERY = 1.0


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
    with _one_line(stream) as write:
        while True:
            # What is wrong is for `wait` to say, which rides out what passes.
            with suppress(TaskQueueError):
                task = await api.get(task_id)
                width = shutil.get_terminal_size().columns
                write(line_of(task, now=datetime.now(UTC), width=width - 1))
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
    if isinstance(task.progress, str):
        parts.append(task.progress)
    elif isinstance(task.progress, Mapping | list):
        parts.append(msgspec.json.encode(task.progress).decode())
    return clip(printable("  ".join(parts)), width)


def fraction_of(progress: Any) -> float | None:
    """How far a task is, from 0 to 1, where its progress has a form that says so: a number from 0
    to 1, or to 100 as percent, "45%", {"done": 9, "of": 20}, {"percent": 45}, {"fraction": 0.45}.
    """
    fraction: float | None = None
    if isinstance(progress, Mapping):
        done, of = _number(progress, _DONE), _number(progress, _OF)
        percent = _number(progress, _PERCENT)
        if done is not None and of:
            with suppress(OverflowError):  # JSON knows no largest number
                fraction = done / of
        elif percent is not None:
            fraction = percent / 100
        else:
            fraction = _number(progress, _FRACTION)
    elif isinstance(progress, str) and progress.rstrip().endswith("%"):
        with suppress(ValueError):
            fraction = float(progress.rstrip()[:-1]) / 100
    elif _is_number(progress):
        fraction = progress if progress <= 1 else progress / 100
    if fraction is None or not 0 <= fraction <= 1:  # NaN, too
        return None
    return fraction


def _number(members: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((members[name] for name in names if _is_number(members.get(name))), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
