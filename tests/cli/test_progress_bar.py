"""The line of `submit --wait` and `status --wait`, and when a task is due in `list`."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
import trio

from task_queue_engine import Backoff, ProgressEvent, TaskContext, TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.cli.cells import clip, width_of
from task_queue_engine.cli.output import due_in_words, line_of_event, table_of_tasks, task_rows
from task_queue_engine.cli.progress_bar import line_of, wait_for_end
from task_queue_engine.errors import ApiError
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.testing import TrioClock
from tests.engine.engines import running

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def task(**members: Any) -> Task:
    defaults = {"id": "a", "type": "t", "payload": 1, "created_at": NOW, "updated_at": NOW}
    return Task(**(defaults | members))


def test_the_line_of_a_task() -> None:
    runs = {"status": TaskStatus.PROCESSING, "started_at": NOW - timedelta(seconds=7)}
    half = task(progress={"done": 9, "of": 20}, **runs)
    assert line_of(half, now=NOW, width=79) == (
        "PROCESSING  7 s  [#########...........]  45%  9 of 20"
    )
    assert line_of(task(progress="45%", **runs), now=NOW, width=79).endswith("  45%")
    more = task(progress={"percent": 45, "step": "labels"}, **runs)
    assert line_of(more, now=NOW, width=79).endswith('45%  {"percent":45,"step":"labels"}')
    assert line_of(task(progress=0.999, **runs), now=NOW, width=79).endswith(".]  99%")
    assert line_of(task(progress="labels", **runs), now=NOW, width=79).endswith("7 s  labels")
    later = task(run_at=NOW + timedelta(minutes=3))
    assert line_of(later, now=NOW, width=79) == "PENDING  in 3 min"


def test_what_a_handler_says_stays_inert_and_on_one_line() -> None:
    hostile = "\x1b[2J\n\u202e" + "漢" * 100
    line = line_of(task(progress=hostile), now=NOW, width=40)
    assert line.isprintable()
    assert r"\x1b[2J\n\u202e" in line
    assert width_of(line) in (39, 40)
    assert clip("a漢", 2) == "a"
    assert clip("e\u0301e", 1) == "e\u0301"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
async def test_a_wait_shows_it_in_a_terminal_and_nowhere_else(
    stream: io.StringIO, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskRegistry()

    @tasks.task("steps", max_attempts=2, backoff=Backoff(base=180, jitter=False))
    async def steps(payload: int, context: TaskContext) -> str:
        for number in range(1, 5):
            await context.progress({"done": number, "of": 4})
            await trio.sleep(5)
        if context.attempt == 1:
            raise ValueError("again")
        return "done"

    monkeypatch.setattr(sys, "stderr", stream)
    async with running(tasks, MemoryBackend(clock=TrioClock())) as engine:
        handle = await engine.submit(steps, 1)
        ended = await wait_for_end(engine, handle.id, timeout=1000)
    assert ended.result == "done"
    if not stream.isatty():
        assert stream.getvalue() == ""
        return
    shown = stream.getvalue()
    for percent in (" 25%", " 50%", " 75%", "100%", "PENDING"):
        assert percent in shown
    assert "\n" not in shown
    *_, blank, nothing = shown.split("\r")
    assert (blank.strip(), nothing) == ("", "")
    assert len(blank) >= len("PROCESSING")


class Shown(Terminal):
    """Says when a text was written to it first, on the virtual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, float] = {}

    def write(self, text: str) -> int:
        for percent in ("25%", "50%"):
            if percent in text:
                self.at.setdefault(percent, trio.current_time())
        return super().write(text)


async def test_the_bar_moves_as_the_handler_reports(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskRegistry()
    reported: dict[str, float] = {}

    @tasks.task("steps")
    async def steps(payload: int, context: TaskContext) -> None:
        await trio.sleep(1.7)
        for percent in (25, 50):
            reported[f"{percent}%"] = trio.current_time()
            await context.progress(percent)
            await trio.sleep(0.3)

    monkeypatch.setattr(sys, "stderr", shown := Shown())
    async with running(tasks, MemoryBackend(clock=TrioClock())) as engine:
        handle = await engine.submit(steps, 1)
        await wait_for_end(engine, handle.id, timeout=1000)
    assert {name: shown.at[name] - at for name, at in reported.items()} == {
        name: pytest.approx(0, abs=0.1) for name in reported
    }


async def test_a_server_without_events_is_asked(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskRegistry()

    @tasks.task("steps")
    async def steps(payload: int, context: TaskContext) -> None:
        await context.progress(25)
        await trio.sleep(5)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ApiError("not found", status=404)

    monkeypatch.setattr(sys, "stderr", shown := Shown())
    async with running(tasks, MemoryBackend(clock=TrioClock())) as engine:
        monkeypatch.setattr(engine, "events", refuse)
        handle = await engine.submit(steps, 1)
        await wait_for_end(engine, handle.id, timeout=1000)
    assert " 25%" in shown.getvalue()


def test_a_list_says_when_what_waits_is_due() -> None:
    in_three = NOW + timedelta(minutes=3)
    text = table_of_tasks().text(
        task_rows(
            [
                task(id="delayed", run_at=in_three),
                task(id="retried", run_at=NOW + timedelta(seconds=50), retry_count=1),
                task(id="due", run_at=NOW - timedelta(seconds=1)),
                task(id="runs", run_at=in_three, status=TaskStatus.PROCESSING),
                task(id="new"),
            ],
            NOW,
        )
    )
    header, *rows = text.splitlines()
    due = header.index("DUE")
    assert {row.split()[0]: row[due:] for row in rows} == {
        "delayed": "in 3 min",
        "retried": "in 50 s",
        "due": "",
        "runs": "",
        "new": "",
    }
    for delay, words in ((119, "in 119 s"), (7200, "in 2 h"), (30 * 86_400, "in 30 d")):
        assert due_in_words(task(run_at=NOW + timedelta(seconds=delay)), NOW) == words


def test_a_large_progress_is_cut_where_it_is_followed() -> None:
    one = {
        "task_id": "1",
        "type": "echo",
        "queue": "default",
        "attempt": 1,
        "at": datetime.now(UTC),
    }
    line = line_of_event(ProgressEvent(progress="x" * 10_000, **one))
    assert line is not None
    assert line.endswith("xxx...")
    assert len(line) < 500
