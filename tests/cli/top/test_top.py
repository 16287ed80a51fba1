"""`tqe top` by its frames: a display and keys of the test's own, on virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import pytest
import trio

from task_queue_engine import Discard, Engine, TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.cli.top.lines import Line, Style
from task_queue_engine.cli.top.screen import Screen
from task_queue_engine.cli.top.top import Top, as_text
from task_queue_engine.engine.views import DeadLetterView
from task_queue_engine.errors import ApiError, BackendUnavailable
from task_queue_engine.testing import TrioClock
from tests.engine.engines import running

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\n[red]"
INTERVAL = 2.0
logger = logging.getLogger("shop")


class Api:
    """The engine's, with a note of what was asked for; `trouble` is raised instead."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked: list[str] = []
        self.limits: list[int] = []
        self.trouble: Exception | None = None
        self.hangs = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            self.asked.append(name)
            self.limits += [one.limit for one in args if hasattr(one, "limit")]
            if self.hangs:
                await trio.sleep_forever()
            if self.trouble is not None:
                raise self.trouble
            return await getattr(self._engine, name)(*args, **options)

        return call


class Display:
    """Keeps the last frame."""

    def __init__(self) -> None:
        self.columns, self.lines = 200, 60
        self.frame: Sequence[Line] = ()
        self.frames = 0

    def size(self) -> tuple[int, int]:
        return self.columns, self.lines

    def draw(self, lines: Sequence[Line]) -> None:
        assert len(lines) <= self.lines
        assert all(line.text.isprintable() for line in lines)
        self.frame = lines
        self.frames += 1

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.frame)

    @property
    def selected(self) -> list[str | None]:
        return [line.task_id for line in self.frame if line.style is Style.SELECTED]


class Session:
    """A running `tqe top`."""

    def __init__(self, engine: Engine, clock: TrioClock) -> None:
        self.engine = engine
        self.api = Api(engine)
        self.display = Display()
        self.top = Top(self.api, title=HOSTILE, interval=INTERVAL, now=clock.now)  # type: ignore[arg-type]
        self.keys, self.presses = trio.open_memory_channel[str](0)

    async def press(self, *keys: str) -> str:
        """The frame after them, and after what they have set off."""
        for key in keys:
            await self.keys.send(key)
        await trio.testing.wait_all_tasks_blocked(0.001)
        return self.display.text

    async def next_look(self) -> str:
        await trio.sleep(INTERVAL + 0.5)
        return self.display.text


@pytest.fixture
def tasks() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("echo")
    async def echo(payload: object) -> object:
        return payload

    @tasks.task("fail")
    async def fail(payload: str) -> None:
        logger.info("about to fail")
        raise Discard(payload)

    @tasks.task("long", timeout=100_000)
    async def long(payload: object) -> None:
        await trio.sleep(50_000)

    return tasks


@pytest.fixture
async def session(tasks: TaskRegistry, autojump_clock: object) -> AsyncIterator[Session]:
    logger.setLevel(logging.INFO)
    async with opened(tasks) as session:
        yield session


@asynccontextmanager
async def opened(tasks: TaskRegistry) -> AsyncIterator[Session]:
    clock = TrioClock()
    async with (
        running(tasks, MemoryBackend(clock=clock)) as engine,
        trio.open_nursery() as nursery,
    ):
        session = Session(engine, clock)
        await session.top.begin()
        nursery.start_soon(session.top.run, session.display, session.presses)
        await trio.testing.wait_all_tasks_blocked()
        yield session
        nursery.cancel_scope.cancel()


async def failed(session: Session, error: str = "no paper") -> str:
    handle = await session.engine.submit("fail", error)
    await session.engine.wait(handle.id, timeout=60)
    return handle.id


async def running_task(session: Session) -> str:
    """It runs, and the worker's row says so."""
    handle = await session.engine.submit("long", 1)
    await trio.sleep(40)
    return handle.id


async def test_it_shows_what_happens_between_two_looks(session: Session) -> None:
    assert "0 failed" in session.display.text
    task_id = await failed(session)
    assert "0 failed" in session.display.text
    shown = await session.next_look()
    assert "1 failed, 0 cancelled" in shown
    assert "1 dead letter" in shown
    (failure,) = [line for line in shown.splitlines() if "no paper" in line]
    assert failure.split()[:2] == [task_id, "fail"]
    running_id = await running_task(session)
    (run,) = [line for line in (await session.next_look()).splitlines() if running_id in line]
    assert run.split()[1:4] == ["long", "1", "42"]


