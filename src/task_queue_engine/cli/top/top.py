"""Looks again and again, and does what keys ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

import msgspec
import trio

from task_queue_engine.cli.output import describe_task, list_of_attempts, log_lines
from task_queue_engine.cli.top.lines import Line, Style, details, summary
from task_queue_engine.cli.top.looks import Looks
from task_queue_engine.cli.top.overview import History, Overview
from task_queue_engine.cli.top.screen import CHANGES, Detail, Question, Screen, Trouble
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import ApiError, BackendUnavailable, TaskNotFound, TaskQueueError

# Seconds for all of a look, or for a change: with no answer for longer a server is as good as away.
_ANSWER = 10.0
# Of the lines that a handler logged, in the newest attempt's: two screens of them.
_LOG_LINES = 50
# Failures, and dead letters, of `--once`: all of it is to fit on a screen. `tqe list` has more.
_PRINTED = 10


class Display(Protocol):
    """Where it is shown."""

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        ...

    def draw(self, lines: Sequence[Line]) -> None:
        """The whole of it anew; what does not fit is cut off."""
        ...


class Top:
    """The overview, live.

    It looks every `interval` seconds: rates and ages change by the passing of time, of which no
    event tells. A key wakes it.

    Args:
        now: the time of day.
    """

    def __init__(
        self, api: TaskApi, *, title: str, interval: float, now: Callable[[], datetime]
    ) -> None:
        self._api = api
        self._now = now
        self._looks = Looks(api, now=now)
        self._history = History()
        self._screen = Screen(title=title, interval=interval)
        self._last_answer = -math.inf
        self._wake = trio.Event()
        self._display: Display | None = None
        self._nursery: trio.Nursery | None = None

    async def once(self) -> Overview:
        """One overview. It takes `interval` seconds, since rates are known by two looks."""
        await self._look_at_all()
        await trio.sleep(self._screen.interval)
        return await self._look_at_all()

    async def begin(self) -> None:
        """The first look. Raises what the queue's methods raise: an address that was mistyped is
        not waited for."""
        self._screen.seen = await self._look_at_all()

    async def run(self, display: Display, keys: trio.MemoryReceiveChannel[str]) -> None:
        """Until "q" comes, or no more keys do.

        Trouble is shown and waited out.
        """
        self._display = display
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._look_again_and_again)
            async for key in keys:
                if key == "q" and self._screen.typed is None and self._screen.question is None:
                    break
                self._press(key)
                self._draw()
            nursery.cancel_scope.cancel()

    # --- looking ----------------------------------------------------------------------------

    async def _look_again_and_again(self) -> None:
        while True:
            self._draw()
            with trio.move_on_after(math.inf if self._screen.is_paused else self._screen.interval):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._look()

    async def _look(self) -> None:
        screen = self._screen
        try:
            if not screen.is_paused:
                screen.seen = await self._look_at_all()
            if (detail := screen.detail) is not None:
                detail.lines = await self._look_at_one(detail.task_id)
        except TaskQueueError as error:
            screen.trouble = Trouble(self._last_answer, str(error))
        else:
            screen.trouble = None

    async def _look_at_all(self) -> Overview:
        with _bounded():
            overview = self._history.add(await self._looks.look())
        self._last_answer = trio.current_time()
        return overview

    async def _look_at_one(self, task_id: str) -> list[Line]:
        with _bounded():
            try:
                task = await self._api.get(task_id)
                history = await self._api.history(task_id)
            except TaskNotFound as error:
                return [Line(str(error), Style.BAD)]
        lines = describe_task(task).split("\n")
        if attempts := list_of_attempts(history):
            lines += ["", *attempts.split("\n")]
        if logged := log_lines(history.attempts):
            lines += ["", *logged.split("\n")[-_LOG_LINES:]]
        return [Line(line) for line in lines]

    # --- keys -------------------------------------------------------------------------------

    def _press(self, key: str) -> None:
        screen = self._screen
        if screen.question is not None:
            question, screen.question = screen.question, None
            if key == "y":
                assert self._nursery is not None  # noqa: S101 - `run` reads the keys
                self._nursery.start_soon(self._change, question)
        elif screen.typed is not None:
            self._type(key, screen.typed)
        else:
            self._command(key)

    def _type(self, key: str, typed: str) -> None:
        screen = self._screen
        if key == "enter":
            screen.only, screen.typed = typed, None
        elif key == "escape":
            screen.typed = None
        elif key == "backspace":
            screen.typed = typed[:-1]
        elif len(key) == 1 and key.isprintable():
            screen.typed = typed + key

    def _command(self, key: str) -> None:
        screen = self._screen
        screen.message = ""
        match key:
            case "up" | "k":
                screen.move(-1)
            case "down" | "j":
                screen.move(1)
            case "page_up":
                screen.move(-screen.page)
            case "page_down":
                screen.move(screen.page)
            case "p":
                screen.is_paused = not screen.is_paused
                self._wake.set()
            case "c" | "r" if screen.may_change:
                task_id = screen.selected if screen.detail is None else screen.detail.task_id
                if task_id is None:
                    screen.message = "select a task first, with the arrow keys"
                else:
                    screen.question = Question(CHANGES[key], task_id)
            case "escape" | "left" if screen.detail is not None:
                screen.detail, screen.top = None, 0
            case "enter" | "right" if screen.detail is None and screen.selected is not None:
                screen.detail, screen.top = Detail(screen.selected), 0
                self._wake.set()
            case "s" if screen.detail is None:
                screen.sort = screen.sort.next()
            case "f" if screen.detail is None:
                screen.typed = screen.only

    async def _change(self, question: Question) -> None:
        screen = self._screen
        screen.message = f"{question.change} of {question.task_id}: no answer yet"
        self._draw()
        try:
            with _bounded():
                if question.change == "cancel":
                    task = await self._api.cancel(question.task_id)
                else:
                    task = await self._api.retry(question.task_id)
        except TaskQueueError as error:
            screen.message = str(error)
            if isinstance(error, ApiError) and error.kind == "missing-role":
                screen.may_change = False
        else:
            asked = task.cancel_requested and not task.status.is_terminal
            state = "being cancelled" if asked else task.status
            screen.message = f"task {task.id} is {state}"
        self._looks.forget()
        self._wake.set()
        self._draw()

    def _draw(self) -> None:
        assert self._display is not None  # noqa: S101 - set by `run`
        width, height = self._display.size()
        frame = self._screen.frame(
            width=width, height=height, now=self._now(), moment=trio.current_time()
        )
        self._display.draw(frame)


@contextmanager
def _bounded() -> Iterator[None]:
    """Raises BackendUnavailable where the time for an answer is over."""
    try:
        with trio.fail_after(_ANSWER):
            yield
    except trio.TooSlowError:
        raise BackendUnavailable(f"no answer within {_ANSWER:g} s") from None


def as_text(seen: Overview) -> str:
    """For where no terminal is, with the newest of what is a list without an end."""
    seen = msgspec.structs.replace(
        seen, failures=seen.failures[:_PRINTED], dead_letters=seen.dead_letters[:_PRINTED]
    )
    title = Line(f"{seen.at:%Y-%m-%dT%H:%M:%SZ}", Style.TITLE)
    return "\n".join(line.text for line in [title, *summary(seen), *details(seen)])
