"""The lifecycle: who may start a task, whose word counts, and what never changes again."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from task_queue_engine import Task, TaskError, TaskStatus, lifecycle
from task_queue_engine.lifecycle import (
    AlreadyFinished,
    BrokerDeadLetter,
    Cancel,
    CancelledNow,
    CancelRequested,
    ClaimRequest,
    Complete,
    DuplicateDelivery,
    Exhausted,
    ExtraCopy,
    Fail,
    Fenced,
    Finished,
    Interrupt,
    Missing,
    NotAhead,
    NotDue,
    NotReopened,
    Progress,
    Recorded,
    Reopened,
    Row,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from tests.sizes import size

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)
ERROR = TaskError(type="ValueError", message="bad")
PENDING, PROCESSING = TaskStatus.PENDING, TaskStatus.PROCESSING
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
TERMINAL = [COMPLETED, FAILED, CANCELLED]


def pending(**fields: Any) -> Row:
    due_at = fields.pop("due_at", None)
    task = Task(
        **({"id": "1", "type": "t", "payload": 1, "created_at": NOW, "updated_at": NOW} | fields)
    )
    return Row(task=task, due_at=due_at)


def processing(**fields: Any) -> Row:
    """Attempt 3, started by the second delivery of message "m"."""
    defaults = {"status": PROCESSING, "attempt": 3, "worker": "owner", "started_at": NOW}
    return Row(task=pending(**(defaults | fields)).task, message_id="m", receive_count=2)


def terminal(status: TaskStatus) -> Row:
    return Row(task=pending(status=status, attempt=3, finished_at=NOW, retry_count=1).task)


def claim(row: Row | None, message: str = "m", count: int = 3, now: datetime = LATER) -> Any:
    request = ClaimRequest(task_id="1", message_id=message, receive_count=count, worker="me")
    return lifecycle.decide_claim(row, request, now)


# --- the claim table ------------------------------------------------------------------------


def test_a_pending_task_starts() -> None:
    verdict, row = claim(pending(attempt=4, retry_count=2, error=ERROR, progress=50), "x", 7)
    assert verdict == Started(row.task)
    assert (row.message_id, row.receive_count, row.due_at) == ("x", 7, None)
    task = row.task
    assert (task.status, task.attempt, task.retry_count) == (PROCESSING, 5, 2)
    assert (task.started_at, task.updated_at, task.worker) == (LATER, LATER, "me")
    assert (task.progress, task.error) == (None, ERROR)


def test_a_scheduled_task_that_is_due_starts_and_is_scheduled_no_more() -> None:
    _, row = claim(pending(run_at=LATER, due_at=LATER))
    assert row.due_at is None


def test_a_task_that_is_not_due_does_not_start() -> None:
    run_at = LATER + timedelta(microseconds=1)
    assert claim(pending(run_at=run_at)) == (NotDue(run_at), None)
    assert isinstance(claim(pending(run_at=LATER))[0], Started)


def test_a_lapsed_attempt_is_taken_over_and_counted_as_a_crash() -> None:
    verdict, row = claim(processing(retry_count=1), "m", 3)
    assert verdict == Started(row.task, takeover=True)
    assert (row.task.attempt, row.task.retry_count, row.receive_count) == (4, 2, 3)
    assert row.task.error.type == "task_queue_engine.errors.AttemptCrashed"
    assert "attempt 3 on owner" in row.task.error.message


# --- claimed ahead: before a worker is free -------------------------------------------------


def claim_ahead(row: Row | None, message: str = "m", count: int = 3) -> Any:
    request = ClaimRequest(
        task_id="1", message_id=message, receive_count=count, worker="me", ahead=True
    )
    return lifecycle.decide_claim(row, request, LATER)


def ahead(**fields: Any) -> Row:
    """An attempt that was claimed ahead."""
    return replace(processing(**fields), claimed_ahead=True)


def test_a_pending_task_is_claimed_ahead_and_the_row_says_so() -> None:
    verdict, row = claim_ahead(pending(retry_count=1, error=ERROR))
    assert verdict == Started(row.task)
    assert row.claimed_ahead
    _, row = claim(pending())
    assert not row.claimed_ahead


@pytest.mark.parametrize("retry_count", [2, 3])
def test_a_last_chance_waits_for_its_worker(retry_count: int) -> None:
    row = pending(max_attempts=3, retry_count=retry_count)
    assert claim_ahead(row) == (NotAhead(), None)
    assert isinstance(claim(row)[0], Started)


def test_what_may_have_killed_its_worker_waits_for_one() -> None:
    crashed = pending(max_attempts=5, error=lifecycle.crash_error(1, "owner"))
    assert claim_ahead(crashed) == (NotAhead(), None)
    assert isinstance(claim(crashed)[0], Started)


@pytest.mark.parametrize("make", [processing, ahead])
def test_a_lapsed_attempt_is_not_taken_over_ahead(make: Any) -> None:
    assert claim_ahead(make(max_attempts=5)) == (NotAhead(), None)
    # What does not start may be settled at once.
    assert claim_ahead(make(cancel_requested=True))[0] == Finished(CANCELLED)
    assert isinstance(claim_ahead(processing(max_attempts=1))[0], Exhausted)
    assert claim_ahead(make(), "m", 2)[0] == DuplicateDelivery()


@pytest.mark.parametrize("how", ["claimed again", "reclaimed", "dead-lettered by the broker"])
def test_a_lapse_of_an_attempt_claimed_ahead_counts_nothing_and_the_next_one_does(
    how: str,
) -> None:
    """It may never have started. The next claim is none ahead, since the row says that it may have
    crashed."""

    def lapsed(row: Row) -> Row:
        if how == "claimed again":
            _, after = claim(row, "m", row.receive_count + 1)
        elif how == "reclaimed":
            _, after = lifecycle.decide_reclaim(row, row.task.attempt, LATER)
        else:
            letter = BrokerDeadLetter(task_id="1", message_id="m", reason="received too often")
            _, after = lifecycle.decide_fail_dead_lettered(row, letter, LATER)
        assert after is not None
        return after

    row = lapsed(ahead(max_attempts=3, retry_count=1))
    assert row.task.retry_count == 1
    if how == "dead-lettered by the broker":
        assert row.task.status is FAILED
        return
    assert row.task.error == lifecycle.crash_error(3, "owner")
    if how == "reclaimed":
        assert row.task.status is PENDING
        assert claim_ahead(row) == (NotAhead(), None)
        _, row = claim(row)
    assert not row.claimed_ahead
    assert lapsed(row).task.retry_count == 2


@pytest.mark.parametrize("how", ["cancel", "reclaim"])
def test_a_cancelled_attempt_that_was_claimed_ahead_counts_nothing(how: str) -> None:
    row = ahead(cancel_requested=True, retry_count=1)
    if how == "cancel":
        _, after = claim(row)
    else:
        _, after = lifecycle.decide_reclaim(row, 3, LATER)
    assert after is not None
    assert (after.task.status, after.task.retry_count) == (CANCELLED, 1)


def test_what_an_attempt_claimed_ahead_came_to_counts_as_any_other() -> None:
    own = {"task_id": "1", "attempt": 3}
    retry = ScheduleRetry(**own, error=ERROR, run_at=LATER, scheduled=False)
    _, row = lifecycle.decide_record(ahead(), retry, LATER)
    assert (row.task.status, row.task.retry_count) == (PENDING, 1)
    _, row = claim(row)
    assert not row.claimed_ahead
    _, row = lifecycle.decide_record(ahead(max_attempts=1), Fail(**own, error=ERROR), LATER)
    assert (row.task.status, row.task.retry_count) == (FAILED, 1)


# --- the claim table, continued -------------------------------------------------------------


@pytest.mark.parametrize(("retry_count", "max_attempts"), [(0, 1), (2, 3), (5, 3)])
def test_a_lapsed_last_attempt_fails_and_does_not_run(retry_count: int, max_attempts: int) -> None:
    verdict, row = claim(processing(retry_count=retry_count, max_attempts=max_attempts))
    assert verdict == Exhausted(row.task)
    assert (row.task.status, row.task.retry_count) == (FAILED, retry_count + 1)
    assert row.task.error.type.endswith("AttemptCrashed")
    assert row.task.finished_at == LATER
    assert (row.message_id, row.receive_count) == ("m", 3), "to be known when it comes back"


def test_a_lapsed_attempt_that_was_to_be_cancelled_is() -> None:
    verdict, row = claim(processing(cancel_requested=True))
    assert verdict == Finished(CANCELLED)
    assert row.task.status is CANCELLED


@pytest.mark.parametrize("count", [1, 2])
def test_a_delivery_that_is_no_later_than_the_owners_changes_nothing(count: int) -> None:
    assert claim(processing(), "m", count) == (DuplicateDelivery(), None)


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_another_message_never_takes_over_however_often_it_was_received(count: int) -> None:
    assert claim(processing(), "another", count) == (ExtraCopy(), None)


@pytest.mark.parametrize("status", TERMINAL)
def test_a_task_that_has_ended_does_not_start(status: TaskStatus) -> None:
    assert claim(terminal(status)) == (Finished(status), None)


def test_a_task_that_is_not_there() -> None:
    assert claim(None) == (Missing(), None)


# --- recording ------------------------------------------------------------------------------

WRITES: list[tuple[Any, TaskStatus, int]] = [
    (Complete(task_id="1", attempt=3, result={"a": 1}), COMPLETED, 0),
    (Fail(task_id="1", attempt=3, error=ERROR), FAILED, 1),
    (Cancel(task_id="1", attempt=3, error=ERROR), CANCELLED, 0),
    (ScheduleRetry(task_id="1", attempt=3, error=ERROR, run_at=LATER, scheduled=False), PENDING, 1),
    (ScheduleRetry(task_id="1", attempt=3, error=ERROR, run_at=LATER, scheduled=True), PENDING, 1),
    (ScheduleSnooze(task_id="1", attempt=3, run_at=LATER, scheduled=False), PENDING, 0),
    (ScheduleSnooze(task_id="1", attempt=3, run_at=LATER, scheduled=True), PENDING, 0),
    (Interrupt(task_id="1", attempt=3), PENDING, 0),
    (Progress(task_id="1", attempt=3, value=50), PROCESSING, 0),
]
writes = pytest.mark.parametrize(("write", "status", "cost"), WRITES)


@writes
def test_the_owners_word_counts(write: Any, status: TaskStatus, cost: int) -> None:
    assert lifecycle.target_status(write) is status
    verdict, row = lifecycle.decide_record(processing(retry_count=1), write, LATER)
    assert verdict == Recorded(status)
    assert row is not None
    task = row.task
    assert (task.status, task.retry_count, task.attempt) == (status, 1 + cost, 3)
    assert task.updated_at == LATER
    assert (task.finished_at == LATER) is status.is_terminal
    assert task.result == ({"a": 1} if status is COMPLETED else None)
    assert task.error == (ERROR if isinstance(write, Fail | Cancel | ScheduleRetry) else None)
    waits = isinstance(write, ScheduleRetry | ScheduleSnooze)
    assert task.run_at == (LATER if waits else None)
    assert row.due_at == (LATER if waits and write.scheduled else None)
    assert row.message_id == ("m" if status in (PROCESSING, FAILED) else None)
    assert task.progress == (50 if status is PROCESSING else None)


@writes
@pytest.mark.parametrize("attempt", [1, 2, 4])
def test_only_its_owner_writes(write: Any, status: TaskStatus, cost: int, attempt: int) -> None:
    stale = msgspec.structs.replace(write, attempt=attempt)
    assert lifecycle.decide_record(processing(), stale, LATER) == (Fenced(), None)
    assert lifecycle.decide_record(None, stale, LATER) == (Fenced(), None)


@writes
def test_a_write_made_again_is_found_written(write: Any, status: TaskStatus, cost: int) -> None:
    _, row = lifecycle.decide_record(processing(), write, LATER)
    assert row is not None
    if status is not PROCESSING:
        assert lifecycle.decide_record(row, write, LATER) == (Recorded(status), None)


@writes
@pytest.mark.parametrize("ended", TERMINAL)
def test_a_terminal_status_never_changes(
    write: Any, status: TaskStatus, cost: int, ended: TaskStatus
) -> None:
    verdict, row = lifecycle.decide_record(terminal(ended), write, LATER)
    assert row is None
    assert verdict == (Recorded(ended) if status is ended else Fenced())


@writes
def test_a_task_to_be_cancelled_does_not_wait_any_more(
    write: Any, status: TaskStatus, cost: int
) -> None:
    verdict, row = lifecycle.decide_record(processing(cancel_requested=True), write, LATER)
    after = CANCELLED if status is PENDING else status
    assert verdict == Recorded(after)
    assert row is not None
    assert (row.task.status, row.task.retry_count) == (after, cost)
    assert row.due_at is None


# --- what clients and operators ask for -----------------------------------------------------


def test_cancelling_what_waits_ends_it() -> None:
    verdict, row = lifecycle.decide_cancel(pending(run_at=LATER, due_at=LATER, error=ERROR), LATER)
    assert row is not None
    assert verdict == CancelledNow(row.task)
    assert (row.task.status, row.task.error, row.task.run_at) == (CANCELLED, ERROR, None)
    assert row.due_at is None


def test_cancelling_what_runs_asks_its_owner() -> None:
    before = processing()
    verdict, row = lifecycle.decide_cancel(before, LATER)
    assert row is not None
    assert verdict == CancelRequested(row.task)
    assert (row.task.status, row.task.cancel_requested) == (PROCESSING, True)
    assert (row.message_id, row.receive_count) == (before.message_id, before.receive_count)


@pytest.mark.parametrize("status", TERMINAL)
def test_cancelling_what_has_ended_changes_nothing(status: TaskStatus) -> None:
    row = terminal(status)
    assert lifecycle.decide_cancel(row, LATER) == (AlreadyFinished(row.task), None)
    assert lifecycle.decide_cancel(None, LATER) == (Missing(), None)


@pytest.mark.parametrize("status", [FAILED, CANCELLED])
def test_reopening_starts_a_new_round(status: TaskStatus) -> None:
    before = terminal(status)
    full = msgspec.structs.replace(
        before.task, error=ERROR, progress=5, cancel_requested=True, started_at=NOW
    )
    verdict, row = lifecycle.decide_reopen(Row(task=full), LATER)
    assert row is not None
    assert verdict == Reopened(row.task)
    task = row.task
    assert (task.status, task.retry_count, task.attempt) == (PENDING, 0, 3)
    assert (task.error, task.result, task.progress, task.run_at) == (None, None, None, None)
    assert (task.started_at, task.finished_at, task.cancel_requested) == (None, None, False)
    assert (task.id, task.payload, task.created_at) == (full.id, full.payload, full.created_at)


@pytest.mark.parametrize("row", [pending(), processing(), terminal(COMPLETED)])
def test_nothing_else_is_reopened(row: Row) -> None:
    assert lifecycle.decide_reopen(row, LATER) == (NotReopened(row.task), None)
    assert lifecycle.decide_reopen(None, LATER) == (Missing(), None)


# --- orphans --------------------------------------------------------------------------------


def test_an_orphaned_attempt_is_counted_as_a_crash() -> None:
    verdict, row = lifecycle.decide_reclaim(processing(retry_count=1), 3, LATER)
    assert verdict == Recorded(PENDING)
    assert row is not None
    assert (row.task.status, row.task.retry_count, row.task.attempt) == (PENDING, 2, 3)
    assert row.task.error is not None
    assert row.message_id is None


def test_an_orphaned_last_attempt_fails() -> None:
    verdict, row = lifecycle.decide_reclaim(processing(retry_count=2), 3, LATER)
    assert verdict == Recorded(FAILED)
    assert row is not None
    assert (row.task.status, row.task.finished_at) == (FAILED, LATER)


def test_an_orphan_that_was_to_be_cancelled_is() -> None:
    verdict, _ = lifecycle.decide_reclaim(processing(cancel_requested=True), 3, LATER)
    assert verdict == Recorded(CANCELLED)


@pytest.mark.parametrize("row", [None, pending(attempt=3), terminal(COMPLETED)])
def test_what_is_not_running_is_not_reclaimed(row: Row | None) -> None:
    assert lifecycle.decide_reclaim(row, 3, LATER) == (Fenced(), None)


def test_another_attempt_than_the_one_looked_at_is_not_reclaimed() -> None:
    assert lifecycle.decide_reclaim(processing(), 2, LATER) == (Fenced(), None)


@pytest.mark.parametrize(
    ("run_at", "delay"),
    [(None, 0.0), (NOW, 0.0), (NOW - timedelta(1), 0.0), (NOW + timedelta(seconds=2.5), 2.5)],
)
def test_the_delay_until_a_moment(run_at: datetime | None, delay: float) -> None:
    assert lifecycle.delay_until(run_at, NOW) == delay


# --- any life -------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "claim",
                "claim",
                "claim",
                "complete",
                "error",
                "discard",
                "snooze",
                "interrupt",
                "stopped",
                "progress",
                "cancel",
                "reopen",
                "reclaim",
            ]
        ),
        st.integers(0, 3),  # which message, or how stale an attempt
        st.booleans(),  # whether the message's lease has lapsed; whether a wait is a long one
        st.integers(0, 100),  # seconds that pass
    ),
    max_size=60,
)


@settings(max_examples=size(300, in_full=3_000), deadline=None)
@given(operations=OPERATIONS, max_attempts=st.integers(1, 4))
def test_whatever_happens_the_promises_hold(
    operations: list[tuple[str, int, bool, int]], max_attempts: int
) -> None:
    row = pending(max_attempts=max_attempts)
    now = NOW
    counts = dict.fromkeys(range(4), 0)
    returned: set[int] = set()
    for operation, which, flag, seconds in operations:
        now += timedelta(seconds=seconds)
        before = row
        attempt = before.task.attempt - which
        new: Row | None = None
        verdict: Any = None
        if operation == "claim":
            counts[which] += flag or not counts[which]
            request = ClaimRequest(
                task_id="1", message_id=str(which), receive_count=counts[which], worker="w"
            )
            verdict, new = lifecycle.decide_claim(row, request, now)
        elif operation == "cancel":
            verdict, new = lifecycle.decide_cancel(row, now)
        elif operation == "reopen":
            verdict, new = lifecycle.decide_reopen(row, now)
        elif operation == "reclaim":
            verdict, new = lifecycle.decide_reclaim(row, attempt, now)
        else:
            if operation == "complete":
                returned.add(attempt)
            write = write_of(operation, row, attempt, now + timedelta(seconds=50), flag)
            verdict, new = lifecycle.decide_record(row, write, now)
        row = new if new is not None else row
        check_step(before, row, verdict, operation, attempt)
        check_row(row, returned)


def write_of(operation: str, row: Row, attempt: int, run_at: datetime, scheduled: bool) -> Any:
    """What a worker that follows the retry policy writes."""
    last = row.task.retry_count + 1 >= row.task.max_attempts
    fields: dict[str, Any] = {"task_id": "1", "attempt": attempt}
    match operation:
        case "complete":
            return Complete(result=attempt, **fields)
        case "error" if not last:
            return ScheduleRetry(error=ERROR, run_at=run_at, scheduled=scheduled, **fields)
        case "error" | "discard":
            return Fail(error=ERROR, **fields)
        case "snooze":
            return ScheduleSnooze(run_at=run_at, scheduled=scheduled, **fields)
        case "interrupt":
            return Interrupt(**fields)
        case "stopped":
            return Cancel(**fields)
        case _:
            return Progress(value=attempt, **fields)


def check_step(before: Row, after: Row, verdict: Any, operation: str, attempt: int) -> None:
    old, new = before.task, after.task
    if old.status.is_terminal and operation != "reopen":
        assert after == before, "terminal is final"
    started = isinstance(verdict, Started)
    assert new.attempt == old.attempt + started, "an attempt is counted at its start, once"
    if started and old.status is PROCESSING:
        assert verdict.takeover
        assert new.retry_count == old.retry_count + 1
    records = operation not in ("claim", "cancel", "reopen", "reclaim")
    if records and attempt != old.attempt:
        assert isinstance(verdict, Fenced), "only the current attempt may record"
        assert after == before
    if operation == "reopen" and after != before:
        assert new.retry_count == 0
    else:
        assert old.retry_count <= new.retry_count <= old.retry_count + 1
    if after != before:
        assert new.updated_at >= old.updated_at
    assert (new.id, new.payload, new.created_at) == (old.id, old.payload, old.created_at)


def check_row(row: Row, returned: set[int]) -> None:
    task = row.task
    assert task.retry_count <= task.max_attempts
    assert (task.finished_at is not None) == task.status.is_terminal
    if task.status is not FAILED:
        assert (row.message_id is not None) == (task.status is PROCESSING)
    if row.due_at is not None:
        assert task.status is PENDING
        assert row.due_at == task.run_at
    if task.status is COMPLETED:
        assert task.attempt in returned, "COMPLETED means that a handler returned"
        assert task.result == task.attempt
    else:
        assert task.result is None
    if task.status is PENDING:
        assert not task.cancel_requested, "what is to be cancelled never waits for a start"


def test_random_lives_reach_every_status() -> None:
    """That the invariants above are not vacuous."""
    rng = random.Random(1)
    seen = set()
    for _ in range(200):
        row = pending(max_attempts=2)
        for count in range(10):
            _, new = claim(row, "m", count + 1, NOW)
            row = new or row
            operation = rng.choice(["complete", "error", "snooze", "stopped", "progress"])
            write = write_of(operation, row, row.task.attempt, NOW, scheduled=False)
            _, new = lifecycle.decide_record(row, write, NOW)
            row = new or row
            seen.add(row.task.status)
    assert seen == set(TaskStatus)


# --- history --------------------------------------------------------------------------------


def test_no_task_takes_more_slots_however_often_it_starts() -> None:
    slots = {lifecycle.slot_of(number) for number in range(1, 10_000)}
    assert slots == set(range(1, lifecycle.SLOTS + 1))


def test_the_first_ten_have_a_slot_each_and_any_ten_in_a_row_do_not_meet() -> None:
    slots = [lifecycle.slot_of(number) for number in range(1, 200)]
    assert slots[:10] == [*range(1, 11)]
    assert not {*slots[:10]} & {*slots[10:]}
    for first in range(10, 180):
        assert len({*slots[first : first + 10]}) == 10
