"""What a worker can run is seen before the claim, and no check of a payload holds others up."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import Task, TaskError, TaskRegistry
from task_queue_engine.actors import type_check
from task_queue_engine.actors.type_check import TypeCheck
from task_queue_engine.backends.base import Delivery
from task_queue_engine.clock import SystemClock
from task_queue_engine.execution.checks import PayloadChecks

# In real time, since threads run.


class Blocking:
    """Whether checks of payloads block."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.threads: list[threading.Thread] = []


blocking = Blocking()


class Payload(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        blocking.threads.append(threading.current_thread())
        if self.name == "blocks":
            blocking.let_go.wait(60)
        if self.name == "exits":
            raise SystemExit(3)


@pytest.fixture(autouse=True)
def checks() -> Iterator[None]:
    blocking.__init__()  # type: ignore[misc]  # a fresh one for each test
    yield
    blocking.let_go.set()


@pytest.fixture
def tasks() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("sync")
    def sync(payload: Payload) -> None: ...

    @tasks.task("other")
    def other(payload: Payload) -> None: ...

    @tasks.task("async")
    async def asynchronous(payload: Payload) -> None: ...

    @tasks.task("anything")
    def anything(payload: Any) -> None: ...

    return tasks


@pytest.fixture
def check(tasks: TaskRegistry) -> TypeCheck:
    return TypeCheck(
        registry=tasks,
        checks=PayloadChecks(),
        clock=SystemClock(),
        rng=random.Random(1),
        fail_after=86_400,
    )


def delivery(task_type: str, payload: Any) -> Delivery:
    return Delivery(
        task_id="1",
        message_id="m",
        receipt="r",
        receive_count=1,
        task_type=task_type,
        payload_json=msgspec.json.encode(payload),
    )


async def test_a_def_handlers_payload_is_checked_in_a_thread(check: TypeCheck) -> None:
    """Where it runs its validators may block, and so they may here."""
    (good, refused, exits, unread) = await check.check(
        [
            delivery("sync", {"name": "Ada"}),
            delivery("sync", {"name": 1}),
            delivery("sync", {"name": "exits"}),
            delivery("anything", {"name": "Ada"}),
        ]
    )
    assert threading.main_thread() not in blocking.threads
    assert (good.payload, good.refusal) == (Payload("Ada"), None)
    assert refused.refusal is not None
    assert "payload.name" in refused.refusal.message
    assert (exits.payload, exits.refusal) == (msgspec.UNSET, None), "the attempt runs into it"
    assert (unread.payload, unread.data) == (msgspec.UNSET, msgspec.UNSET)


async def test_an_async_handlers_small_payload_is_checked_on_the_loop_and_a_large_one_is_not(
    check: TypeCheck,
) -> None:
    for name, on_loop in (("Ada", True), ("A" * 5000, False)):
        blocking.threads.clear()
        (checked,) = await check.check([delivery("async", {"name": name})])
        assert (blocking.threads == [threading.main_thread()]) is on_loop
        assert checked.payload == Payload(name)


async def test_a_check_that_does_not_come_back_holds_up_no_other_type(
    check: TypeCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds: all of it is waited for, and those of the other type are through within it.
    monkeypatch.setattr(type_check, "_IN_THREAD_FOR", 2.0)
    batch = [
        delivery("other", {"name": "Ada"}),
        delivery("sync", {"name": "blocks"}),
        delivery("other", {"name": "Bob"}),
    ]
    with trio.fail_after(30):
        before, blocked, after = await check.check(batch)
    assert before.payload == Payload("Ada")
    assert (blocked.payload, blocked.refusal) == (msgspec.UNSET, None)
    assert after.payload == Payload("Bob")
    # From then on it is left to the attempt, which has a timeout.
    monkeypatch.setattr(type_check, "_IN_THREAD_FOR", 60)
    with trio.fail_after(30):
        _, blocked, after = await check.check(batch)
    assert blocked.payload is msgspec.UNSET
    assert after.payload == Payload("Bob")


async def test_what_was_refused_is_claimed_unseen_again_after_a_while(
    check: TypeCheck, autojump_clock: MockClock
) -> None:
    """One payload that did not fit must not slow its type down for as long as the process lasts."""
    assert {"sync", "async"} <= check.claimable.keys()
    now = SystemClock().now()
    task = Task(id="1", type="async", payload={}, created_at=now, updated_at=now)
    check.give_back(task, TaskError(type="E", message="it does not fit"))
    assert "async" not in check.claimable
    assert "sync" in check.claimable
    await trio.sleep(601)
    assert "async" in check.claimable
