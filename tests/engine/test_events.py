"""Live events: of this process as it says them, of others as their rows show them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine import (
    ActionRequest,
    EndEvent,
    Engine,
    GapEvent,
    LogEvent,
    ProgressEvent,
    StateEvent,
    SyncTaskContext,
    Task,
    TaskAction,
    TaskContext,
    TaskEvent,
    TaskFilter,
    TaskNotFound,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.attempt_record import LogLine
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.engine.event_reader import Reader
from task_queue_engine.engine.live_events import LiveEvents
from task_queue_engine.errors import EngineNotRunning, InvalidQuery
from task_queue_engine.task_events import EventStream
from tests.engine.engines import (
    EVERY_SECOND,
    claim_and_die,
    ended,
    process,
    reaches,
    running,
    until,
)

logger = logging.getLogger("handlers")


@pytest.fixture
def backend(autojump_clock: MockClock) -> MemoryBackend:
    return MemoryBackend(clock=TrioClock())


def make_tasks() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("steps", max_attempts=2, backoff=EVERY_SECOND)
    async def steps(fails: bool, context: TaskContext) -> None:
        for number in range(2):
            await context.progress(number)
            logger.warning("step %d", number)
            await trio.sleep(3)
        if fails and context.attempt == 1:
            raise ValueError("not yet")

    @tasks.task("thread")
    def thread(payload: int, context: SyncTaskContext) -> None:
        for number in range(3):
            logger.warning("step %d", number)
            context.progress(number)

    @tasks.task("flood")
    async def flood(number: int, context: TaskContext) -> None:
        for each in range(number):
            await context.progress(each)

    @tasks.task("endless")
    async def endless(payload: Any) -> None:
        await trio.sleep_forever()

    return tasks


def told(event: TaskEvent) -> str:
    match event:
        case StateEvent():
            return f"{event.status}({event.attempt})" + (f" {event.outcome}" * bool(event.outcome))
        case ProgressEvent():
            return f"progress({event.attempt}) {event.progress}"
        case LogEvent():
            return f"log({event.attempt}) {event.line.message}"
        case GapEvent():
            return f"gap {event.reason}"
        case EndEvent():
            return f"end {event.status}"


async def all_of(stream: EventStream) -> list[str]:
    return [told(event) async for event in stream]


async def some_of(stream: EventStream, count: int) -> list[str]:
    with trio.fail_after(3600):
        return [told(await anext(stream)) for _ in range(count)]


TWO_ATTEMPTS = [
    "PROCESSING(1)",
    "progress(1) 0",
    "log(1) step 0",
    "progress(1) 1",
    "log(1) step 1",
    "PENDING(1) retried",
    "PROCESSING(2)",
    "progress(2) 0",
    "log(2) step 0",
    "progress(2) 1",
    "log(2) step 1",
    "COMPLETED(2) succeeded",
    "end COMPLETED",
]


async def test_a_task_is_followed_to_its_end(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("steps", True, delay=1)
        events = [event async for event in handle.events()]
    assert [told(event) for event in events] == ["PENDING(0)", *TWO_ATTEMPTS]
    states = [event for event in events if isinstance(event, StateEvent)]
    assert {event.task_id for event in states} == {handle.id}
    assert {(event.type, event.queue) for event in states} == {("steps", "default")}
    assert [event.retry_count for event in states] == [0, 0, 1, 1, 1]
    assert states[2].run_at is not None
    assert states[3].worker is not None


async def test_what_a_thread_says_keeps_its_order(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("thread", 1, delay=1)
        events = await all_of(handle.events())
    said = [
        f"{what}(1) {'step ' * (what == 'log')}{n}"
        for n in range(3)
        for what in ("log", "progress")
    ]
    assert events[-8:] == [*said, "COMPLETED(1) succeeded", "end COMPLETED"]


async def test_a_stream_begins_with_what_has_been(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("steps", True)
        await ended(engine, handle.id)
        events = [event async for event in handle.events()]
    lines = [f"log({attempt}) step {number}" for attempt in (1, 2) for number in (0, 1)]
    assert [told(event) for event in events] == [
        "COMPLETED(2)",
        *lines,
        "progress(2) 1",
        "end COMPLETED",
    ]
    # One that breaks off in between begins anew.
    assert [bool(event.id) for event in events] == [False] * 6 + [True]


async def test_lines_from_before_one_watched_come_when_the_attempt_is_over(
    backend: MemoryBackend,
) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("steps", True)
        await trio.sleep(1)  # it has logged the first of its two
        first = handle.events()
        assert await some_of(first, 4) == [
            "PROCESSING(1)",
            "progress(1) 0",
            "progress(1) 1",
            "log(1) step 1",
        ]
        rest = ["log(1) step 0", "PENDING(1) retried", *TWO_ATTEMPTS[6:]]
        assert await all_of(first) == rest


async def test_one_who_comes_back_is_given_nothing_again(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("steps", True, delay=1)
        events = [event async for event in handle.events()]
        for index, event in enumerate(events):
            if event.id:
                again = engine.events(handle.id, after=event.id)
                rest = events[index + 1 :] or events[-1:]  # that it is over is said again
                assert await all_of(again) == list(map(told, rest))


async def test_another_process_is_followed_by_its_rows(backend: MemoryBackend) -> None:
    tasks = make_tasks()
    async with running(tasks, backend, consume=False) as front, process(tasks, backend):
        handle = await front.submit("steps", True, delay=1)
        events = await all_of(handle.events())
    # Lines are with the attempts that are over, and of progress there is the latest.
    assert [event for event in events if not event.startswith("progress")] == [
        "PENDING(0)",
        "PROCESSING(1)",
        "log(1) step 0",
        "log(1) step 1",
        "PENDING(1)",
        "PROCESSING(2)",
        "log(2) step 0",
        "log(2) step 1",
        "COMPLETED(2)",
        "end COMPLETED",
    ]
    assert [event for event in events if event.startswith("progress")] == [
        "progress(1) 0",
        "progress(1) 1",
        "progress(2) 0",
        "progress(2) 1",
    ]


async def test_tasks_that_are_watched_are_looked_at_together(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    get = backend.store.get

    async def counted(task_ids: Sequence[str]) -> list[Task | None]:
        looks.append(len(task_ids))
        return await get(task_ids)

    tasks = make_tasks()
    async with (
        running(tasks, backend, consume=False) as engine,
        trio.open_nursery() as nursery,
    ):
        handles = [await engine.submit("endless", n) for n in range(50)]
        for handle in handles:
            nursery.start_soon(all_of, handle.events())
        nursery.start_soon(partial(engine.wait, handles[0].id, timeout=60))
        await trio.sleep(10)
        monkeypatch.setattr(backend.store, "get", counted)
        await trio.sleep(10)
        assert 5 <= len(looks) <= 15
        assert set(looks) == {50}
        nursery.cancel_scope.cancel()


async def test_all_tasks_and_some_of_them(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend, worker_count=1) as engine:
        every, one_type = engine.events(), engine.events(type="flood")
        other_queue = engine.events(queue="other")
        of_type = engine.events(of_type=lambda name: name == "endless")
        streams = {"every": every, "flood": one_type, "other": other_queue, "endless": of_type}
        heard: Counter[str] = Counter()

        async def listen(name: str, stream: EventStream) -> None:
            async for event in stream:
                assert isinstance(event, StateEvent | ProgressEvent)
                heard[f"{name}: {event.type}"] += 1

        async with trio.open_nursery() as nursery:
            for name, stream in streams.items():
                nursery.start_soon(listen, name, stream)
            await wait_all_tasks_blocked()
            await (await engine.submit("flood", 2)).result(timeout=60)
            handle = await engine.submit("endless", None)
            await reaches(engine, handle.id, TaskStatus.PROCESSING)
            await engine.cancel(handle.id)
            await ended(engine, handle.id)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    # PENDING (where it was seen before it ran), PROCESSING, being cancelled, CANCELLED.
    assert heard["flood: flood"] == heard["every: flood"] >= 4
    assert heard["endless: endless"] == heard["every: endless"] >= 3
    assert not any(name.startswith("other") for name in heard)
    assert heard["flood: endless"] == heard["endless: flood"] == 0


async def test_cancel_retry_and_redrive_are_told(backend: MemoryBackend) -> None:
    tasks = make_tasks()
    async with running(tasks, backend, consume=False) as engine:
        stream = engine.events()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            seen: list[str] = []

            async def listen() -> None:
                async for event in stream:
                    seen.append(told(event))

            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            handle = await engine.submit("endless", None)
            await engine.cancel(handle.id)
            await engine.retry(handle.id)
            await engine.cancel(handle.id)
            await wait_all_tasks_blocked()
            assert seen == ["PENDING(0)", "CANCELLED(0)", "PENDING(0)", "CANCELLED(0)"]
            nursery.cancel_scope.cancel()


async def test_a_redriven_task_is_told(backend: MemoryBackend) -> None:
    tasks = make_tasks()

    @tasks.task("fail", max_attempts=1)
    async def fail(payload: Any) -> None:
        raise ValueError

    async with running(tasks, backend) as worker:
        handle = await worker.submit("fail", None)
        assert (await ended(worker, handle.id)).status is TaskStatus.FAILED
        await until(lambda: bool(backend.queue("default").dead_letters))
    async with running(tasks, backend, consume=False) as engine:
        stream = engine.events()
        with trio.move_on_after(1):
            await anext(stream)
        assert (await engine.redrive()).redriven == 1
        event = await anext(stream)
        assert isinstance(event, StateEvent)
        assert (event.task_id, told(event)) == (handle.id, "PENDING(1)")


async def test_retries_and_redrives_by_an_action_are_told(backend: MemoryBackend) -> None:
    tasks = TaskRegistry()

    @tasks.task("fails", max_attempts=1)
    async def fails(payload: Any) -> None:
        raise ValueError

    async with running(tasks, backend) as engine:
        handle = await engine.submit("fails", 1)
        await reaches(engine, handle.id, TaskStatus.FAILED)
        watching = engine.events()
        with trio.move_on_after(1):
            await anext(watching)
        for action in (TaskAction.RETRY, TaskAction.REDRIVE):
            await trio.sleep(1)  # its dead letter is there
            began = await engine.start_action(ActionRequest(action=action, which=TaskFilter()))
            assert began is not None
            of: dict[str, list[str]] = {handle.id: [], began.id: []}
            while len(of[handle.id]) < 3 or len(of[began.id]) < 3:
                with trio.fail_after(3600):
                    event = await anext(watching)
                if isinstance(event, StateEvent):
                    of[event.task_id].append(event.status)
            assert of[handle.id] == ["PENDING", "PROCESSING", "FAILED"]
            assert of[began.id] == ["PENDING", "PROCESSING", "COMPLETED"]
        await watching.aclose()


async def test_a_slow_reader_misses_events_and_is_told(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("flood", 3000, delay=5)
        stream = handle.events()
        assert await some_of(stream, 1) == ["PENDING(0)"]
        before = trio.current_time()
        assert (await ended(engine, handle.id)).status is TaskStatus.COMPLETED
        assert trio.current_time() - before < 10
        gap = await anext(stream)
        assert isinstance(gap, GapEvent)
        assert gap.reason == "the reader was too slow"
        rest = await all_of(stream)
        assert gap.missed is not None
        # All that happened was told or counted.
        progress = [event for event in rest if event.startswith("progress")]
        assert len(progress) + gap.missed == 3000 + 1
        assert rest[-2:] == ["COMPLETED(1) succeeded", "end COMPLETED"]


async def test_a_slow_reader_of_all_tasks_hears_what_runs_now(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        stream = engine.events()
        with trio.move_on_after(1):
            await anext(stream)
        endless = await engine.submit("endless", None)
        flood = await engine.submit("flood", 3000)
        await ended(engine, flood.id)
        gap = await anext(stream)
        assert isinstance(gap, GapEvent)
        with trio.fail_after(60):
            while True:
                after = await anext(stream)
                if isinstance(after, StateEvent) and after.task_id == endless.id:
                    break
        assert after.status is TaskStatus.PROCESSING
        await engine.cancel(endless.id)


async def test_going_on_behind_an_event(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("steps", True, delay=1)
        stream = handle.events()
        heard: list[TaskEvent] = []
        while len(heard) < 5:
            heard.append(await anext(stream))
        await stream.aclose()
        assert [told(event) for event in heard] == ["PENDING(0)", *TWO_ATTEMPTS[:4]]
        await trio.sleep(20)  # it has ended meanwhile
        assert (await engine.get(handle.id)).status.is_terminal
        again = [told(event) async for event in handle.events(after=heard[-1].id)]
        assert again == TWO_ATTEMPTS[4:]
        # Behind the last state there is the end.
        events = [event async for event in handle.events(after=heard[-1].id)]
        assert [told(e) async for e in handle.events(after=events[-2].id)] == ["end COMPLETED"]


async def test_where_it_cannot_go_on_it_says_so(backend: MemoryBackend) -> None:
    tasks = make_tasks()
    async with running(tasks, backend) as one, running(tasks, backend, consume=False) as other:
        handle = await one.submit("steps", False)
        await reaches(one, handle.id, TaskStatus.PROCESSING)
        stream = handle.events()
        first = [await anext(stream) for _ in range(3)]
        await stream.aclose()
        # Another process, the same one long after, and one that was restarted.
        elsewhere = other.events(handle.id, after=first[-1].id)
        lost = "gap what came since then is not kept here"
        assert (await some_of(elsewhere, 2)) == [lost, "PROCESSING(1)"]
        await elsewhere.aclose()
        await trio.sleep(300)
        assert await all_of(one.events(handle.id, after=first[-1].id)) == [
            lost,
            "COMPLETED(1)",
            "log(1) step 0",
            "log(1) step 1",
            "progress(1) 1",
            "end COMPLETED",
        ]
        for nonsense in ("", "-", "x-1", "x" * 100, f"{first[-1].id}0"):
            events = await all_of(one.events(handle.id, after=nonsense))
            assert events[0] == lost if nonsense else "COMPLETED(1)"


async def test_while_no_one_watches_nothing_is_told(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_tasks(), backend) as engine:
        live = engine._live
        calls: list[str] = []
        for name in ("_tell", "_add", "recorded", "progressed"):
            monkeypatch.setattr(live, name, lambda *_, name=name, **__: calls.append(name))
        await (await engine.submit("steps", True)).result(timeout=60)
        assert calls == []
        assert not live.is_wanted


async def test_what_was_kept_for_those_who_come_back_is_given_up(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        handle = await engine.submit("endless", None)
        async for _ in handle.events():
            break  # left, and not closed
        assert engine._live.is_wanted
        await trio.sleep(31)
        assert not engine._live.is_wanted
        assert len(engine._waiters) == 0
        await handle.cancel()


async def test_what_cannot_be_followed(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend) as engine:
        with pytest.raises(TaskNotFound):
            await anext(engine.events("00000000-0000-7000-8000-000000000000"))
        with pytest.raises(InvalidQuery, match="type"):
            engine.events("00000000-0000-7000-8000-000000000000", type="steps")
        handle = await engine.submit("endless", None)
        stream = handle.events()
        await anext(stream)
        every = engine.events()
        await engine.cancel(handle.id)
    with pytest.raises(EngineNotRunning):
        await anext(every)
    with pytest.raises(EngineNotRunning):
        engine.events()


async def test_a_stream_ends_with_its_engine(backend: MemoryBackend) -> None:
    engine_ended = trio.Event()
    async with trio.open_nursery() as nursery:

        async def follow(engine: Engine) -> None:
            with pytest.raises(EngineNotRunning):
                async for _ in engine.events():
                    pass
            engine_ended.set()

        async with running(make_tasks(), backend) as engine:
            nursery.start_soon(follow, engine)
            await wait_all_tasks_blocked()
        await engine_ended.wait()


async def test_an_event_that_cannot_be_shown_costs_no_task(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    async with running(make_tasks(), backend) as engine:
        stream = engine.events()
        with trio.move_on_after(1):
            await anext(stream)
        monkeypatch.setattr(engine._live, "_put", broken)
        await (await engine.submit("steps", True)).result(timeout=60)
    assert caplog.text.count("an event could not be shown") == 1


async def test_all_tasks_of_other_processes_by_their_rows(backend: MemoryBackend) -> None:
    """What was submitted here, and what the workers say they run."""
    tasks = make_tasks()
    async with running(tasks, backend, consume=False) as front, process(tasks, backend) as worker:
        elsewhere = await worker.engine.submit("endless", None)
        seen: dict[str, list[str]] = {}

        async def listen() -> None:
            async for event in front.events():
                if isinstance(event, StateEvent):
                    seen.setdefault(event.task_id, []).append(told(event))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            here = await front.submit("steps", False)
            await trio.sleep(60)
            await worker.engine.cancel(elsewhere.id)
            await trio.sleep(10)
            assert seen[here.id] == ["PENDING(0)", "PROCESSING(1)", "COMPLETED(1)"]
            assert seen[elsewhere.id][0] == "PROCESSING(1)"
            assert seen[elsewhere.id][-1] == "CANCELLED(1)"
            nursery.cancel_scope.cancel()


async def test_the_store_is_believed_where_the_task_itself_says_nothing(
    autojump_clock: MockClock,
) -> None:
    """Its lines are on their way when its end is in the store already."""
    live = LiveEvents(MemoryBackend(clock=TrioClock()), TrioClock())
    reader = Reader(None, lambda _: True)
    live.add_reader(reader, None)
    now = TrioClock().now()
    task = Task(id="1", type="t", payload=1, created_at=now, updated_at=now)
    running = replace(task, attempt=1, status=TaskStatus.PROCESSING)
    completed = replace(running, status=TaskStatus.COMPLETED)
    live.changed(running)
    live.in_store(completed)
    live.logged(running, LogLine(time=now, level="INFO", logger="x", message="the last words"))
    live._take_from_threads()
    assert [told(entry.event) for entry in reader.take()] == [
        "PENDING(0)",
        "PROCESSING(1)",
        "log(1) the last words",
    ]
    live.in_store(completed)
    assert reader.take() == []
    await trio.sleep(1)
    live.in_store(completed)
    assert [told(entry.event) for entry in reader.take()] == ["COMPLETED(1)"]
    # Of one that runs elsewhere there is nothing to wait for.
    live.learn(replace(task, id="2"))
    live.in_store(replace(completed, id="2"))
    assert [told(entry.event) for entry in reader.take()] == ["COMPLETED(1)"]


async def test_a_task_that_is_given_up_before_it_starts_is_told(backend: MemoryBackend) -> None:
    async with running(make_tasks(), backend, consume=False) as front:
        handle = await front.submit("endless", None, max_attempts=1)
        await claim_and_die(backend)
    async with running(make_tasks(), backend) as engine:
        stream = engine.events()
        with trio.move_on_after(1):
            await anext(stream)
        event = await anext(stream)
        assert isinstance(event, StateEvent)
        assert (event.task_id, event.status) == (handle.id, TaskStatus.FAILED)


@pytest.mark.parametrize(
    ("seconds", "told_of"), [(1, ["PENDING(0)", "PROCESSING(1)"]), (60, ["PROCESSING(1)"])]
)
async def test_a_task_that_is_claimed_before_its_submission_is_told(
    autojump_clock: MockClock, seconds: float, told_of: list[str]
) -> None:
    """By a worker that is quicker than the one that submits has come to say it."""
    clock = TrioClock()
    live = LiveEvents(MemoryBackend(clock=clock), clock)
    reader = Reader(None, lambda _: True)
    live.add_reader(reader, None)
    now = clock.now()
    task = Task(id="1", type="t", payload=1, created_at=now, updated_at=now)
    await trio.sleep(seconds)
    live.changed(replace(task, attempt=1, status=TaskStatus.PROCESSING))
    live.changed(task)
    assert [told(entry.event) for entry in reader.take()] == told_of
