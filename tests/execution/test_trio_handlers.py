from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from task_queue_engine import Discard, Retry, Snooze, TaskContext
from task_queue_engine.codec import encode_json
from task_queue_engine.errors import (
    AttemptEnded,
    AttemptTimedOut,
    HandlerExited,
    InvalidTask,
    PayloadTooLarge,
    ResultNotStorable,
    WrongAsyncLibrary,
)
from task_queue_engine.execution.failures import describe_error
from tests.execution.support import NOW, Progress, make_runner, run


@dataclass
class Order:
    item: str
    count: int = 1


async def test_payload_is_converted_and_the_result_is_plain_json() -> None:
    async def handler(order: Order) -> Order:
        assert isinstance(order, Order)
        return Order(order.item, order.count + 1)

    result = await run(make_runner(), handler, {"item": "tea", "count": 2})

    assert result == {"item": "tea", "count": 3}


async def test_a_payload_that_no_longer_fits_its_annotation_names_the_member() -> None:
    async def handler(order: Order) -> None: ...

    with pytest.raises(InvalidTask, match=r"payload\.count"):
        await run(make_runner(), handler, {"item": "tea", "count": "many"})


async def test_the_result_is_a_copy_that_the_handler_cannot_change_afterwards() -> None:
    kept: list[Any] = [1, (2, 3)]

    async def handler(payload: Any) -> list[Any]:
        return kept

    result = await run(make_runner(), handler)
    kept.append(4)

    assert result == [1, [2, 3]]


async def test_context_says_which_attempt_this_is_and_when_it_times_out() -> None:
    seen: dict[str, Any] = {}

    async def handler(payload: Any, context: TaskContext) -> None:
        for name in ("task_id", "attempt", "retry_count", "max_attempts", "deadline"):
            seen[name] = getattr(context, name)

    await run(
        make_runner(), handler, timeout=90.5, id="abc", attempt=3, retry_count=2, max_attempts=7
    )

    assert seen == {
        "task_id": "abc",
        "attempt": 3,
        "retry_count": 2,
        "max_attempts": 7,
        "deadline": NOW + timedelta(seconds=90.5),
    }


async def test_without_a_timeout_there_is_no_deadline(autojump_clock: MockClock) -> None:
    async def handler(payload: Any, context: TaskContext) -> bool:
        await trio.sleep(10**6)
        return context.deadline is None

    assert await run(make_runner(), handler, timeout=None) is True


async def test_progress_is_reported_as_plain_json_before_the_result() -> None:
    progress = Progress()

    async def handler(payload: Any, context: TaskContext) -> list[Any]:
        await context.progress(Order("tea"))
        return list(progress.values)

    assert await run(make_runner(), handler, progress=progress) == [{"item": "tea", "count": 1}]


async def test_progress_that_cannot_be_stored_is_refused_to_the_handler() -> None:
    progress = Progress()

    async def handler(payload: Any, context: TaskContext) -> None:
        with pytest.raises(InvalidTask, match=r"progress\.share"):
            await context.progress({"share": math.nan})
        with pytest.raises(PayloadTooLarge, match="progress"):
            await context.progress("x" * 5000)

    await run(make_runner(max_result_bytes=4096), handler, progress=progress)

    assert progress.values == []


async def test_timeout_stops_the_handler_on_time_and_lets_it_clean_up(
    autojump_clock: MockClock,
) -> None:
    cleaned_at: list[float] = []

    async def handler(payload: Any) -> None:
        try:
            await trio.sleep(60)
        finally:
            cleaned_at.append(trio.current_time())

    started = trio.current_time()
    with pytest.raises(AttemptTimedOut, match=r"within 2\.5 s") as caught:
        await run(make_runner(), handler, timeout=2.5)

    assert [at - started for at in cleaned_at] == [2.5]
    assert caught.value.__cause__ is None


async def test_what_cleanup_raises_during_a_timeout_is_the_cause(autojump_clock: MockClock) -> None:
    async def handler(payload: Any) -> None:
        try:
            await trio.sleep(60)
        finally:
            raise OSError("disk full")

    with pytest.raises(AttemptTimedOut) as caught:
        await run(make_runner(), handler, timeout=1)

    assert repr(caught.value.__cause__) == "OSError('disk full')"


async def test_system_exit_in_cleanup_during_a_timeout_is_a_timeout(
    autojump_clock: MockClock,
) -> None:
    async def handler(payload: Any) -> None:
        try:
            await trio.sleep(60)
        finally:
            raise SystemExit(1)

    with pytest.raises(AttemptTimedOut) as caught:
        await run(make_runner(), handler, timeout=1)

    assert isinstance(caught.value.__cause__, HandlerExited)


