"""The history of a task's attempts: `TaskStore.history`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from task_queue_engine._version import __version__
from task_queue_engine.attempt_record import (
    AttemptHistory,
    AttemptOutcome,
    AttemptRecord,
    LogLine,
)
from task_queue_engine.backends.base import Delivery, TakePlan
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    SLOTS,
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Fenced,
    Finished,
    Interrupt,
    LoseLease,
    Progress,
    Recorded,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness, claim_request

ERROR = TaskError(type="ValueError", message="no", traceback="Traceback ...")
OTHER_ERROR = TaskError(type="KeyError", message="'x'")


def lines(harness: Harness, *messages: str) -> tuple[LogLine, ...]:
    return tuple(
        LogLine(time=harness.now(), level="INFO", logger="shop.mails", message=message)
        for message in messages
    )


def known_of(task: Task, *logged: LogLine, omitted: int = 0, progress: Any = None) -> AttemptRecord:
    """What the worker of a running task knows of its attempt."""
    assert task.started_at is not None
    return AttemptRecord(
        number=task.attempt,
        outcome=AttemptOutcome.RUNNING,
        worker=task.worker,
        version=__version__,
        started_at=task.started_at,
        progress=progress,
        logs=logged,
        logs_omitted=omitted,
    )


async def history(harness: Harness, task_id: str) -> AttemptHistory:
    found = await harness.store.history(task_id)
    assert found is not None
    return found


async def only(harness: Harness, task_id: str) -> AttemptRecord:
    found = await history(harness, task_id)
    assert found.omitted == 0
    (record,) = found.attempts
    return record


async def again(harness: Harness, delivery: Delivery, seconds: float = 0) -> tuple[Task, Delivery]:
    """The message is given back, and the next attempt starts."""
    await harness.queue.release([(delivery, seconds)])
    await harness.advance(seconds)
    delivery = await harness.receive_one()
    started = await harness.claim(delivery)
    assert isinstance(started, Started)
    return started.task, delivery


def retry(harness: Harness, task: Task, error: TaskError = ERROR, **fields: Any) -> AttemptWrite:
    return ScheduleRetry(
        task_id=task.id,
        attempt=task.attempt,
        error=error,
        run_at=harness.now(),
        scheduled=False,
        **fields,
    )


async def test_of_a_task_that_is_not_there(harness: Harness) -> None:
    assert await harness.store.history(new_task_id()) is None


async def test_of_a_task_that_has_not_started(harness: Harness) -> None:
    task = await harness.submit()
    assert await history(harness, task.id) == AttemptHistory(attempts=())


async def test_while_it_runs(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.record([Progress(task_id=running.id, attempt=1, value={"done": 3})])
    expected = replace(known_of(running), progress={"done": 3})
    assert await only(harness, running.id) == expected


@pytest.mark.parametrize(
    ("make", "outcome", "error"),
    [
        (lambda id_: Complete(task_id=id_, attempt=1, result=[1]), AttemptOutcome.SUCCEEDED, None),
        (lambda id_: Fail(task_id=id_, attempt=1, error=ERROR), AttemptOutcome.FAILED, ERROR),
        (lambda id_: Cancel(task_id=id_, attempt=1), AttemptOutcome.CANCELLED, None),
        (lambda id_: Cancel(task_id=id_, attempt=1, error=ERROR), AttemptOutcome.CANCELLED, ERROR),
    ],
    ids=["complete", "fail", "cancel", "cancel with an error"],
)
@pytest.mark.parametrize("logs", [False, True], ids=["quiet", "with lines"])
async def test_the_end_of_a_task(
    harness: Harness, make: Any, outcome: AttemptOutcome, error: TaskError | None, logs: bool
) -> None:
    running, _ = await harness.start()
    await harness.store.record([Progress(task_id=running.id, attempt=1, value=7)])
    said = lines(harness, "one", "two ☃") if logs else ()
    known = known_of(running, *said, omitted=3 if logs else 0, progress=7)
    await harness.advance(3)

    write = make(running.id)
    await harness.store.record([replace(write, record=known) if logs else write])

    expected = replace(known, outcome=outcome, ended_at=harness.now(), error=error)
    assert await only(harness, running.id) == expected


async def test_a_second_end_of_an_attempt_leaves_its_record_as_it_is(harness: Harness) -> None:
    """Alone, and beside the first end of another."""
    ended, _ = await harness.start()
    other, _ = await harness.start()
    await harness.store.record([Complete(task_id=ended.id, attempt=1, result=1)])
    before = await only(harness, ended.id)
    await harness.advance(3)
    record = known_of(ended, *lines(harness, "one"))
    second = Complete(task_id=ended.id, attempt=1, result=2, record=record)

    for writes in ([second], [second, Complete(task_id=other.id, attempt=1, result=1)]):
        verdicts = await harness.store.record(writes)
        assert verdicts == [Recorded(TaskStatus.COMPLETED)] * len(writes)
        assert await only(harness, ended.id) == before


@pytest.mark.parametrize("known", [False, True], ids=["by the row", "by the worker"])
@pytest.mark.parametrize("how", ["retried", "snoozed", "interrupted"])
async def test_one_after_which_the_task_goes_on(harness: Harness, how: str, known: bool) -> None:
    running, delivery = await harness.start()
    await harness.store.record([Progress(task_id=running.id, attempt=1, value="half")])
    record = known_of(running, *(lines(harness, "so far") if known else ()), progress="half")
    await harness.advance(3)
    fields: dict[str, Any] = {"task_id": running.id, "attempt": 1}
    fields["record"] = record if known else None
    waits: dict[str, Any] = {"run_at": harness.now(), "scheduled": False}
    writes: dict[str, AttemptWrite] = {
        "retried": ScheduleRetry(error=ERROR, **waits, **fields),
        "snoozed": ScheduleSnooze(**waits, **fields),
        "interrupted": Interrupt(**fields),
    }
    write = writes[how]

    await harness.store.record([write])
    # The same write again, after an answer was lost.
    assert await harness.store.record([write]) == [Recorded(TaskStatus.PENDING)]

    first = replace(
        record,
        outcome=AttemptOutcome(how),
        ended_at=harness.now(),
        error=ERROR if how == "retried" else None,
    )
    assert await only(harness, running.id) == first
    second, _ = await again(harness, delivery)
    assert await history(harness, running.id) == AttemptHistory(attempts=(first, known_of(second)))
    await harness.store.record([Complete(task_id=running.id, attempt=2, result=None)])
    assert [one.outcome for one in (await history(harness, running.id)).attempts] == [
        how,
        AttemptOutcome.SUCCEEDED,
    ]


@pytest.mark.parametrize("how", ["retry", "snooze"])
async def test_one_whose_task_was_to_be_cancelled(harness: Harness, how: str) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    write = retry(harness, running)
    if how == "snooze":
        write = ScheduleSnooze(task_id=running.id, attempt=1, run_at=harness.now(), scheduled=False)
    assert await harness.store.record([write]) == [Recorded(TaskStatus.CANCELLED)]
    record = await only(harness, running.id)
    assert record.outcome is AttemptOutcome.CANCELLED
    assert record.error == (ERROR if how == "retry" else None)


async def test_a_crash_is_recorded_by_who_takes_over(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.record([Progress(task_id=running.id, attempt=1, value=9)])
    await harness.lapse()
    request = replace(
        claim_request(await harness.receive_one(), worker="worker-2"), version="9.9.9"
    )
    (started,) = await harness.store.claim([request])
    assert isinstance(started, Started)

    first, second = (await history(harness, running.id)).attempts
    assert first == replace(
        known_of(running, progress=9),
        outcome=AttemptOutcome.CRASHED,
        ended_at=harness.now(),
        error=first.error,
    )
    assert first.error is not None
    assert first.error.type == CRASH_ERROR_TYPE
    assert (second.number, second.outcome) == (2, AttemptOutcome.RUNNING)
    assert (second.worker, second.version, second.error) == ("worker-2", "9.9.9", None)


async def test_a_crash_of_the_last_attempt(harness: Harness) -> None:
    running, _ = await harness.start(max_attempts=1)
    await harness.lapse()
    await harness.claim(await harness.receive_one())
    record = await only(harness, running.id)
    assert (record.number, record.outcome) == (1, AttemptOutcome.CRASHED)
    assert record.ended_at == harness.now()


async def test_a_crash_of_a_task_that_was_to_be_cancelled(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    await harness.lapse()
    assert await harness.claim(await harness.receive_one()) == Finished(TaskStatus.CANCELLED)
    assert (await only(harness, running.id)).outcome is AttemptOutcome.CRASHED


async def test_an_orphan(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.reclaim([(running.id, 1)])
    assert (await only(harness, running.id)).outcome is AttemptOutcome.CRASHED


async def test_one_that_was_claimed_with_its_receive(harness: Harness) -> None:
    """`Steps.take`, where it claims."""
    task = await harness.submit()
    plan = TakePlan(worker="host:1", version="9.9.9", free=1, types={task.type: "here"})
    steps = harness.backend.steps("default")
    (taken,) = await steps.take(plan, wait=5, visibility=harness.visibility)
    if not steps.is_one_transaction:
        request = replace(claim_request(taken.delivery, worker="host:1"), version="9.9.9")
        await harness.store.claim([request])
    record = await only(harness, task.id)
    assert (record.worker, record.version) == ("host:1", "9.9.9")
    assert record.started_at == harness.now()


@pytest.mark.parametrize("taken_over", [False, True], ids=["before", "after"])
async def test_a_lost_lease_is_told_from_a_crash(harness: Harness, taken_over: bool) -> None:
    """By its own worker, before or after another one takes over."""
    running, _ = await harness.start()
    record = known_of(running, *lines(harness, "still here"))
    lost = LoseLease(task_id=running.id, attempt=1, record=record)
    if not taken_over:
        assert await harness.store.record([lost]) == [Fenced()]
        assert (await only(harness, running.id)).outcome is AttemptOutcome.LOST_LEASE
        assert (await harness.get(running.id)).status is TaskStatus.PROCESSING
    await harness.lapse()
    at_takeover = await harness.claim(await harness.receive_one())
    assert isinstance(at_takeover, Started)
    before = await harness.get(running.id)

    assert await harness.store.record([lost]) == [Fenced()]

    first, second = (await history(harness, running.id)).attempts
    assert first.outcome is AttemptOutcome.LOST_LEASE
    assert first.logs == record.logs
    assert second.outcome is AttemptOutcome.RUNNING
    assert await harness.get(running.id) == before


async def test_a_refused_write_puts_nothing_away(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.lapse()
    assert isinstance(await harness.claim(await harness.receive_one()), Started)
    zombie = known_of(running, *lines(harness, "from the grave"))

    for write in (
        Complete(task_id=running.id, attempt=1, result=None, record=zombie),
        Fail(task_id=running.id, attempt=1, error=ERROR, record=zombie),
        retry(harness, running, record=zombie),
    ):
        assert await harness.store.record([write]) == [Fenced()]

    first, _ = (await history(harness, running.id)).attempts
    assert (first.outcome, first.logs) == (AttemptOutcome.CRASHED, ())


async def test_a_second_round_keeps_the_first(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])
    ended_at = harness.now()
    await harness.advance(3)
    await harness.store.reopen([running.id])

    first = await only(harness, running.id)
    assert first == replace(
        known_of(running), outcome=AttemptOutcome.FAILED, ended_at=ended_at, error=ERROR
    )


async def test_a_second_round_keeps_the_lines_of_the_first(harness: Harness) -> None:
    running, _ = await harness.start()
    known = known_of(running, *lines(harness, "why it failed"))
    await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR, record=known)])
    await harness.store.reopen([running.id])
    assert (await only(harness, running.id)).logs == known.logs


async def test_several_tasks_in_one_batch(harness: Harness) -> None:
    """Each gets its own: some with lines, some without, one refused."""
    started = [await harness.start() for _ in range(4)]
    tasks = [task for task, _ in started]
    known = [known_of(task, *lines(harness, task.id)) for task in tasks]
    stale = replace(known[3], number=7)

    await harness.store.record(
        [
            Complete(task_id=tasks[0].id, attempt=1, result=None, record=known[0]),
            Complete(task_id=tasks[1].id, attempt=1, result=None),
            retry(harness, tasks[2], record=known[2]),
            Complete(task_id=tasks[3].id, attempt=7, result=None, record=stale),
        ]
    )

    found = [await only(harness, task.id) for task in tasks]
    assert [one.outcome for one in found] == ["succeeded", "succeeded", "retried", "running"]
    assert [[line.message for line in one.logs] for one in found] == [
        [tasks[0].id],
        [],
        [tasks[2].id],
        [],
    ]


async def test_the_first_and_the_last_ten_are_kept(harness: Harness) -> None:
    task, delivery = await harness.start(max_attempts=100)
    total = SLOTS + 7
    for number in range(1, total):
        error = replace(OTHER_ERROR, message=f"{number}")
        write = retry(harness, task, error, record=known_of(task))
        assert await harness.store.record([write]) == [Recorded(TaskStatus.PENDING)]
        task, delivery = await again(harness, delivery)

    found = await history(harness, task.id)
    kept = [*range(1, 11), *range(total - 9, total + 1)]
    assert [one.number for one in found.attempts] == kept
    assert [one.error and one.error.message for one in found.attempts] == [
        *map(str, kept[:-1]),
        None,
    ]
    assert found.omitted == total - SLOTS
    assert found.attempts[-1].outcome is AttemptOutcome.RUNNING


async def test_it_goes_with_its_task(harness: Harness) -> None:
    running, _ = await harness.start()
    known = known_of(running, *lines(harness, "bye"))
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=1, record=known)])
    await harness.advance(10)
    finished_before: datetime = harness.now()
    assert await harness.store.expire(finished_before=finished_before, limit=10) == 1
    assert await harness.store.history(running.id) is None
    # An idempotency key may be used once more.
    await harness.create(harness.make_task(id=running.id))
    assert await history(harness, running.id) == AttemptHistory(attempts=())
