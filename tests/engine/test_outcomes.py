"""What attempts come to: results, retries, snoozes, discards, timeouts, the last attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
import trio

from task_queue_engine import (
    Backoff,
    Discard,
    ResultTimeout,
    Retry,
    Snooze,
    Task,
    TaskFailed,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.backends.memory import MemoryBackend
from tests.engine.engines import EVERY_SECOND, MAX_DELAY, Runs, depth, ended, running, until


async def test_an_attempt_that_raises_is_followed_by_another(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    runs = Runs()

    @tasks.task("flaky", max_attempts=3, backoff=EVERY_SECOND)
    async def flaky(payload: Any, context: Any) -> int:
        runs(context)
        if context.attempt < 3:
            raise ConnectionError(f"attempt {context.attempt}")
        return context.retry_count

    async with running(tasks, backend) as engine:
        handle = await engine.submit(flaky)
        assert await handle.result(timeout=60) == 2
        task = await handle.task()
    assert runs.attempts == [1, 2, 3]
    assert (task.status, task.attempt, task.retry_count) == (TaskStatus.COMPLETED, 3, 2)
    assert task.error is None
    assert [later - earlier for earlier, later in zip(runs.at, runs.at[1:], strict=False)] == [
        pytest.approx(1, abs=0.01)
    ] * 2


async def test_between_attempts_it_is_pending_with_the_error_of_the_last(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("fails", backoff=Backoff(base=100, jitter=False))
    async def fails(payload: Any) -> None:
        raise ValueError("no such address")

    async with running(tasks, backend) as engine:
        handle = await engine.submit(fails)
        await trio.sleep(50)
        task = await handle.task()
    assert (task.status, task.retry_count) == (TaskStatus.PENDING, 1)
    assert task.run_at is not None
    assert task.run_at - task.updated_at == timedelta(seconds=100)
    assert task.error is not None
    assert (task.error.type, task.error.message) == ("ValueError", "no such address")
    assert task.error.traceback is not None


async def test_after_the_last_attempt_it_is_failed_and_dead_lettered_with_the_reason(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    runs = Runs()

    @tasks.task("fails", max_attempts=3, backoff=EVERY_SECOND)
    async def fails(payload: Any, context: Any) -> None:
        runs(context)
        raise ValueError("no such address")

    async with running(tasks, backend) as engine:
        handle = await engine.submit(fails)
        with pytest.raises(TaskFailed, match="no such address"):
            await handle.result(timeout=60)
        task = await handle.task()
        assert (task.status, task.retry_count) == (TaskStatus.FAILED, 3)
        assert task.finished_at is not None
        await trio.sleep(1)
        (dead_letter,) = (await engine.list_dead()).dead_letters
        assert dead_letter.task_id == handle.id
        assert dead_letter.task_type == "fails"
        assert dead_letter.reason == "attempts exhausted (3 of 3)"
        assert dead_letter.attempts == 3
        assert dead_letter.error == task.error
        assert dead_letter.at >= task.finished_at
    assert len(runs) == 3
    assert (await depth(backend)).waiting == 0


async def test_a_submission_may_ask_for_its_own_number_of_attempts(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    runs = Runs()

    @tasks.task("fails", max_attempts=3, backoff=EVERY_SECOND)
    async def fails(payload: Any, context: Any) -> None:
        runs(context)
        raise ValueError

    async with running(tasks, backend) as engine:
        await ended(engine, (await engine.submit(fails, max_attempts=5)).id)
        assert len(runs) == 5
        await ended(engine, (await engine.submit(fails, max_attempts=1)).id)
        assert len(runs) == 6


@pytest.mark.parametrize("delay", [0, 30, MAX_DELAY, MAX_DELAY + 1, 300])
@pytest.mark.usefixtures("short_delays")
@pytest.mark.parametrize(("asks", "cost"), [(Retry, 1), (Snooze, 0)])
async def test_a_handler_says_when_to_come_back(
    tasks: TaskRegistry, backend: MemoryBackend, asks: Any, cost: int, delay: float
) -> None:
    runs = Runs()

    @tasks.task("later")
    async def later(payload: Any, context: Any) -> str:
        runs(context)
        if context.attempt == 1:
            raise asks(delay)
        return "now"

    async with running(tasks, backend) as engine:
        handle = await engine.submit(later)
        assert await handle.result() == "now"
        task = await handle.task()
    assert task.retry_count == cost
    assert runs.at[1] - runs.at[0] >= delay, "never early"
    assert runs.at[1] - runs.at[0] == pytest.approx(delay, abs=0.1)
    assert runs.attempts == [1, 2]
    assert (await depth(backend)).waiting == 0


async def test_a_snooze_costs_no_attempt_however_often(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("patient", max_attempts=1)
    async def patient(payload: Any, context: Any) -> int:
        if context.attempt < 50:
            raise Snooze(10)
        return context.retry_count

    async with running(tasks, backend) as engine:
        assert await (await engine.submit(patient)).result() == 0


async def test_a_discard_fails_at_once(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    runs = Runs()

    @tasks.task("hopeless", max_attempts=10)
    async def hopeless(payload: Any, context: Any) -> None:
        runs(context)
        raise Discard("the account is closed")

    async with running(tasks, backend) as engine:
        task = await ended(engine, (await engine.submit(hopeless)).id)
        await trio.sleep(1)
        (dead_letter,) = (await engine.list_dead()).dead_letters
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.message == "the account is closed"
    assert dead_letter.reason == "discarded by its handler"
    assert len(runs) == 1


async def test_errors_follow_rules_of_their_own(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    runs = Runs()
    errors = iter([TimeoutError("slow"), ConnectionError("reset"), PermissionError("no")])

    @tasks.task(
        "ruled",
        max_attempts=10,
        backoff=EVERY_SECOND,
        on_error={
            OSError: Backoff(base=10, factor=1, jitter=False),
            ConnectionError: Backoff(base=70, factor=1, jitter=False),
            PermissionError: None,
        },
    )
    async def ruled(payload: Any, context: Any) -> None:
        runs(context)
        raise next(errors)

    async with running(tasks, backend) as engine:
        task = await ended(engine, (await engine.submit(ruled)).id)
    assert task.status is TaskStatus.FAILED
    assert [round(at - runs.at[0]) for at in runs.at] == [0, 10, 80]


async def test_an_attempt_that_takes_too_long_is_stopped_and_tried_again(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    runs = Runs()

    @tasks.task("slow", timeout=20, max_attempts=2, backoff=EVERY_SECOND)
    async def slow(payload: Any, context: Any) -> None:
        runs(context)
        assert context.deadline - backend.clock.now() == timedelta(seconds=20)
        await trio.sleep_forever()

    async with running(tasks, backend) as engine:
        task = await ended(engine, (await engine.submit(slow)).id)
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.type.endswith("AttemptTimedOut")
    assert task.error.message == "the handler did not return within 20 s"
    assert runs.at[1] - runs.at[0] == pytest.approx(21, abs=0.1)


async def test_a_submission_may_ask_for_its_own_timeout(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("slow", timeout=20, max_attempts=1)
    async def slow(payload: Any) -> str:
        await trio.sleep(50)
        return "done"

    async with running(tasks, backend) as engine:
        assert await (await engine.submit(slow, timeout=timedelta(minutes=1))).result() == "done"
        with pytest.raises(TaskFailed):
            await (await engine.submit(slow)).result()


@pytest.mark.parametrize(
    ("result", "said"),
    [(object(), "result"), ({"a": float("nan")}, "result.a"), ("x" * 5000, "TQE_MAX_RESULT_BYTES")],
    ids=["no JSON", "NaN", "too large"],
)
async def test_a_result_that_cannot_be_stored_is_a_failed_attempt_that_says_so(
    tasks: TaskRegistry, backend: MemoryBackend, result: Any, said: str
) -> None:
    @tasks.task("bad", max_attempts=1)
    async def bad(payload: Any) -> Any:
        return result

    async with running(tasks, backend, max_result_bytes=4096) as engine:
        task = await ended(engine, (await engine.submit(bad)).id)
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.type.endswith("ResultNotStorable")
    assert said in task.error.message


async def test_progress_is_seen_while_the_task_runs(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("long")
    async def long(payload: Any, context: Any) -> str:
        for percent in range(0, 100, 10):
            await context.progress({"percent": percent})
            await trio.sleep(10)
        return "done"

    async with running(tasks, backend) as engine:
        handle = await engine.submit(long)
        await trio.sleep(35)
        task = await handle.task()
        assert task.status is TaskStatus.PROCESSING
        assert task.progress == {"percent": 30}
        assert await handle.result() == "done"
        assert (await handle.task()).progress == {"percent": 90}


@pytest.fixture
def older(tasks: TaskRegistry) -> TaskRegistry:
    """What the process before the deployment knew: not the type "new", and of "changed" that its
    payload is a number."""

    @tasks.task("new", max_attempts=1)
    async def new(payload: Any) -> str:
        return "done"

    @tasks.task("changed", max_attempts=1)
    async def changed(payload: int | str) -> str:
        return "done"

    older = TaskRegistry()

    @older.task("changed")
    async def changed_before(payload: int) -> str:
        return "by the older one"

    return older


@pytest.mark.parametrize("task_type", ["new", "changed"])
async def test_what_this_worker_cannot_run_is_left_for_one_that_can_at_no_cost(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend, task_type: str
) -> None:
    async with running(tasks, backend, consume=False) as submitting:
        handle = await submitting.submit(task_type, "text")
        async with running(older, backend) as old:
            await until(lambda: old.statistics()["acker"]["released"] == 6, look_every=1)
            task = await handle.task()
            assert (task.status, task.attempt, task.retry_count) == (TaskStatus.PENDING, 0, 0)
            assert backend.faults.calls["claim"] == 0, "it is not even claimed"
            # It is fit to serve all the same, and says what it cannot.
            ready = await old.ready()
            assert (ready.ready, ready.reasons) == (True, ())
            assert repr(task_type) in ready.notes[0]
            assert (await old.metrics()).given_back_by_type == {task_type: 6}
            assert await old.submit("changed", 1)
        async with running(tasks, backend):
            assert await handle.result(timeout=600) == "done"
            assert (await handle.task()).attempt == 1


async def test_workers_of_two_kinds_share_a_queue(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine, running(older, backend):
        handles = [await engine.submit("new", number) for number in range(50)]
        for handle in handles:
            assert await handle.result(timeout=3600) == "done"
            assert (await handle.task()).attempt == 1


async def test_it_comes_back_less_and_less_often(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend
) -> None:
    async with (
        running(tasks, backend, consume=False) as submitting,
        running(older, backend) as old,
    ):
        await submitting.submit("new", 1)
        await trio.sleep(3600)
        first_hour = old.statistics()["poller"]["received"]
        await trio.sleep(3600)
        second_hour = old.statistics()["poller"]["received"] - first_hour
        assert first_hour < 45
        assert 3600 / 300 <= second_hour <= 3600 / 150


async def test_what_the_wrong_worker_took_time_and_again_does_not_wait_for_as_long_once_more(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as submitting:
        handles = [await submitting.submit("new", number) for number in range(50)]
        async with running(older, backend):
            await trio.sleep(120)
        async with running(tasks, backend):
            for handle in handles:
                assert await handle.result(timeout=60) == "done"


@pytest.mark.parametrize("task_type", ["new", "changed"])
async def test_what_no_worker_can_run_fails_in_the_end_with_the_reason(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend, task_type: str
) -> None:
    async with running(tasks, backend, consume=False) as submitting:
        handle = await submitting.submit(task_type, "text", delay=800)
        async with running(older, backend, unknown_type_after=1200):
            await trio.sleep(800 + 1200)
            assert await handle.status() is TaskStatus.PENDING
            await trio.sleep(400)
        task = await handle.task()
        (dead_letter,) = (await submitting.list_dead()).dead_letters
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    said = {"new": "unknown task type 'new'", "changed": "payload: "}
    assert said[task_type] in task.error.message
    assert dead_letter.reason.startswith("no worker has been able to run it for 1")


async def test_age_alone_does_not_fail_what_is_unknown_here(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend
) -> None:
    """After a time without workers the first one to look may not be the one that knows it."""
    async with running(tasks, backend, consume=False) as submitting:
        handle = await submitting.submit("new", 1)
        await trio.sleep(60)
        async with running(older, backend, unknown_type_after=60):
            await trio.sleep(60)
        async with running(tasks, backend):
            assert await handle.result(timeout=600) == "done"


async def test_what_this_worker_cannot_run_can_be_cancelled(
    tasks: TaskRegistry, older: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as submitting:
        handle = await submitting.submit("new", 1)
        async with running(older, backend):
            await trio.sleep(60)
            assert (await handle.cancel()).status is TaskStatus.CANCELLED
            await trio.sleep(600)
            assert (await backend.queue("default").depth()).waiting == 0


async def test_a_renamed_type_runs_what_is_stored_under_its_old_name(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    renamed = TaskRegistry()

    @tasks.task("mail")
    async def mail(payload: str) -> str:
        return "by the old one"

    @renamed.task("send-email", aliases=["mail"])
    async def send_email(payload: str) -> str:
        return f"sent to {payload}"

    async with running(tasks, backend, consume=False) as before:
        stored = await before.submit("mail", "Ada", idempotency_key="once")
        async with running(renamed, backend) as after:
            assert await stored.result(timeout=60) == "sent to Ada"
            by_alias = await after.submit("mail", "Bob")
            assert await by_alias.result(timeout=60) == "sent to Bob"
            assert (await by_alias.task()).type == "send-email"
            again = await after.submit("send-email", "Ada", idempotency_key="once")
            assert again.id == stored.id


class Checked(msgspec.Struct):
    """Its check may break, as it is told."""

    name: str

    def __post_init__(self) -> None:
        if self.name == "refused":
            raise ValueError("no such name")
        if self.name == "defect":
            raise KeyError("a defect of the check")
        if self.name == "exit":
            raise SystemExit(3)


async def test_a_payload_check_that_breaks_is_a_failed_attempt_and_nothing_else(
    backend: MemoryBackend,
) -> None:
    tasks, loose = TaskRegistry(), TaskRegistry()
    got: list[Any] = []

    @tasks.task("t", max_attempts=1)
    async def t(payload: Checked) -> None:
        got.append(payload)

    @loose.task("t", max_attempts=1)
    async def anything(payload: Any) -> None: ...

    async with running(loose, backend, consume=False) as submitting, running(tasks, backend):
        broken = [await submitting.submit("t", {"name": name}) for name in ("defect", "exit")]
        good = await submitting.submit("t", {"name": "Ada"})
        await good.result(timeout=60)
        assert got == [Checked("Ada")]
        for handle in broken:
            with pytest.raises(TaskFailed):
                await handle.result(timeout=60)
        refused = await submitting.submit("t", {"name": "refused"})
        await trio.sleep(60)
        assert (await refused.task()).attempt == 0


async def test_many_tasks_share_the_workers_and_none_is_run_twice(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    at_once = 0
    most = 0
    runs = Runs()

    @tasks.task("work")
    async def work(n: int, context: Any) -> int:
        nonlocal at_once, most
        runs(context)
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1 + n % 3)
        at_once -= 1
        return n

    async with running(tasks, backend, worker_count=7) as engine:
        handles = [await engine.submit(work, n) for n in range(100)]
        assert [await handle.result(timeout=600) for handle in handles] == list(range(100))
        assert (await engine.metrics()).counts.completed == 100
    assert most == 7
    assert len(set(runs.starts)) == len(runs) == 100


async def test_waiting_for_a_result_has_an_end_that_the_task_does_not_notice(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("slow")
    async def slow(payload: Any) -> str:
        await trio.sleep(60)
        return "done"

    async with running(tasks, backend) as engine:
        handle = await engine.submit(slow)
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=10)
        task: Task = await engine.wait(handle.id, timeout=10)
        assert task.status is TaskStatus.PROCESSING
        assert await handle.result() == "done"