async def test_a_handler_that_returns_despite_its_timeout_has_returned(
    autojump_clock: MockClock,
) -> None:
    async def handler(payload: Any) -> str:
        with trio.CancelScope() as scope:
            try:
                await trio.sleep(60)
            except trio.Cancelled:
                scope.shield = True
                await trio.sleep(1)
        return "part of it"

    async def swallowing(payload: Any) -> str:
        try:
            await trio.sleep(60)
        except trio.Cancelled:
            return "part of it"
        return "all of it"

    assert await run(make_runner(), swallowing, timeout=1) == "part of it"
    assert await run(make_runner(), handler, timeout=1) == "part of it"


async def test_an_error_raised_late_but_never_cancelled_is_the_handlers_own(
    mock_clock: MockClock,
) -> None:
    async def handler(payload: Any) -> None:
        mock_clock.jump(10)  # stands for a long stretch without a checkpoint
        raise Discard("not wanted")

    with pytest.raises(Discard):
        await run(make_runner(), handler, timeout=1)


async def test_cancelled_from_outside_it_cleans_up_and_stays_a_cancellation(
    autojump_clock: MockClock,
) -> None:
    cleaned = False
    after = False

    async def handler(payload: Any) -> None:
        nonlocal cleaned
        try:
            await trio.sleep(60)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            cleaned = True

    with trio.move_on_after(1) as scope:
        await run(make_runner(), handler, timeout=2)  # which is over too before cleanup is
        after = True

    assert (scope.cancelled_caught, cleaned, after) == (True, True, False)


async def test_no_handler_starts_once_its_scope_is_cancelled() -> None:
    started = False

    async def handler(payload: Any) -> None:
        nonlocal started
        started = True

    with trio.CancelScope() as scope:
        scope.cancel()
        await run(make_runner(), handler)

    assert (scope.cancelled_caught, started) == (True, False)


@pytest.mark.parametrize(
    "error",
    [
        Retry(5),
        Snooze(5),
        Discard("no"),
        ValueError("x"),
        ExceptionGroup("two", [OSError(), ValueError()]),
    ],
)
async def test_the_handlers_own_exception_comes_through_as_it_is(error: Exception) -> None:
    async def handler(payload: Any) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await run(make_runner(), handler)

    assert caught.value is error
    assert error.__context__ is None


async def test_a_retry_raised_inside_a_nursery_is_still_a_retry() -> None:
    async def give_up_for_now() -> None:
        raise Retry(7)

    async def handler(payload: Any) -> None:
        async with trio.open_nursery() as nursery, trio.open_nursery():
            nursery.start_soon(give_up_for_now)

    with pytest.raises(Retry) as caught:
        await run(make_runner(), handler)

    assert caught.value.delay == 7


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_system_exit_is_a_failed_attempt(in_nursery: bool) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def handler(payload: Any) -> None:
        if not in_nursery:
            await leave()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)

    with pytest.raises(HandlerExited, match="SystemExit") as caught:
        await run(make_runner(), handler)

    assert isinstance(caught.value.__cause__, SystemExit)


async def test_system_exit_beside_a_cancellation_does_not_get_past_the_cancelled_scope() -> None:
    async def exit_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(3)

    async def handler(payload: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exit_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    with pytest.RaisesGroup(HandlerExited, flatten_subgroups=True), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, make_runner(), handler)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()


async def test_a_cancelled_that_belongs_to_no_scope_is_a_failed_attempt() -> None:
    """Kept, and raised again where its scope is over: nothing above would catch it."""

    async def handler(payload: Any) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                kept = error
        raise kept

    raised: BaseException | None = None
    try:
        await run(make_runner(), handler)
    except BaseException as error:  # noqa: BLE001 - a Cancelled would end the test, unfailed
        raised = error
    assert isinstance(raised, HandlerExited)
    assert "Cancelled" in str(raised)


