from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine.codec import encode_json
from task_queue_engine.errors import AttemptTimedOut
from task_queue_engine.execution.failures import describe_error
from task_queue_engine.task import TaskError
from tests.execution.support import make_runner, run


class Outer:
    class BadThing(Exception):
        pass


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


async def describe_failure_of(handler: Any) -> TaskError:
    """As a worker inside the engine would: the engine's own frames are on top."""
    try:
        await run(make_runner(), handler)
    except (ValueError, trio.TooSlowError, AttemptTimedOut) as error:
        # The test's two frames stand for the worker's, which are the engine's own.
        error.__traceback__ = error.__traceback__.tb_next.tb_next  # type: ignore[union-attr] # just raised
        return describe_error(error)
    raise AssertionError("the handler did not fail")


def test_type_is_qualified_and_builtins_are_bare() -> None:
    assert describe_error(ValueError("x")).type == "ValueError"
    assert describe_error(Outer.BadThing()).type == f"{__name__}.Outer.BadThing"


async def test_traceback_of_an_async_handler_starts_at_the_handler() -> None:
    def deeper() -> None:
        raise ValueError("no such order")

    async def handler(payload: Any) -> None:
        await trio.lowlevel.checkpoint()
        deeper()

    described = await describe_failure_of(handler)

    lines = (described.traceback or "").splitlines()
    assert described.message == "no such order"
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in handler")
    assert "deeper()" in lines[2]
    assert lines[-1] == "ValueError: no such order"


async def test_traceback_of_a_thread_handler_starts_at_the_handler() -> None:
    def handler(payload: Any) -> None:
        raise ValueError("no such order")

    described = await describe_failure_of(handler)

    assert (described.traceback or "").splitlines()[1].endswith("in handler")


async def test_the_traceback_of_a_cause_starts_at_the_handler_too(
    autojump_clock: MockClock,
) -> None:
    async def handler(payload: Any) -> None:
        try:
            await trio.sleep(60)
        finally:
            raise OSError("disk full")

    described = await describe_failure_of(handler)

    text = described.traceback or ""
    assert described.type == "task_queue_engine.errors.AttemptTimedOut"
    assert "OSError: disk full" in text
    assert "in handler" in text
    assert "runner.py" not in text


async def test_an_error_inside_a_library_that_the_handler_calls_keeps_its_frames() -> None:
    async def handler(payload: Any) -> None:
        with trio.fail_at(0):
            await trio.sleep(1)

    described = await describe_failure_of(handler)

    assert described.type == "trio.TooSlowError"
    assert "in fail_at" in (described.traceback or "")


def test_causes_groups_and_notes_are_included() -> None:
    cause = raised(KeyError("who"))
    error = ExceptionGroup("both", [OSError("disk"), ValueError("order")])
    error.__cause__ = cause
    error.add_note("while packing")

    described = describe_error(raised(error))

    assert described.message == "both (2 sub-exceptions)"
    for part in ("KeyError: 'who'", "OSError: disk", "ValueError: order", "while packing"):
        assert part in (described.traceback or "")


def test_an_engine_error_without_a_story_has_no_traceback() -> None:
    assert describe_error(AttemptTimedOut(3)) == TaskError(
        type="task_queue_engine.errors.AttemptTimedOut",
        message="the handler did not return within 3 s",
    )


def test_a_long_traceback_keeps_its_end() -> None:
    def recurse(depth: int) -> None:
        if depth == 0:
            raise ValueError("the bottom")
        (recurse if depth % 2 else lambda d: recurse(d))(depth - 1)

    with pytest.raises(ValueError) as caught:
        recurse(200)
    described = describe_error(caught.value, max_traceback=1000)

    text = described.traceback or ""
    assert len(text.encode()) <= 1000
    assert text.endswith("ValueError: the bottom\n")
    assert "cut" in text.splitlines()[0]


def test_a_huge_message_is_cut_and_does_not_push_out_the_frames() -> None:
    described = describe_error(raised(ValueError("ä" * 100_000)))

    assert len(described.message.encode()) < 2200
    assert described.message.startswith("äää")
    assert "in raised" in (described.traceback or "")


def test_what_cannot_be_stored_is_spelled_out() -> None:
    error = raised(ValueError("a\x00b\udc80c"))

    described = describe_error(error)

    assert described.message == "a\\x00b\\udc80c"
    assert "a\\x00b\\udc80c" in (described.traceback or "")
    encode_json(described)  # would raise


def test_an_exception_whose_str_raises_is_described_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    described = describe_error(raised(Broken()))

    assert "Broken" in described.type
    assert "RuntimeError" in described.message
    assert "in raised" in (described.traceback or "")


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert "second" in (describe_error(first).traceback or "")