async def test_a_look_asks_for_counts_and_for_pages_that_have_changed(session: Session) -> None:
    await session.next_look()
    session.api.asked.clear()
    await session.next_look()
    assert session.api.asked == ["metrics", "workers"]
    await failed(session)
    session.api.asked.clear()
    await session.next_look()
    assert session.api.asked == ["metrics", "workers", "list_tasks", "list_dead"]
    assert max(session.api.limits) <= 50


async def test_a_pause_looks_at_nothing_and_keys_go_on(session: Session) -> None:
    first = await failed(session)
    await session.next_look()
    await session.press("p")
    session.api.asked.clear()
    await failed(session)
    assert "paused" in await session.next_look()
    assert session.api.asked == []
    assert f"id         {first}" in await session.press("down", "enter")
    assert session.api.asked == ["get", "history"]
    await session.press("escape")
    assert "sort (wait)" in await session.press("s")
    assert "1 failed" in session.display.text
    assert "2 failed" in await session.press("p")


async def test_a_filter_is_for_all_that_has_a_type(session: Session) -> None:
    await failed(session)
    handle = await session.engine.submit("echo", 1)
    await session.engine.wait(handle.id, timeout=60)
    await session.next_look()
    shown = await session.press("f", "q", "x")
    assert "only types with: qx_" in shown  # q is a letter there
    shown = await session.press("backspace", "backspace", "E", "C", "H", "enter")
    assert "only 'ECH'" in shown
    assert "echo " in shown
    assert "no paper" not in shown
    await session.press("f", *["backspace"] * 3, "enter", "down", "f", "Z", "enter")
    assert "select a task first" in await session.press("r")  # what is not shown is not retried
    await session.press("f", "backspace", "E", "C", "H", "enter")
    assert "only 'ECH'" in await session.press("f", "z", "escape")
    assert "no paper" in await session.press("f", *["backspace"] * 3, "enter")


async def test_a_task_by_itself(session: Session) -> None:
    task_id = await failed(session)
    await session.next_look()
    assert session.display.selected == []
    await session.press("down")
    assert session.display.selected[0] == task_id
    shown = await session.press("enter")
    assert f"id         {task_id}" in shown
    assert "shop: about to fail" in shown
    assert "Discard: no paper" in shown
    assert "Newest failures" not in shown
    session.display.lines = 10
    before = await session.press("up")
    assert await session.press("down", "down") != before
    session.display.lines = 60
    assert "Newest failures" in await session.press("escape")
    assert session.display.selected[0] == task_id


async def test_a_task_that_is_gone_meanwhile(session: Session) -> None:
    session.top._screen.seen = None
    await failed(session)
    await session.next_look()
    await session.press("down")
    session.top._screen.selected = "01a2180e-d155-745f-8785-5779c9bde144"
    session.top._command("enter")
    shown = await session.press("")
    assert "01a2180e-d155-745f-8785-5779c9bde144" in shown
    assert "No answer" not in shown


async def test_a_change_is_made_after_a_question(session: Session) -> None:
    task_id = await running_task(session)
    await session.next_look()
    assert "select a task first" in await session.press("c")
    shown = await session.press("down", "c")
    assert f"cancel task {task_id}? y" in shown
    await session.press("q")  # "any other key", and no end
    assert (await session.engine.get(task_id)).cancel_requested is False
    shown = await session.press("c", "y")
    assert f"task {task_id} is" in shown
    ended = await session.engine.wait(task_id, timeout=60)
    assert ended.status is TaskStatus.CANCELLED

    failed_id = await failed(session)
    await session.next_look()
    session.top._screen.selected = failed_id
    await session.press("r", "y")
    assert (await session.engine.wait(failed_id, timeout=60)).attempt == 2
    await session.next_look()
    session.top._screen.selected = failed_id
    await session.press("c", "y")
    assert "is FAILED" in session.display.text  # what does not go is said


async def test_without_the_role_the_keys_are_no_longer_offered(session: Session) -> None:
    await failed(session)
    await session.next_look()
    session.api.trouble = ApiError("this needs the role operate", status=403, kind="missing-role")
    shown = await session.press("down", "r", "y")
    assert "this needs the role operate" in shown
    assert "r retry" not in shown
    assert "?" not in (await session.press("r")).splitlines()[-1]


