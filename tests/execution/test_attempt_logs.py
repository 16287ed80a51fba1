"""What handlers log: which attempt a line is of, what is kept of it, and what shows it."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from task_queue_engine import AttemptLogFilter
from task_queue_engine.errors import AttemptTimedOut, WorkerProcessDied
from task_queue_engine.execution import attempt_logs, log_format
from task_queue_engine.execution.attempt_logs import (
    MAX_LINE,
    MAX_LOG,
    AttemptLog,
    keeping_lines,
    running,
)
from task_queue_engine.execution.log_format import LogFormat, StderrLook
from tests.execution import logging_handlers
from tests.execution.support import bounded, make_runner, make_task, run

logger = logging.getLogger("shop.mails")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """What a program sets, and the look that `tqe` gives it, undone."""
    before = logging.root.level
    yield
    logging.root.setLevel(before)
    logging.getLogger("shop").setLevel(logging.NOTSET)
    log_format._look = None


@contextmanager
def attempt(most: int = 100, **fields: Any) -> Iterator[AttemptLog]:
    log = AttemptLog(make_task(**fields), most)
    outside = running.set(log)
    try:
        with keeping_lines():
            yield log
    finally:
        running.reset(outside)


def silent() -> logging.Logger:
    """One whose lines are shown nowhere."""
    found = logging.getLogger("shop.silent")
    found.propagate = False
    found.handlers[:] = [logging.NullHandler()]
    return found


def messages(log: AttemptLog) -> list[str]:
    return [line.message for line in log.kept()]


# --- in the engine's own process ------------------------------------------------------------


def test_lines_are_kept_with_what_they_are() -> None:
    logging.root.setLevel(logging.INFO)
    with attempt() as log:
        logger.debug("not at this level")
        logger.info("sent %d", 3)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("not sent")
    first, second = log.kept()
    assert (first.level, first.logger, first.message) == ("INFO", "shop.mails", "sent 3")
    assert first.time <= second.time
    assert second.level == "ERROR"
    assert second.message.startswith("not sent\nTraceback")
    assert second.message.endswith("ValueError: two\nlines")
    assert log.seen == 2


def test_the_last_ones_are_kept() -> None:
    with attempt(most=3) as log:
        for number in range(10):
            logger.error("line %d", number)
    assert messages(log) == ["line 7", "line 8", "line 9"]
    assert log.seen == 10


def test_lines_and_logs_are_bounded_in_bytes() -> None:
    with attempt() as log:
        logger.error("☃" * 10_000)
        for number in range(40):
            logger.error("%d %s", number, "x" * 1000)
    kept = log.kept()
    assert sum(len(line.message.encode()) for line in kept) <= MAX_LOG
    assert len(kept) == 32
    assert kept[-1].message.startswith("39 ")
    with attempt() as log:
        logger.error("☃" * 10_000)
    assert len(messages(log)[0].encode()) < MAX_LINE + 50
    assert "more bytes]" in messages(log)[0]


def test_what_cannot_be_stored_is_spelled_out() -> None:
    with attempt() as log:
        silent().error("a NUL \x00 and a lone surrogate \udcff")
    assert messages(log) == ["a NUL \\x00 and a lone surrogate \\udcff"]


class Broken:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("look", ["json", "text"])
def test_a_line_that_cannot_be_made_is_kept_and_shown_without_its_arguments(
    look: LogFormat,
) -> None:
    shown = io.StringIO()
    show = logging.StreamHandler(shown)
    StderrLook(look).dress(show)
    lines = silent()
    lines.handlers[:] = [show]
    with attempt() as log:
        lines.error("to %s", Broken())
        lines.error("%d", "no number")
        lines.error(Broken())
        lines.error("and on", extra={"order": Broken()})
    kept = messages(log)
    assert [line.partition(" at test_attempt_logs.py:")[0] for line in kept] == [
        "to %s (not formatted, ValueError",
        "%d (not formatted, TypeError",
        "<Broken> (not formatted, ValueError",
        "and on",
    ]
    written = shown.getvalue().splitlines()
    assert len(written) == 4
    assert all(each in line for each, line in zip(kept, written, strict=True))


def test_a_line_that_logs_itself_ends() -> None:
    """As it does without an engine: by a RecursionError."""

    class Endless:
        calls = 0

        def __str__(self) -> str:
            Endless.calls += 1
            if Endless.calls > 10_000:
                pytest.exit("it would go on")
            lines.error("%s", self)
            return ""

    lines = silent()
    lines.handlers[:] = [logging.StreamHandler(io.StringIO())]
    with attempt(), pytest.raises(RecursionError):
        lines.error("%s", Endless())


def test_with_no_lines_to_keep_nothing_is_kept() -> None:
    with attempt(most=0) as log:
        logger.error("nothing of this")
    assert (log.lines, log.seen) == (None, 0)


def test_after_the_end_nothing_is_added() -> None:
    with attempt() as log:
        logger.error("in time")
        log.close()
        logger.error("too late")
    assert messages(log) == ["in time"]


def test_lines_of_no_attempt_are_none_of_its() -> None:
    with attempt() as log:
        outside = running.set(None)
        logger.error("of the engine")
        running.reset(outside)
        thread = threading.Thread(target=lambda: logger.error("of a thread of its own"))
        thread.start()
        thread.join()
    assert messages(log) == []


async def test_tasks_and_threads_that_trio_starts_are_the_attempts() -> None:
    with attempt() as log:
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                logger.error("from a task")

            nursery.start_soon(say)
        await trio.to_thread.run_sync(lambda: logger.error("from a thread"))
    assert messages(log) == ["from a task", "from a thread"]


def test_nothing_is_left_behind() -> None:
    before = logging.getLogRecordFactory()
    with keeping_lines():
        with keeping_lines():
            assert logging.getLogRecordFactory() is not before
        assert logging.getLogRecordFactory() is not before
    assert logging.getLogRecordFactory() is before


def test_another_ones_factory_is_kept() -> None:
    """One that was there before, and one that came meanwhile and stays."""
    original = logging.getLogRecordFactory()

    def marking(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = original(*args, **kwargs)
        record.marked = True
        return record

    logging.setLogRecordFactory(marking)
    try:
        with attempt() as log:
            inner = logging.getLogRecordFactory()

            def later(*args: Any, **kwargs: Any) -> logging.LogRecord:
                return inner(*args, **kwargs)

            logging.setLogRecordFactory(later)
            logger.error("one")
        assert logging.getLogRecordFactory() is later
        record = logger.makeRecord("a", logging.INFO, "f", 1, "m", (), None)
        assert record.__dict__["marked"]
        with attempt() as again:
            logger.error("two")
        assert (messages(log), messages(again)) == (["one"], ["two"])
    finally:
        logging.setLogRecordFactory(original)
        attempt_logs._factory = None


def test_the_filter_says_which_attempt_it_is() -> None:
    record = logging.makeLogRecord({"attempt": "mine"})
    with attempt(type="email", queue="q", attempt=3) as log:
        assert AttemptLogFilter().filter(record)
    said = {name: record.__dict__[name] for name in ("task_id", "task_type", "attempt", "queue")}
    # What the line itself says stands.
    assert said == {"task_id": log.task.id, "task_type": "email", "attempt": "mine", "queue": "q"}
    record = logging.makeLogRecord({})
    assert AttemptLogFilter().filter(record)
    assert not hasattr(record, "task_id")


# --- in worker processes --------------------------------------------------------------------


async def run_in_process(handler: Any, payload: Any = None, **fields: Any) -> AttemptLog:
    """Run it in a process that is there for nothing else; its log."""
    runner = make_runner()
    with attempt() as log:
        async with runner.open():
            task = {"id": log.task.id, "type": "email"} | fields
            try:
                await run(runner, handler, payload, process=True, **task)
            except (AttemptTimedOut, WorkerProcessDied):
                log.close()
    return log


@bounded(30)
async def test_lines_of_a_worker_process_are_kept_and_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.root.setLevel(logging.INFO)
    log = await run_in_process(logging_handlers.says, "a@b", attempt=2, queue="q")
    assert [(line.level, line.logger) for line in log.kept()] == [
        ("INFO", "shop.mails"),
        ("ERROR", "shop.mails"),
    ]
    assert messages(log)[0] == "sending to a@b"
    assert "ValueError: no such address" in messages(log)[1]
    shown = [record for record in caplog.records if record.name == "shop.mails"]
    assert [record.getMessage() for record in shown] == ["sending to a@b", "not sent"]
    for record in shown:
        said = vars(record)
        assert (said["task_id"], said["task_type"]) == (log.task.id, "email")
        assert (said["attempt"], said["queue"]) == (2, "q")
    assert vars(shown[1])["address"] == "a@b"


@bounded(30)
async def test_a_logger_that_is_more_talkative_than_the_root_is_so_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("shop").setLevel(logging.DEBUG)
    log = await run_in_process(logging_handlers.says, "a@b")
    assert [line.level for line in log.kept()] == ["DEBUG", "INFO", "ERROR"]


@bounded(30)
async def test_all_threads_of_a_worker_process_are_the_attempts() -> None:
    logging.root.setLevel(logging.INFO)
    assert messages(await run_in_process(logging_handlers.says_from_a_thread)) == ["from a thread"]


@bounded(30)
@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (logging_handlers.says_and_hangs, "before it hangs"),
        (logging_handlers.says_and_dies, "the last words"),
    ],
)
async def test_what_was_logged_before_the_process_was_killed_or_died_is_kept(
    handler: Any, said: str
) -> None:
    logging.root.setLevel(logging.INFO)
    assert messages(await run_in_process(handler, timeout=2)) == [said]


@bounded(30)
async def test_a_module_with_a_logging_of_its_own_shows_its_lines_and_they_are_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = await run_in_process(logging_handlers.says_by_its_own_logging)
    assert messages(log) == ["by my own"]
    assert capfd.readouterr().err == "shop INFO by my own\n"


@bounded(30)
async def test_what_is_logged_by_a_fork_or_after_the_end_looks_like_the_rest(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nothing reads it: it goes to stderr, at the level and in the look of the engine's lines."""
    logging.root.setLevel(logging.INFO)
    log_format.set_stderr_look(StderrLook("json", "worker 2"))
    runner = make_runner(processes=1)
    with attempt() as log:
        async with runner.open():
            await run(runner, logging_handlers.says_from_a_fork, process=True, id="1", attempt=3)
            await run(runner, logging_handlers.says_after_its_end, process=True)
            seen = ""
            with trio.fail_after(20):
                while "after the end" not in seen:
                    await trio.sleep(0.05)
                    seen += capfd.readouterr().err
    lines = [json.loads(line) for line in seen.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("INFO", "from a fork"),
        ("ERROR", "trouble in a fork"),
        ("INFO", "after the end"),
    ]
    assert {line["process"] for line in lines} == {"worker 2"}
    assert (lines[0]["task_id"], lines[0]["attempt"]) == ("1", 3)
    assert "task_id" not in lines[2]
    assert messages(log) == []
