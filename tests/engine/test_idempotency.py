"""Submitting twice under one key makes one task."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine import InvalidTask, TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.errors import (
    BackendUnavailable,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
)
from task_queue_engine.task import task_id_for_key
from tests.engine.engines import Runs, ended, running


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def pay(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("pay")
    async def pay(payload: Any, context: Any) -> str:
        runs(context)
        await trio.sleep(5)
        return "paid"

    @tasks.task("refund")
    async def refund(payload: Any) -> None: ...

    return pay


async def test_the_same_submission_gives_the_same_task(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, pay: Any
) -> None:
    async with running(tasks, backend) as engine:
        first = await engine.submit(pay, {"to": "Ada", "amount": 1}, idempotency_key="k")
        again = await engine.submit(pay, {"amount": 1, "to": "Ada"}, idempotency_key="k")
        assert (first.created, again.created) == (True, False)
        assert again.id == first.id
        assert await again.result() == "paid"
        after = await engine.submit(pay, {"to": "Ada", "amount": 1}, idempotency_key="k")
        assert await after.status() is TaskStatus.COMPLETED
        await trio.sleep(600)
        assert (await engine.metrics()).counts.total == 1
    assert len(runs) == 1


async def test_a_key_that_is_not_unicode_is_refused(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(InvalidTask, match=r"idempotency_key: .*surrogate"):
            await engine.submit("pay", idempotency_key="\udcff")


async def test_another_engine_knows_the_key_too(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, pay: Any
) -> None:
    async with running(tasks, backend) as one, running(tasks, backend) as other:
        first = await one.submit(pay, 1, idempotency_key="k")
        assert (await other.submit(pay, 1, idempotency_key="k")).id == first.id
        await ended(other, first.id)
    async with running(tasks, backend) as later:
        assert not (await later.submit(pay, 1, idempotency_key="k")).created
    assert len(runs) == 1


@pytest.mark.parametrize(("task", "payload"), [("pay", 2), ("refund", 1), ("pay", True)])
async def test_a_key_reused_for_something_else_is_refused(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any, task: str, payload: Any
) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit(pay, 1, idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused) as caught:
            await engine.submit(task, payload, idempotency_key="k")
        assert caught.value.task_id == handle.id
        assert await handle.result() == "paid"


async def test_a_key_belongs_to_one_queue(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any
) -> None:
    async with (
        running(tasks, backend) as here,
        running(tasks, backend, queue="elsewhere") as elsewhere,
    ):
        handle = await here.submit(pay, 1, idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused, match="queue") as caught:
            await elsewhere.submit(pay, 1, idempotency_key="k")
        assert caught.value.task_id == handle.id
        assert (await here.metrics()).counts.total == 1


@pytest.mark.parametrize("other", [{"max_attempts": 5}, {"timeout": 7}, {"timeout": 7.5}])
async def test_options_that_are_given_have_to_be_those_of_the_first_time(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any, other: Any
) -> None:
    async with running(tasks, backend) as engine:
        first = await engine.submit(pay, 1, idempotency_key="k", max_attempts=2, timeout=60)
        again = await engine.submit(pay, 1, idempotency_key="k", max_attempts=2, timeout=60.0)
        assert again.id == first.id
        # Left out they are no claim: the defaults may have changed since.
        assert (await engine.submit(pay, 1, idempotency_key="k")).id == first.id
        with pytest.raises(IdempotencyKeyReused):
            await engine.submit(pay, 1, idempotency_key="k", **other)
        await first.result()
        assert (await engine.submit(pay, 1, idempotency_key="k", max_attempts=2)).id == first.id


async def test_when_it_is_to_run_may_be_counted_anew(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any
) -> None:
    async with running(tasks, backend) as engine:
        first = await engine.submit(pay, 1, idempotency_key="k", delay=60)
        run_at = (await first.task()).run_at
        again = await engine.submit(pay, 1, idempotency_key="k", delay=30)
        assert again.id == first.id
        assert (await again.task()).run_at == run_at


def test_ids_of_keys_never_change() -> None:
    """Those that are stored were made by every version there was."""
    assert task_id_for_key("order-4711") == "50c354de-cd2e-58d1-a0b9-6660a230db2a"


async def test_a_key_still_in_flight_is_told_so(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any
) -> None:
    async with running(tasks, backend) as engine, trio.open_nursery() as nursery:
        with backend.faults.block("create") as gate:

            async def submit() -> None:
                await engine.submit(pay, 1, idempotency_key="k")

            nursery.start_soon(submit)
            await gate.arrived.wait()
            with pytest.raises(IdempotencyKeyInFlight):
                await engine.submit(pay, 1, idempotency_key="k")
            await engine_takes_other_keys(engine, pay, gate)
        await trio.sleep(1)
        assert not (await engine.submit(pay, 1, idempotency_key="k")).created


async def engine_takes_other_keys(engine: Any, pay: Any, gate: Any) -> None:
    async with trio.open_nursery() as nursery:

        async def submit() -> None:
            assert (await engine.submit(pay, 1, idempotency_key="other")).created

        nursery.start_soon(submit)
        await trio.sleep(1)
        gate.open()


async def test_the_key_of_a_failed_submission_may_be_used_again(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any
) -> None:
    async with running(tasks, backend) as engine:
        backend.faults.unavailable("create")
        with pytest.raises(BackendUnavailable):
            await engine.submit(pay, 1, idempotency_key="k")
        backend.faults.try_again("create")
        with pytest.raises(BackendUnavailable):
            await engine.submit(pay, 1, idempotency_key="k")
        assert (await engine.submit(pay, 1, idempotency_key="k")).created


@pytest.mark.parametrize("key", ["", "  ", "x" * 256])
async def test_a_key_that_is_none_is_refused(
    tasks: TaskRegistry, backend: MemoryBackend, pay: Any, key: str
) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(InvalidTask) as caught:
            await engine.submit(pay, 1, idempotency_key=key)
        assert caught.value.field == "idempotency_key"


async def test_without_keys_equal_submissions_are_different_tasks(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, pay: Any
) -> None:
    async with running(tasks, backend) as engine:
        handles = [await engine.submit(pay, 1) for _ in range(3)]
        for handle in handles:
            await handle.result()
    assert len(runs) == len({handle.id for handle in handles}) == 3