async def test_it_says_that_the_server_is_gone_and_comes_back(session: Session) -> None:
    await failed(session)
    await session.next_look()
    session.api.trouble = BackendUnavailable(f"refused {HOSTILE}")
    shown = await session.next_look()
    assert "No answer for " in shown
    assert r"refused \x1b]0;owned" in shown
    assert "no paper" in shown  # as it was
    await trio.sleep(600)
    assert "No answer for 10 min" in session.display.text
    session.api.trouble, session.api.hangs = None, True
    await trio.sleep(30)
    assert "no answer within 10 s" in session.display.text
    session.api.hangs = False
    await trio.sleep(15)
    assert "No answer" not in session.display.text


async def test_keys_are_read_while_the_server_hangs(session: Session) -> None:
    await failed(session)
    await session.next_look()
    session.api.hangs = True
    await trio.sleep(INTERVAL)
    assert "no answer yet" in await session.press("down", "r", "y")
    assert "sort (wait)" in await session.press("s")


async def test_what_tasks_carry_stays_inert(tasks: TaskRegistry, autojump_clock: object) -> None:
    @tasks.task("hostile")
    async def hostile(payload: str) -> None:
        logger.warning(payload)
        raise Discard(payload)

    async with opened(tasks) as session:  # the display takes what is printable alone
        handle = await session.engine.submit(hostile, HOSTILE)
        await session.engine.wait(handle.id, timeout=60)
        shown = await session.next_look()
        assert r"\u202e" in shown
        shown = await session.press("down", "enter")
        assert shown.count("[red]") >= 3
        await session.press("escape", "f", "\x1b", "\u202e", "x", "enter")
        assert "only 'x'" in session.display.text


@pytest.mark.parametrize("lines", [1, 2, 7, 12, 30])
async def test_any_size_will_do_and_shows_what_is_selected(session: Session, lines: int) -> None:
    ids = [await failed(session, f"error {number}") for number in range(12)]
    await session.next_look()
    session.display.lines, session.display.columns = lines, 20
    await session.press("resize")
    for _ in ids:
        await session.press("down")
        if lines >= 7:
            assert len(session.display.selected) >= 1
    assert session.top._screen.selected == ids[0]
    await session.press(*["down"] * 40)
    if lines >= 7:  # on to the dead letters of the same tasks
        assert "discarded by" in session.display.text
    await session.press(*["page_up"] * 40)
    assert session.top._screen.top == 0


async def test_q_ends_it_and_a_defect_does(session: Session) -> None:
    clock = TrioClock()
    other = Session(session.engine, clock)
    await other.top.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.top.run, other.display, other.presses)
        await other.keys.send("q")
    another = Session(session.engine, clock)
    await another.top.begin()
    another.api.trouble = ZeroDivisionError()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await another.top.run(another.display, another.presses)


async def test_the_first_look_has_to_succeed(session: Session) -> None:
    session.api.trouble = BackendUnavailable("refused")
    with pytest.raises(BackendUnavailable):
        await session.top.begin()


async def test_a_server_that_knows_of_no_workers(session: Session) -> None:
    async def not_found() -> None:
        raise ApiError("no such route", status=404)

    session.api.workers = not_found  # type: ignore[attr-defined]
    assert "Workers: 0" in await session.next_look()
    assert "No answer" not in session.display.text


async def test_once_is_two_looks(session: Session) -> None:
    before = trio.current_time()
    once = Session(session.engine, TrioClock()).top
    seen = await once.once()
    assert trio.current_time() - before == pytest.approx(INTERVAL)
    assert seen.rates is not None
    text = as_text(seen)
    assert "Newest failures: none" in text
    assert "\x1b" not in text
    letter = DeadLetterView(
        id="1", task_id="t", task_type="b", reason="too bad", error=None, attempts=1, at=seen.at
    )
    many = as_text(msgspec.structs.replace(seen, dead_letters=(letter,) * 50))
    assert many.count("too bad") == 10, "all of it fits on a screen"


def test_the_screen_without_anything_seen() -> None:
    screen = Screen(title="x", interval=1)
    frame = screen.frame(width=80, height=5, now=datetime(2030, 1, 1), moment=0.0)  # noqa: DTZ001 - any
    assert len(frame) == 5
