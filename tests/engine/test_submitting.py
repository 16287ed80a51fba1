"""A task that was accepted is stored and sent, whatever happens to its submitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine import (
    Accepted,
    Engine,
    InvalidTask,
    Refused,
    Submission,
    TaskQueueError,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.actors.submitter import _UNDER_WAY
from task_queue_engine.backends.base import ListQuery, QueueDepth
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.errors import (
    BackendUnavailable,
    EngineNotRunning,
    MessageRefused,
    PayloadTooLarge,
    UnknownTaskType,
)
from tests.engine.engines import depth, ended, row, running, settings, until

ALL = ListQuery(limit=1000)


def test_a_submission_takes_what_submit_takes() -> None:
    assert Submission("email", {"to": "x"}, delay=5) == Submission(
        task="email", payload={"to": "x"}, delay=5
    )
    assert Submission("email").payload is None


@dataclass
class Receipt:
    number: int


@dataclass
class Mail:
    to: list[str]


@pytest.fixture(autouse=True)
def echo(tasks: TaskRegistry) -> Any:
    @tasks.task("echo")
    async def echo(payload: Any) -> Any:
        return payload

    return echo


async def test_a_submitted_task_runs_and_its_result_can_be_awaited(
    tasks: TaskRegistry, backend: MemoryBackend, echo: Any
) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit(echo, {"to": ["Ada", None, 1.5]})
        assert await handle.result(timeout=10) == {"to": ["Ada", None, 1.5]}
        task = await handle.task()
    assert task.status is TaskStatus.COMPLETED
    assert task.result == {"to": ["Ada", None, 1.5]}
    assert (task.attempt, task.retry_count) == (1, 0)
    assert task.created_at <= task.started_at <= task.finished_at
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=0)


async def test_by_type_name_as_by_function(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit("echo", 1)
        assert await handle.result(timeout=10) == 1
        assert handle.created


async def test_the_result_comes_as_the_annotated_type(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("buy")
    async def buy(amount: int) -> Receipt:
        return Receipt(amount)

    async with running(tasks, backend) as engine:
        handle = await engine.submit(buy, 3)
        assert await handle.result(timeout=10) == Receipt(3)


async def test_a_task_is_stored_before_its_message_is_sent(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine, trio.open_nursery() as nursery:
        with backend.faults.block("send") as gate:
            nursery.start_soon(engine.submit, "echo", 1)
            await gate.arrived.wait()
            (task,) = (await engine.list_tasks(ALL)).tasks
            assert task.status is TaskStatus.PENDING
            assert (await depth(backend)).waiting == 0


async def test_many_at_once_are_answered_in_their_order_and_a_bad_one_fails_alone(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    submissions = [
        Submission(task="echo", payload=0),
        Submission(task="unheard-of", payload=1),
        Submission(task="echo", payload=2, delay=-1),
        Submission(task="echo", payload=float("nan")),
        Submission(task="echo", payload=4),
    ]
    async with running(tasks, backend) as engine:
        verdicts = await engine.submit_many(submissions)
        assert [type(verdict) for verdict in verdicts] == [
            Accepted,
            Refused,
            Refused,
            Refused,
            Accepted,
        ]
        assert [v.error.field for v in verdicts if isinstance(v, Refused)] == [
            "type",
            "delay_seconds",
            "payload",
        ]
        for index in (0, 4):
            assert (await ended(engine, verdicts[index].task.id)).result == index
        assert (await engine.metrics()).counts.total == 2


async def test_more_than_the_store_takes_at_once(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    number = backend.store.max_batch * 3 + 7
    async with running(tasks, backend) as engine:
        verdicts = await engine.submit_many(
            [Submission(task="echo", payload=n) for n in range(number)]
        )
        assert [verdict.task.payload for verdict in verdicts] == list(range(number))
        assert (await engine.submit_many([])) == []
        for verdict in verdicts:
            await ended(engine, verdict.task.id)


async def test_one_item_the_store_could_not_take_fails_alone(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        backend.faults.try_again("create", items=1)
        verdicts = await engine.submit_many([Submission(task="echo", payload=n) for n in range(3)])
        assert isinstance(verdicts[0], Refused)
        assert isinstance(verdicts[0].error, BackendUnavailable)
        assert all(isinstance(verdict, Accepted) for verdict in verdicts[1:])


async def test_a_task_whose_message_the_queue_refuses_is_told_and_fails(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Not 201, and then PENDING for ever."""
    async with running(tasks, backend) as engine:
        backend.faults.reject("send")
        bad, good = await engine.submit_many([Submission(task="echo", payload=1)] * 2)
        assert isinstance(bad, Refused)
        assert isinstance(bad.error, MessageRefused)
        assert bad.error.reason == "refused by a test"
        task = await engine.get(bad.error.task_id)
        assert task.status is TaskStatus.FAILED
        assert task.error is not None
        assert task.error.message == "refused by a test"
        assert isinstance(good, Accepted)
        assert (await ended(engine, good.task.id)).status is TaskStatus.COMPLETED
        await engine.retry(task.id)
        assert (await ended(engine, task.id)).status is TaskStatus.COMPLETED


