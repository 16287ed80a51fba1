"""The way in for submissions: one verdict each, and no key in flight for longer than its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from task_queue_engine import Accepted, Refused, Settings, Submission, TaskRegistry
from task_queue_engine.actors.messages import SubmitRequest
from task_queue_engine.backends.base import AlreadyExists, Created
from task_queue_engine.clock import ManualClock
from task_queue_engine.engine.intake import Intake
from task_queue_engine.engine.submission import TaskBuilder
from task_queue_engine.errors import (
    BackendUnavailable,
    EngineNotRunning,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidTask,
)
from task_queue_engine.execution.checks import PayloadChecks


@dataclass
class Picky:
    """A payload whose own check has a defect."""

    value: int

    def __post_init__(self) -> None:
        raise RAISED[self.value]


RAISED = [ZeroDivisionError, KeyError, SystemExit, GeneratorExit, RecursionError, BaseException]


class Rig:
    def __init__(self, room: float = 100) -> None:
        registry = TaskRegistry()

        @registry.task("t")
        async def t(payload: Any) -> None: ...

        @registry.task("picky")
        async def picky(payload: Picky) -> None: ...

        self.submissions, self.requests = trio.open_memory_channel[SubmitRequest](room)
        builder = TaskBuilder(
            registry=registry, settings=Settings(_env_file=None), clock=ManualClock(), max_delay=900
        )
        self.intake = Intake(
            builder=builder,
            checks=PayloadChecks(),
            submissions=self.submissions,
            request_size=2,
        )

    async def answer(self, result: Callable[[Any], Any] = lambda new: Created()) -> SubmitRequest:
        request = await self.requests.receive()
        request.answer(tuple(result(new) for new in request.tasks))
        return request

    async def submit(self, key: str | None = None, payload: Any = 1, type_name: str = "t") -> Any:
        """The verdict, answered with Created."""
        submission = Submission(task=type_name, payload=payload, idempotency_key=key)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_all)
            (verdict,) = await self.intake.submit([submission])
            nursery.cancel_scope.cancel()
        return verdict

    async def _answer_all(self) -> None:
        while True:
            await self.answer()


async def test_a_key_in_flight_is_told_from_a_key_used(autojump_clock: MockClock) -> None:
    rig = Rig()
    verdicts: list[Any] = []

    async def first() -> None:
        verdicts.extend(await rig.intake.submit([Submission(task="t", idempotency_key="k")]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        (second,) = await rig.intake.submit([Submission(task="t", idempotency_key="k")])
        assert isinstance(second, Refused)
        assert isinstance(second.error, IdempotencyKeyInFlight)
        await rig.answer()
    assert isinstance(verdicts[0], Accepted)
    assert isinstance(await rig.submit("k"), Accepted)


@pytest.mark.parametrize(
    ("existing", "same"),
    [
        ({"a": 1, "b": [1, {"c": None}]}, True),
        ({"a": 1, "b": [1, {"c": 0}]}, False),
        ({"a": True, "b": [1, {"c": None}]}, False),
        ({"a": 1}, False),
    ],
)
async def test_a_key_used_before_replays_only_the_same_payload(
    autojump_clock: MockClock, existing: Any, same: bool
) -> None:
    rig = Rig()

    def replay(new: Any) -> AlreadyExists:
        return AlreadyExists(msgspec.structs.replace(new.task, payload=existing))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.answer, replay)
        submission = Submission(
            task="t", payload={"b": [1, {"c": None}], "a": 1}, idempotency_key="k"
        )
        (verdict,) = await rig.intake.submit([submission])
    if same:
        assert isinstance(verdict, Accepted)
        assert not verdict.created
    else:
        assert isinstance(verdict, Refused)
        assert isinstance(verdict.error, IdempotencyKeyReused)


async def test_a_key_is_free_again_after_a_caller_was_cancelled_waiting_for_its_turn(
    autojump_clock: MockClock,
) -> None:
    rig = Rig(room=0)
    with trio.move_on_after(1):
        await rig.intake.submit([Submission(task="t", idempotency_key="k")])
    assert isinstance(await rig.submit("k"), Accepted)


async def test_a_key_stays_in_flight_after_a_caller_was_cancelled_waiting_for_the_answer(
    autojump_clock: MockClock,
) -> None:
    rig = Rig()
    with trio.move_on_after(1):
        await rig.intake.submit([Submission(task="t", idempotency_key="k")])
    (verdict,) = await rig.intake.submit([Submission(task="t", idempotency_key="k")])
    assert isinstance(verdict.error, IdempotencyKeyInFlight)
    await rig.answer()
    assert isinstance(await rig.submit("k"), Accepted)


@pytest.mark.parametrize("which", range(len(RAISED)))
async def test_a_check_with_a_defect_refuses_its_own_submission_alone(
    autojump_clock: MockClock, which: int
) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.answer)
        before, picky, after = await rig.intake.submit(
            [
                Submission(task="t", idempotency_key="k"),
                Submission(task="picky", payload={"value": which}, idempotency_key="l"),
                Submission(task="t"),
            ]
        )
    assert isinstance(before, Accepted)
    assert isinstance(after, Accepted)
    assert isinstance(picky, Refused)
    assert isinstance(picky.error, InvalidTask)
    assert picky.error.field == "payload"
    assert isinstance(await rig.submit("k"), Accepted)
    assert isinstance(await rig.submit("l"), Accepted)


class Odd(int):
    """A number whose methods raise."""

    def __le__(self, other: object) -> bool:
        raise SystemExit(3)

    __ge__ = __lt__ = __gt__ = __eq__ = __index__ = __int__ = __repr__ = __le__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Nowhere(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise SystemExit(3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": Odd(3)},
        {"max_attempts": 10**5000},
        {"timeout": Odd(3)},
        {"timeout": 10**5000},
        {"delay": Odd(3)},
        {"delay": -(10**5000)},
        {"run_at": datetime(2030, 1, 1, tzinfo=Nowhere())},
        {"run_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))},
        {"run_at": Odd(3)},
        {"task": []},
        {"task": Odd(3)},
        {"task": "\ud800"},
        {"idempotency_key": Odd(3)},
        {"idempotency_key": []},
        {"payload": Odd(3)},
    ],
    ids=lambda wrong: "-".join(wrong),
)
async def test_whatever_a_caller_hands_in_it_is_refused_by_field(
    autojump_clock: MockClock, wrong: dict[str, Any]
) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.answer)
        bad, good = await rig.intake.submit(
            [Submission(**({"task": "t"} | wrong)), Submission(task="t")]
        )
    assert isinstance(good, Accepted)
    if isinstance(bad, Accepted):  # it is a 3 all the same
        assert 3 in (bad.task.payload, bad.task.max_attempts)
        return
    assert isinstance(bad, Refused)
    assert isinstance(bad.error, InvalidTask)
    names = {"task": "type", "delay": "delay_seconds", "timeout": "timeout_seconds"}
    (name,) = wrong
    assert bad.error.field in (names.get(name, name), "submission")


async def test_the_same_key_twice_in_one_batch(autojump_clock: MockClock) -> None:
    rig = Rig()
    same = Submission(task="t", idempotency_key="k")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.answer)
        first, second = await rig.intake.submit([same, same])
    assert isinstance(first, Accepted)
    assert isinstance(second, Refused)
    assert isinstance(second.error, IdempotencyKeyInFlight)
    assert isinstance(await rig.submit("k"), Accepted)


async def test_after_the_channel_is_closed_nothing_is_taken_and_no_key_kept(
    autojump_clock: MockClock,
) -> None:
    rig = Rig()
    rig.submissions.close()
    with pytest.raises(EngineNotRunning):
        await rig.intake.submit([Submission(task="t", idempotency_key="k")])
    with pytest.raises(EngineNotRunning):
        await rig.intake.submit([Submission(task="t", idempotency_key="k")])


async def test_a_channel_closed_in_mid_batch_refuses_the_rest_alone(
    autojump_clock: MockClock,
) -> None:
    """What was handed over is carried out: its caller has to learn that."""
    rig = Rig(room=0)

    async def close_after_the_first() -> None:
        await rig.answer()
        await trio.testing.wait_all_tasks_blocked()
        rig.submissions.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_after_the_first)
        verdicts = await rig.intake.submit([Submission(task="t", payload=n) for n in range(5)])
    assert [type(verdict) for verdict in verdicts] == [Accepted, Accepted] + [Refused] * 3
    assert all(isinstance(verdict.error, EngineNotRunning) for verdict in verdicts[2:])


async def test_at_the_end_callers_that_still_wait_get_an_answer(autojump_clock: MockClock) -> None:
    rig = Rig()
    verdicts: list[Any] = []

    async def submit(n: int) -> None:
        verdicts.extend(await rig.intake.submit([Submission(task="t", payload=n)] * 3))

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(submit, n)
        await trio.testing.wait_all_tasks_blocked()
        rig.requests.close()
        rig.intake.close()
    assert len(verdicts) == 9
    assert all(isinstance(verdict.error, BackendUnavailable) for verdict in verdicts)


async def test_nothing_is_kept_once_all_is_answered(autojump_clock: MockClock) -> None:
    rig = Rig()
    for n in range(10):
        await rig.submit(f"key {n}")
        await rig.submit()
    assert rig.intake.pending == 0
