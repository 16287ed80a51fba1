from __future__ import annotations

import contextvars
import threading
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any

import pytest
import trio

from task_queue_engine import Retry, SyncTaskContext
from task_queue_engine.errors import (
    AttemptEnded,
    AttemptTimedOut,
    HandlerExited,
    HandlerNotStarted,
    InvalidTask,
    ResultNotStorable,
)
from tests.execution.support import NOW, Progress, bounded, make_runner, run, until

_who: contextvars.ContextVar[str] = contextvars.ContextVar("who")


class Stuck:
    """A handler that does not return before it is released, and then calls its context."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()
        self.raised: SimpleQueue[BaseException | None] = SimpleQueue()

    def handler(self, use: str) -> Any:
        def stuck(payload: Any, context: SyncTaskContext) -> None:
            self.started.set()
            assert self.release.wait(20)
            try:
                context.check_cancelled() if use == "check" else context.progress(1)
            except BaseException as error:
                self.raised.put(error)
                raise
            self.raised.put(None)

        return stuck


@bounded(20)
async def test_it_runs_in_another_thread_with_the_callers_context_variables() -> None:
    _who.set("worker 1")

    def handler(payload: list[int], context: SyncTaskContext) -> dict[str, Any]:
        context.check_cancelled()
        return {
            "sum": sum(payload),
            "thread": threading.get_ident(),
            "who": _who.get(),
            "attempt": context.attempt,
        }

    result = await run(make_runner(), handler, [1, 2, 3], attempt=4)

    assert result.pop("thread") != threading.get_ident()
    assert result == {"sum": 6, "who": "worker 1", "attempt": 4}


@bounded(20)
async def test_progress_has_been_reported_when_it_returns() -> None:
    progress = Progress()

    def handler(payload: Any, context: SyncTaskContext) -> int:
        context.progress((1, 2))
        helper = threading.Thread(target=context.progress, args=({"share": 0.5},))
        helper.start()
        helper.join()
        return len(progress.values)

    assert await run(make_runner(), handler, progress=progress) == 2
    assert progress.values == [[1, 2], {"share": 0.5}]


@bounded(20)
async def test_progress_that_is_not_json_is_refused_to_the_handler() -> None:
    def handler(payload: Any, context: SyncTaskContext) -> None:
        context.progress(object())

    with pytest.raises(InvalidTask, match="progress"):
        await run(make_runner(), handler)


@bounded(20)
async def test_what_it_raises_comes_through() -> None:
    error = Retry(5)

    def handler(payload: Any) -> None:
        raise error

    with pytest.raises(Retry) as caught:
        await run(make_runner(), handler)

    assert caught.value is error


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
@bounded(20)
async def test_what_would_end_a_program_is_a_failed_attempt(error: BaseException) -> None:
    def handler(payload: Any) -> None:
        raise error

    with pytest.raises(HandlerExited, match=type(error).__name__) as caught:
        await run(make_runner(), handler)

    assert caught.value.__cause__ is error


@bounded(20)
async def test_a_coroutine_is_no_result() -> None:
    async def forgotten() -> None: ...

    def handler(payload: Any) -> Any:
        return forgotten()

    with pytest.raises(ResultNotStorable, match="async def"):
        await run(make_runner(), handler)


@bounded(20)
async def test_a_stuck_thread_is_abandoned_and_another_takes_its_place() -> None:
    stuck = Stuck()
    runner = make_runner(threads=1)

    def quick(payload: Any) -> str:
        return "ran"

    with pytest.raises(AttemptTimedOut, match=r"did not return within 0\.05 s"):
        await run(runner, stuck.handler("check"), timeout=0.05)
    now = runner.statistics()
    assert (now.in_threads, now.abandoned_threads) == (0, 1)

    assert await run(runner, quick) == "ran"

    stuck.release.set()
    assert isinstance(await trio.to_thread.run_sync(stuck.raised.get), AttemptEnded)
    await until(lambda: runner.statistics().abandoned_threads == 0)


@bounded(20)
async def test_as_many_abandoned_as_may_run_wear_the_runner_out() -> None:
    stuck = [Stuck(), Stuck()]
    runner = make_runner(threads=2)
    worn_out = trio.Event()

    async def watch() -> None:
        await runner.wait_worn_out()
        worn_out.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for hangs in stuck:
                assert not worn_out.is_set()
                with pytest.raises(AttemptTimedOut):
                    await run(runner, hangs.handler("check"), timeout=0.05)
            await worn_out.wait()
    finally:
        for hangs in stuck:
            hangs.release.set()


@bounded(20)
async def test_waiting_for_a_thread_is_not_the_handlers_time() -> None:
    first, began = Stuck(), trio.Event()
    runner = make_runner(threads=1)
    started: list[str] = []

    def quick(payload: Any, context: SyncTaskContext) -> Any:
        return context.deadline

    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            await run(runner, first.handler("progress"), on_start=began.set)

        async def second() -> None:
            deadline = await run(
                runner, quick, timeout=1, on_start=lambda: started.append("second")
            )
            assert datetime.fromisoformat(deadline) >= NOW + timedelta(seconds=2)

        nursery.start_soon(hold)
        await began.wait()
        nursery.start_soon(second)
        await trio.sleep(1.5)
        assert not started
        first.release.set()
    assert started == ["second"]


@bounded(20)
async def test_the_next_attempt_does_not_start_beside_the_thread_of_the_last_one() -> None:
    stuck = Stuck()
    runner = make_runner(overlap_wait=3600)
    task = {"id": "the-same-task"}

    def again(payload: Any) -> str:
        return "ran"

    with pytest.raises(AttemptTimedOut):
        await run(runner, stuck.handler("check"), timeout=0.05, **task)
    with pytest.raises(HandlerNotStarted, match="earlier attempt still runs") as caught:
        await run(runner, again, attempt=2, **task)
    assert 1 <= caught.value.retry_in < 10
    assert await run(runner, again) == "ran", "another task is not held up"

    stuck.release.set()
    await until(lambda: runner.statistics().abandoned_threads == 0)
    assert await run(runner, again, attempt=2, **task) == "ran"


@bounded(20)
async def test_a_thread_that_never_ends_keeps_its_task_for_no_longer_than_the_setting() -> None:
    stuck = Stuck()
    runner = make_runner(overlap_wait=1.0)

    def again(payload: Any) -> str:
        return "ran"

    with pytest.raises(AttemptTimedOut):
        await run(runner, stuck.handler("check"), timeout=0.05, id="the-same-task")
    with pytest.raises(HandlerNotStarted) as caught:
        await run(runner, again, id="the-same-task")
    await trio.sleep(caught.value.retry_in)
    assert await run(runner, again, id="the-same-task") == "ran"
    assert runner.statistics().abandoned_threads == 1
    stuck.release.set()


@bounded(20)
async def test_a_thread_the_system_does_not_start_costs_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    def quick(payload: Any) -> str:
        return "ran"

    runner = make_runner(threads=1)
    with monkeypatch.context() as patched:
        patched.setattr("trio._threads.start_thread_soon", refuse)
        with pytest.raises(HandlerNotStarted, match="no more threads"):
            await run(runner, quick)
    assert await run(runner, quick) == "ran"


@pytest.mark.parametrize("use", ["check", "progress"])
@bounded(20)
async def test_an_abandoned_handler_is_told_so_and_reports_nothing(use: str) -> None:
    stuck = Stuck()
    progress = Progress()
    runner = make_runner()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(runner, stuck.handler(use), timeout=None, progress=progress))
        await trio.to_thread.run_sync(stuck.started.wait)
        assert runner.statistics().in_threads == 1
        nursery.cancel_scope.cancel()  # returns at once, though the thread goes on

    assert runner.statistics().abandoned_threads == 1
    stuck.release.set()
    assert isinstance(await trio.to_thread.run_sync(stuck.raised.get), AttemptEnded)
    assert progress.values == []
    await until(lambda: runner.statistics().abandoned_threads == 0)


@bounded(20)
async def test_a_report_nobody_takes_does_not_hold_the_thread_past_its_attempt() -> None:
    reporting = trio.Event()
    raised: SimpleQueue[BaseException] = SimpleQueue()

    class Never(Progress):
        async def __call__(self, value: Any) -> None:
            reporting.set()
            await trio.sleep_forever()

    def handler(payload: Any, context: SyncTaskContext) -> None:
        try:
            context.progress(1)
        except BaseException as error:
            raised.put(error)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(make_runner(), handler, progress=Never()))
        await reporting.wait()
        nursery.cancel_scope.cancel()

    assert isinstance(await trio.to_thread.run_sync(raised.get), AttemptEnded)


def test_a_thread_that_outlives_the_engine_is_told_so() -> None:
    stuck = Stuck()

    async def engine() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run(make_runner(), stuck.handler("progress"), timeout=None))
            await trio.to_thread.run_sync(stuck.started.wait, 20)
            nursery.cancel_scope.cancel()

    trio.run(engine)
    stuck.release.set()

    assert isinstance(stuck.raised.get(timeout=20), AttemptEnded)
