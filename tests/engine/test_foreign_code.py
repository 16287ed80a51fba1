"""Nothing that a handler, a hook or a logging handler does ends the engine."""

from __future__ import annotations

import logging
import logging.config
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from task_queue_engine import Backoff, TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.engine.loggers import NAME, protect_loggers
from task_queue_engine.errors import TooManyAbandonedThreads
from task_queue_engine.events import AttemptStarted, Event
from tests.engine.engines import EVERY_SECOND, ended, reaches, running
from tests.execution.support import bounded

RAISED = [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), ValueError("x")]


def _body(error: BaseException, place: str) -> Any:
    if place == "async":

        async def handler(payload: Any) -> None:
            raise error
    else:

        def handler(payload: Any) -> None:
            raise error

    return handler


@pytest.mark.parametrize("place", ["async", "thread"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_what_a_handler_raises_fails_its_task_and_no_other(
    tasks: TaskRegistry, backend: MemoryBackend, error: BaseException, place: str
) -> None:
    tasks.task("bad", max_attempts=2, backoff=EVERY_SECOND)(_body(error, place))

    @tasks.task("good")
    async def good(payload: Any) -> str:
        return "fine"

    async with running(tasks, backend) as engine:
        bad = await engine.submit("bad", 1)
        assert (await ended(engine, bad.id)).status is TaskStatus.FAILED
        assert await (await engine.submit("good", 1)).result(timeout=60) == "fine"


class BadBackoff(Backoff):
    says: Any = -5

    def delay(self, failures: int, rng: Any) -> Any:
        if isinstance(BadBackoff.says, BaseException):
            raise BadBackoff.says
        return BadBackoff.says


@pytest.mark.parametrize("says", [-5, float("nan"), "soon", 1e300, SystemExit(1)])
async def test_a_backoff_of_a_teams_own_may_say_anything(
    tasks: TaskRegistry, backend: MemoryBackend, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BadBackoff, "says", says)
    tasks.task("bad", max_attempts=2, backoff=BadBackoff())(_body(ValueError("x"), "async"))
    async with running(tasks, backend) as engine:
        task = await ended(engine, (await engine.submit("bad", 1)).id)
        assert (task.status, task.retry_count) == (TaskStatus.FAILED, 2)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_a_hook_may_raise_anything(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @tasks.task("good")
    async def good(payload: Any) -> str:
        return "fine"

    class Hook:
        def __call__(self, event: Event) -> None:
            raise error

        def __eq__(self, other: object) -> bool:
            raise error

        __hash__ = None  # type: ignore[assignment]  # as Python has it beside an own __eq__

        def __repr__(self) -> str:
            raise error

    async with running(tasks, backend, hooks=[Hook()]) as engine:
        for _ in range(2):
            assert await (await engine.submit("good", 1)).result(timeout=60) == "fine"
    assert caplog.text.count("is not called again") == 1


async def test_a_hook_that_is_never_awaited_is_said(
    tasks: TaskRegistry, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    @tasks.task("good")
    async def good(payload: Any) -> str:
        return "fine"

    async def hook(event: Event) -> None: ...

    async with running(tasks, backend, hooks=[hook]) as engine:  # type: ignore[list-item]
        assert await (await engine.submit("good", 1)).result(timeout=60) == "fine"
    assert "`async def` is never awaited" in caplog.text


class Raising(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def handle(self, record: logging.LogRecord) -> bool:
        raise self.error


@pytest.fixture(params=[RuntimeError("full"), SystemExit(1)], ids=["RuntimeError", "SystemExit"])
def raising(request: pytest.FixtureRequest) -> Iterator[Raising]:
    handler = Raising(request.param)
    logging.root.addHandler(handler)
    yield handler
    logging.root.removeHandler(handler)


async def test_a_logging_handler_may_raise(
    tasks: TaskRegistry, backend: MemoryBackend, raising: Raising
) -> None:
    """A hook that raises is logged by an actor, in the middle of its work."""

    def hook(event: Event) -> None:
        raise ValueError

    @tasks.task("good")
    async def good(payload: Any) -> str:
        return "fine"

    async with running(tasks, backend, hooks=[hook]) as engine:
        assert await (await engine.submit("good", 1)).result(timeout=60) == "fine"


def test_an_application_that_configures_logging_does_not_silence_the_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger(f"{NAME}.poller")
    protect_loggers()
    protect_loggers()
    logging.config.dictConfig({"version": 1})
    logger.warning("still %s", "here")
    assert "still here" in caplog.text
    record = caplog.records[-1]
    assert record.filename == "test_foreign_code.py"


# --- places in threads ----------------------------------------------------------------------


@pytest.fixture
def in_real_time() -> MemoryBackend:
    """Threads take real time, whatever a virtual clock says meanwhile."""
    return MemoryBackend(clock=TrioClock())


@bounded(60)
async def test_hung_threads_cost_healthy_tasks_nothing(
    tasks: TaskRegistry, in_real_time: MemoryBackend
) -> None:
    release = threading.Event()
    all_places = threading.Barrier(3)

    @tasks.task("hang", timeout=0.3, max_attempts=1)
    def hang(payload: Any) -> None:
        release.wait(30)

    @tasks.task("good", max_attempts=1)
    def good(payload: Any) -> str:
        all_places.wait(10)
        return "fine"

    try:
        async with running(tasks, in_real_time, threads=3, worker_count=3) as engine:
            for _ in range(2):
                assert (
                    await ended(engine, (await engine.submit("hang", 1)).id)
                ).status is TaskStatus.FAILED
            ready = await engine.ready()
            assert (ready.ready, ready.abandoned_threads) == (True, 2)
            assert (await engine.metrics()).abandoned_threads == 2
            for handle in [await engine.submit("good", 1) for _ in range(3)]:
                assert await handle.result(timeout=60) == "fine"
    finally:
        release.set()


@bounded(60)
async def test_past_the_limit_of_hung_threads_the_engine_ends_to_be_replaced(
    tasks: TaskRegistry, in_real_time: MemoryBackend
) -> None:
    release = threading.Event()

    @tasks.task("hang", timeout=0.3, max_attempts=1)
    def hang(payload: Any) -> None:
        release.wait(30)

    try:
        with pytest.RaisesGroup(TooManyAbandonedThreads, flatten_subgroups=True):
            async with running(tasks, in_real_time, threads=2) as engine:
                for _ in range(2):
                    assert (
                        await ended(engine, (await engine.submit("hang", 1)).id)
                    ).status is TaskStatus.FAILED
                await trio.sleep_forever()
    finally:
        release.set()


@bounded(60)
async def test_what_waits_for_a_thread_is_given_back_at_once_and_at_no_cost(
    tasks: TaskRegistry, in_real_time: MemoryBackend
) -> None:
    release, started = threading.Event(), []

    @tasks.task("hold")
    def hold(payload: Any) -> str:
        release.wait(30)
        return "held"

    def note(event: Event) -> None:
        if isinstance(event, AttemptStarted):
            started.append(event.task.payload)

    async with running(tasks, in_real_time, threads=1, worker_count=2, hooks=[note]) as engine:
        first = await engine.submit("hold", "first")
        await reaches(engine, first.id, TaskStatus.PROCESSING)
        second = await engine.submit("hold", "second")
        while engine.statistics()["claimer"]["waiting"] < 1:  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.01)
        # Not claimed, though a worker is free: if this process died it would cost nothing.
        task = await engine.get(second.id)
        assert (task.status, task.attempt) == (TaskStatus.PENDING, 0)
        before = trio.current_time()
        engine.request_stop()
        while (await engine.metrics()).depth.waiting < 1:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)
        assert trio.current_time() - before < 20, "it need not wait for the end of the grace"
        assert (await engine.get(second.id)).attempt == 0
        assert started == ["first"]
        release.set()
        assert (await ended(engine, first.id)).result == "held"
