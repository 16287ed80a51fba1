"""`process=True` handlers in real processes: what they give and take."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from task_queue_engine import Discard, Retry
from task_queue_engine.errors import (
    HandlerExited,
    InvalidTask,
    RegistryError,
    ResultNotStorable,
)
from task_queue_engine.execution.failures import describe_error
from task_queue_engine.execution.runner import HandlerRunner
from tests.execution import handlers
from tests.execution.support import NOW, Progress, bounded, make_runner, run


async def run_alone(handler: handlers.Handler, payload: Any = None, **options: Any) -> Any:
    runner = make_runner()
    async with runner.open():
        return await run(runner, handler, payload, process=True, **options)


@bounded(20)
async def test_payload_progress_and_result_make_the_way_there_and_back() -> None:
    progress = Progress()

    result = await run_alone(
        handlers.double,
        {"item": "tea", "count": 4},
        progress=progress,
        id="abc",
        attempt=2,
        timeout=15,
    )

    assert result == {"item": "tea", "count": 8}
    share, (task_id, attempt, deadline) = progress.values
    assert share == {"share": 0.5, "of": {"item": "tea", "count": 4}}
    assert (task_id, attempt) == ("abc", 2)
    # Not from the claim: a process had to be started first.
    assert datetime.fromisoformat(deadline) > NOW + timedelta(seconds=15)


@bounded(20)
async def test_a_process_is_kept_for_the_next_task() -> None:
    runner = make_runner()
    async with runner.open():
        pids = [await run(runner, handlers.pid, process=True) for _ in range(3)]
        assert runner.statistics().worker_processes == 1

    assert pids[0] != os.getpid()
    assert len(set(pids)) == 1
    assert runner.statistics().worker_processes == 0


@bounded(20)
async def test_a_retry_arrives_with_its_delay() -> None:
    with pytest.raises(Retry) as caught:
        await run_alone(handlers.retry)

    assert (caught.value.delay, str(caught.value)) == (42, "busy")


@bounded(20)
async def test_a_discard_arrives() -> None:
    with pytest.raises(Discard, match="no such address"):
        await run_alone(handlers.discard)


@bounded(20)
async def test_a_single_exception_in_a_group_is_unwrapped() -> None:
    with pytest.raises(Retry):
        await run_alone(handlers.raise_in_group)


@bounded(20)
async def test_an_unpicklable_error_arrives_with_the_traceback_of_the_process() -> None:
    with pytest.raises(handlers.Refused) as caught:
        await run_alone(handlers.refuse)

    assert caught.value.code == 7
    described = describe_error(caught.value)
    assert described.type == "tests.execution.handlers.Refused"
    assert described.message == "refused with 7"
    lines = (described.traceback or "").splitlines()
    assert lines[1].endswith("in refuse")
    assert lines[-1].endswith("Refused: refused with 7")


@bounded(20)
async def test_system_exit_is_a_failed_attempt_and_the_process_lives_on() -> None:
    runner = make_runner()
    async with runner.open():
        first = await run(runner, handlers.pid, process=True)
        with pytest.raises(HandlerExited, match="SystemExit") as caught:
            await run(runner, handlers.leave, process=True)
        assert await run(runner, handlers.pid, process=True) == first

    assert "SystemExit: bye" in (describe_error(caught.value).traceback or "")


@pytest.mark.parametrize(
    ("handler", "payload", "said"),
    [
        (handlers.not_a_number, None, r"result\.share: nan is not a JSON number"),
        (handlers.not_json, None, r"result.*object"),
        (handlers.large, 5000, r"5002 bytes.*limit is 4096 \(TQE_MAX_RESULT_BYTES\)"),
    ],
)
@bounded(20)
async def test_a_result_that_cannot_be_stored_says_why(
    handler: handlers.Handler, payload: Any, said: str
) -> None:
    with pytest.raises(ResultNotStorable, match=said):
        await run_alone(handler, payload)


@bounded(20)
async def test_progress_that_is_not_json_is_refused_to_the_handler() -> None:
    with pytest.raises(InvalidTask, match="progress"):
        await run_alone(handlers.bad_progress)


@bounded(20)
async def test_a_payload_that_no_longer_fits_its_annotation_names_the_member() -> None:
    with pytest.raises(InvalidTask, match=r"payload\.count") as caught:
        await run_alone(handlers.double, {"item": "tea", "count": "many"})

    assert caught.value.field == "payload.count"


@bounded(20)
async def test_a_large_payload_and_result_fit_through() -> None:
    runner = HandlerRunner(threads=1, processes=1, max_result_bytes=2 * 2**20)
    async with runner.open():
        assert len(await run(runner, handlers.large, 2**20, process=True)) == 2**20
        with pytest.raises(InvalidTask, match="payload"):
            await run(runner, handlers.large, "x" * 2**20, process=True)


@bounded(20)
async def test_a_thread_left_behind_cannot_report_into_the_next_task() -> None:
    progress = Progress()
    runner = make_runner(processes=1)
    async with runner.open():
        await run(runner, handlers.leave_a_thread_behind, 0.05, process=True)
        await run(runner, handlers.take_a_while, 0.2, process=True, progress=progress)

    assert progress.values == []


@bounded(20)
async def test_what_a_handler_prints_comes_out_when_it_returns(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    runner = make_runner()
    async with runner.open():
        await run(runner, handlers.shout, process=True)
        assert capfd.readouterr().out == "from the handler\n"


@bounded(20)
async def test_no_more_processes_than_allowed_and_waiting_for_one_is_not_the_handlers_time(
    tmp_path: Path,
) -> None:
    runner = make_runner(processes=1)
    started: list[str] = []
    progress = Progress()
    async with runner.open(), trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: run(
                runner,
                handlers.report_pid_and_wait,
                str(tmp_path / "go on"),
                process=True,
                progress=progress,
            )
        )
        await progress.arrived.wait()
        assert runner.statistics().in_processes == 1

        async def second() -> None:
            # Waits for longer than its timeout, and runs for less than that.
            await run(
                runner,
                handlers.pid,
                process=True,
                timeout=2,
                on_start=lambda: started.append("second"),
            )

        nursery.start_soon(second)
        await trio.sleep(3)
        assert not started
        assert runner.statistics().worker_processes == 1
        (tmp_path / "go on").touch()
    assert started == ["second"]


async def test_a_handler_that_is_not_under_its_name_is_refused_clearly() -> None:
    with pytest.raises(RegistryError, match="another decorator above"):
        await run_alone(handlers.decorated)


async def test_a_closed_runner_starts_no_process() -> None:
    with pytest.raises(RuntimeError, match="open"):
        await run(make_runner(), handlers.pid, process=True)