async def test_a_real_ctrl_c_reaches_the_engine() -> None:
    async def handler(payload: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        await run(make_runner(), handler)


class ExitsInStr(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class Huge(Exception):
    def __str__(self) -> str:
        return "\ud800" + "x" * 5_000_000

    __repr__ = __str__


class LiesAboutItsClass(Exception):
    @property
    def __class__(self) -> Any:
        raise SystemExit(1)

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class DoesNotSplit(BaseExceptionGroup):
    def derive(self, excs: Any) -> Any:
        raise RuntimeError("no")


def _cancelled_by_hand() -> BaseException:
    try:
        return trio.Cancelled._create(source="explicit")
    except TypeError:  # an older trio
        return trio.Cancelled._create()


@pytest.mark.parametrize(
    "make",
    [
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        AttemptEnded,
        _cancelled_by_hand,
        lambda: BaseExceptionGroup("two", [KeyboardInterrupt(), SystemExit(2)]),
        lambda: BaseExceptionGroup("two", [GeneratorExit(), ValueError()]),
        lambda: BaseExceptionGroup("one", [_cancelled_by_hand()]),
        lambda: DoesNotSplit("x", [KeyboardInterrupt(), ValueError()]),
        type("Own", (BaseException,), {}),
        ExitsInStr,
        Huge,
        LiesAboutItsClass,
    ],
)
async def test_whatever_a_handler_raises_is_a_failed_attempt_that_can_be_stored(
    make: Callable[[], BaseException],
) -> None:
    async def handler(payload: Any) -> None:
        raise make()

    raised: BaseException | None = None
    try:
        await run(make_runner(), handler)
    except BaseException as caught:  # noqa: BLE001 - what it is, is what is tested
        raised = caught
    assert raised is not None
    assert issubclass(type(raised), Exception)
    described = describe_error(raised)
    encode_json(described.message, field="error")
    assert len(described.message) < 10_000


async def test_a_serializer_that_exits_is_a_result_that_cannot_be_stored() -> None:
    import pydantic

    class Odd(pydantic.BaseModel):
        @pydantic.model_serializer
        def leave(self) -> dict[str, Any]:
            raise SystemExit(1)

    async def handler(payload: Any) -> Any:
        return Odd()

    with pytest.raises(ResultNotStorable, match="SystemExit"):
        await run(make_runner(), handler)


async def _an_asyncio_sleep(payload: Any) -> None:
    await asyncio.sleep(1)


async def _an_asyncio_checkpoint(payload: Any) -> None:
    await asyncio.sleep(0)


async def _in_a_nursery(payload: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_an_asyncio_sleep, None)


@pytest.mark.parametrize("handler", [_an_asyncio_sleep, _an_asyncio_checkpoint, _in_a_nursery])
async def test_a_library_made_for_asyncio_is_named_as_the_reason(handler: Any) -> None:
    with pytest.raises(WrongAsyncLibrary, match="trio"):
        await run(make_runner(), handler)


async def _nothing() -> None: ...


async def _each() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_nothing, "a coroutine"),
        (lambda: (number for number in [1]), "a generator"),
        (_each, "'async_generator'"),
    ],
)
async def test_what_has_yet_to_run_is_no_result(make: Callable[[], Any], said: str) -> None:
    async def handler(payload: Any) -> Any:
        return make()

    with pytest.raises(ResultNotStorable, match=f"the handler returned {said}"):
        await run(make_runner(), handler)


@pytest.mark.parametrize("leak", ["scope", "nursery"])
async def test_a_scope_or_nursery_left_open_fails_the_attempt_and_not_the_worker(
    leak: str,
) -> None:
    async def left_open(payload: Any) -> None:
        if leak == "scope":
            scope = trio.CancelScope()
            scope.__enter__()
            scope.cancel()
        else:
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(trio.sleep_forever)

    async def healthy(payload: Any) -> str:
        await trio.lowlevel.checkpoint()
        return "ran"

    async def worker() -> None:
        runner = make_runner()
        with pytest.raises(RuntimeError, match="corrupted"):
            await run(runner, left_open)
        assert await run(runner, healthy) == "ran"

    async with trio.open_nursery() as nursery:  # as a task of its own: trio looks when it ends
        nursery.start_soon(worker)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"share": math.nan}, r"result\.share: nan is not a JSON number"),
        ({"where": object()}, r"result.*object"),
        ("x" * 5000, r"5002 bytes.*limit is 4096 \(TQE_MAX_RESULT_BYTES\)"),
        (["\ud800"], r"result\[0\].*surrogate"),
    ],
)
async def test_a_result_that_cannot_be_stored_says_why(result: Any, said: str) -> None:
    async def handler(payload: Any) -> Any:
        return result

    with pytest.raises(ResultNotStorable, match=said):
        await run(make_runner(max_result_bytes=4096), handler)


async def test_a_result_of_just_the_limit_is_stored() -> None:
    async def handler(payload: Any) -> str:
        return "x" * 4094

    assert len(await run(make_runner(max_result_bytes=4096), handler)) == 4094


async def test_a_result_whose_own_serializer_fails_is_not_storable() -> None:
    import pydantic

    class Odd(pydantic.BaseModel):
        @pydantic.model_serializer
        def explode(self) -> dict[str, Any]:
            raise RuntimeError("half open")

    async def handler(payload: Any) -> Any:
        return Odd()

    with pytest.raises(ResultNotStorable, match="half open"):
        await run(make_runner(), handler)


async def test_statistics_count_what_runs(autojump_clock: MockClock) -> None:
    runner = make_runner()

    async def handler(payload: Any) -> None:
        await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, runner, handler)
        nursery.start_soon(run, runner, handler)
        await trio.testing.wait_all_tasks_blocked()
        assert runner.statistics().on_trio == 2

    assert runner.statistics().on_trio == 0