async def test_a_payload_over_the_backends_limit_is_refused_and_not_stored(
    tasks: TaskRegistry, autojump_clock: Any
) -> None:
    backend = MemoryBackend(clock=TrioClock(), max_item_bytes=100)
    async with running(tasks, backend) as engine:
        with pytest.raises(PayloadTooLarge):
            await engine.submit("echo", "x" * 200)
        assert (await engine.metrics()).counts.total == 0


@pytest.mark.parametrize(
    ("submission", "field"),
    [
        ({"task": "unheard-of"}, "type"),
        ({"payload": {"a": [float("inf")]}}, "payload.a[0]"),
        ({"payload": "\ud800"}, "payload"),
        ({"payload": "a\x00b"}, "payload"),
        ({"payload": object()}, "payload"),
        ({"payload": 10**5000}, "payload"),
        ({"payload": "x" * 300_000}, "payload"),
        ({"delay": -1}, "delay_seconds"),
        ({"delay": float("nan")}, "delay_seconds"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"timeout": 0}, "timeout_seconds"),
        ({"idempotency_key": " "}, "idempotency_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_what_is_refused_names_its_field_and_leaves_nothing_behind(
    tasks: TaskRegistry, backend: MemoryBackend, submission: dict[str, Any], field: str
) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(InvalidTask) as caught:
            await engine.submit(**({"task": "echo", "payload": 1} | submission))
        assert caught.value.field == field
        assert (await engine.metrics()).counts.total == 0
        assert (await depth(backend)).waiting == 0


async def test_an_unknown_type_says_which_are_known(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(UnknownTaskType, match="registered: echo"):
            await engine.submit("ecco")


async def test_a_payload_that_fails_its_annotation_is_refused_by_member(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("mail")
    async def mail(payload: Mail) -> None: ...

    async with running(tasks, backend) as engine:
        with pytest.raises(InvalidTask) as caught:
            await engine.submit(mail, {"to": ["a@example.com", 5]})
        assert caught.value.field.startswith("payload.to[")
        await (await engine.submit(mail, Mail(["a@example.com"]))).result(timeout=5)


async def test_what_the_caller_does_to_its_payload_later_does_not_reach_the_task(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        payload = {"items": [1]}
        handle = await engine.submit("echo", payload, delay=5)
        payload["items"].append(2)
        assert await handle.result(timeout=60) == {"items": [1]}


# --- the submitter goes away, the task does not ---------------------------------------------


@pytest.mark.parametrize("operation", ["create", "send"])
async def test_a_caller_cancelled_while_it_waits_does_not_take_the_task_with_it(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    async with running(tasks, backend) as engine:
        with trio.CancelScope() as caller, backend.faults.block(operation) as gate:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.submit, "echo", "still here")
                await gate.arrived.wait()
                caller.cancel()
        await until(lambda: engine.statistics()["submitter"]["submitted"] == 1)
        (task,) = (await engine.list_tasks(ALL)).tasks
        assert (await ended(engine, task.id)).result == "still here"


async def test_a_caller_cancelled_before_its_submission_was_taken_leaves_no_task(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.block("create") as gate:
            async with trio.open_nursery() as nursery:
                # All batches under way that can be, all places behind them taken, more waiting
                # for a place.
                earlier = (_UNDER_WAY + 2) * backend.store.max_batch
                for n in range(earlier):
                    nursery.start_soon(engine.submit, "echo", n)
                await gate.arrived.wait()
                await trio.testing.wait_all_tasks_blocked()
                with trio.move_on_after(1) as scope:
                    await engine.submit("echo", "too late")
                assert scope.cancelled_caught
                gate.open()
        stored = (await engine.list_tasks(ALL)).tasks
        assert len(stored) == earlier
        assert all(task.payload != "too late" for task in stored)


async def test_while_the_store_is_down_nothing_is_accepted_and_nothing_stored(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        backend.faults.unavailable("create")
        with pytest.raises(BackendUnavailable):
            await engine.submit("echo", 1)
        assert (await engine.metrics()).counts.total == 0
        await (await engine.submit("echo", 1)).result(timeout=5)


async def test_a_task_stored_while_the_queue_is_down_is_accepted_and_runs_when_it_is_back(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.outage("send"):
            handle = await engine.submit("echo", "saved")
            await trio.sleep(600)
            assert await handle.status() is TaskStatus.PENDING
        assert await handle.result(timeout=60) == "saved"


async def test_submitting_stays_quick_while_the_queue_is_down(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.outage("send"):
            for n in range(20):
                with trio.fail_after(2):
                    await engine.submit("echo", n)


async def test_messages_that_fail_one_by_one_are_sent_again(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        backend.faults.try_again("send", items=4)
        verdicts = await engine.submit_many([Submission(task="echo", payload=n) for n in range(3)])
        for verdict in verdicts:
            await ended(engine, verdict.task.id, timeout=60)


@pytest.mark.parametrize("operation", ["create", "send"])
async def test_an_answer_that_got_lost_makes_no_second_task(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    async with running(tasks, backend) as engine:
        backend.faults.lose_answer(operation)
        try:
            await engine.submit("echo", 1, idempotency_key="one")
        except BackendUnavailable:
            await engine.submit("echo", 1, idempotency_key="one")
        await trio.sleep(600)
        metrics = await engine.metrics()
        assert metrics.counts.total == metrics.counts.completed == 1
        assert metrics.counters["attempts_started"] == 1


async def test_a_task_whose_sender_died_before_sending_is_found_and_sent(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.outage("send", "schedule"):
            handle = await engine.submit("echo", "forgotten")
        assert row(backend, handle.id).due_at is None
        assert (await depth(backend)).waiting == 0
        assert await handle.result(timeout=600) == "forgotten"
        assert (await engine.metrics()).counters["reconciler_resent"] == 1


# --- outside its life -----------------------------------------------------------------------


async def test_an_engine_that_does_not_run_refuses(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit("echo", 1)
        await handle.result(timeout=5)
        await engine.stop()
        calls: list[Any] = [
            lambda: engine.submit("echo", 1),
            lambda: engine.submit_many([Submission(task="echo")]),
            handle.task,
            handle.cancel,
            lambda: handle.result(timeout=1),
            lambda: engine.retry(handle.id),
            lambda: engine.list_tasks(ALL),
            engine.list_dead,
            engine.redrive,
            engine.purge_dead,
            engine.metrics,
        ]
        for call in calls:
            with pytest.raises(EngineNotRunning):
                await call()


async def test_stopping_what_does_not_run_returns_at_once(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    with trio.fail_after(60):
        await Engine(tasks, settings(), backend=backend).stop()
        async with running(tasks, backend) as engine:
            await engine.stop()
            await engine.stop()


async def test_every_error_has_one_root(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(TaskQueueError):
            await engine.submit("unheard-of")
        with pytest.raises(TaskQueueError):
            await engine.get("0")
