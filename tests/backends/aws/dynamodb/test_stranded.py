"""What is called stranded where SQS cannot be asked whether a message exists."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.dynamodb.stranded import ORPHANED_AFTER
from task_queue_engine.backends.base import NewTask, Stranded, StrandedKind
from task_queue_engine.backends.cursors import encode_cursor
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import ScheduleRetry
from tests.backends.aws.dynamodb.faults import FaultyClient
from tests.backends.aws.dynamodb.tables import Table, amazons_own
from tests.backends.aws.dynamodb.tasks import ERROR, create, make_task, request_of, start
from tests.backends.aws.dynamodb.test_foreign_items import foreign
from tests.sizes import size

HOUR = 3600.0
SHORT = timedelta(seconds=180)


async def look(
    store: DynamoStore,
    clock: ManualClock,
    *,
    queue: str = "default",
    sent_before: datetime | str | None = "just now",
    limit: int = 100,
) -> list[Stranded]:
    """The whole walk, with a patience of 180 seconds."""
    before = clock.now() - SHORT
    if isinstance(sent_before, str):
        sent_before = clock.now()
    found: list[Stranded] = []
    cursor = None
    while True:
        page = await store.stranded(
            queue, before=before, sent_before=sent_before, limit=limit, cursor=cursor
        )
        found += page.found
        cursor = page.next_cursor
        if cursor is None:
            return found


def ids(found: list[Stranded], kind: StrandedKind) -> set[str]:
    return {each.task.id for each in found if each.kind is kind}


async def test_processes_that_live_shorter_than_the_walk_get_to_its_end(
    table: Table, clock: ManualClock
) -> None:
    """Each looks at one piece and is gone."""
    async with (made := table.store(clock=clock)).open():
        expected = {task.id for task in await create(made, clock, 30)}
    clock.advance(181)
    found: set[str] = set()
    for _ in range(80):
        async with (short_lived := table.store(clock=clock)).open():
            page = await short_lived.stranded(
                "default", before=clock.now() - SHORT, sent_before=clock.now(), limit=2
            )
            found |= {each.task.id for each in page.found}
        if found == expected:
            break
    assert found == expected
    async with (store := table.store(clock=clock)).open():
        (task,) = await create(store, clock)
        clock.advance(400)
        # The end has been come to, or is: no place is left out for good.
        again = {each.task.id for each in await look(store, clock)}
        again |= {each.task.id for each in await look(store, clock)}
        assert task.id in again


async def test_a_short_walk_notes_nothing(
    store: DynamoStore, table: Table, clock: ManualClock
) -> None:
    await create(store, clock, 3)
    clock.advance(181)
    assert len(await look(store, clock)) == 3
    assert await table.item("@stranded#default") is None


async def test_saved_and_never_sent(store: DynamoStore, clock: ManualClock) -> None:
    (task,) = await create(store, clock)
    clock.advance(181)
    assert await look(store, clock) == [Stranded(task, StrandedKind.UNSENT)]


async def test_nothing_is_called_unsent_before_its_turn_has_come(
    store: DynamoStore, clock: ManualClock
) -> None:
    """In a backlog of an hour all messages are an hour old."""
    await create(store, clock)
    sent_before = clock.now()
    clock.advance(HOUR)
    assert await look(store, clock, sent_before=sent_before) == []
    assert await look(store, clock, sent_before=None) == []
    assert len(await look(store, clock, sent_before=sent_before + timedelta(seconds=1))) == 1


async def test_the_same_task_is_found_ever_more_rarely(
    store: DynamoStore, clock: ManualClock
) -> None:
    """The guess may be wrong: an hour's wait must not cost a message every 30 seconds."""
    await create(store, clock)
    found_at = []
    step = size(12, in_full=6)
    for minute in range(0, 8 * 60, step):
        clock.advance(step * 60)
        if await look(store, clock):
            found_at.append(minute)
    assert 5 <= len(found_at) <= 10
    gaps = [later - earlier for earlier, later in pairwise(found_at)]
    assert gaps == sorted(gaps)


@amazons_own
async def test_one_engine_acts_on_it(table: Table, store: DynamoStore, clock: ManualClock) -> None:
    tasks = await create(store, clock, 10)
    clock.advance(181)
    found: list[Stranded] = []

    async def engine() -> None:
        async with (other := table.store(clock=clock)).open():
            found.extend(await look(other, clock))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(engine)
    assert sorted(each.task.id for each in found) == sorted(task.id for task in tasks)


async def test_what_waits_for_its_time_is_not_stranded(
    store: DynamoStore, clock: ManualClock
) -> None:
    due_at = clock.now() + timedelta(days=3)
    scheduled, delayed = (
        make_task(clock, run_at=due_at),
        make_task(clock, run_at=clock.now() + timedelta(seconds=HOUR)),
    )
    await store.create([NewTask(task=scheduled, due_at=due_at), NewTask(task=delayed)])
    (marked,) = await create(store, clock)
    await store.schedule([(marked.id, clock.now())])
    (retried,) = await start(store, clock)
    await store.record(
        [
            ScheduleRetry(
                task_id=retried.id,
                attempt=1,
                error=ERROR,
                run_at=clock.now() + timedelta(seconds=600),
                scheduled=False,
            )
        ]
    )
    clock.advance(600 + 179)
    assert await look(store, clock) == []
    clock.advance(2)
    assert ids(await look(store, clock), StrandedKind.UNSENT) == {retried.id}


async def test_no_attempt_is_given_up_while_it_could_be_alive(
    store: DynamoStore, clock: ManualClock
) -> None:
    """SQS hides no message for more than 12 hours."""
    (task,) = await start(store, clock)
    clock.advance(12 * HOUR)
    assert await look(store, clock) == []
    assert timedelta(hours=12) < ORPHANED_AFTER
    clock.advance(ORPHANED_AFTER.total_seconds() - 12 * HOUR + 1)
    assert await look(store, clock) == [Stranded(task, StrandedKind.ORPHANED)]


async def test_a_new_attempt_is_young_again(store: DynamoStore, clock: ManualClock) -> None:
    (task,) = await start(store, clock)
    clock.advance(20 * HOUR)
    await store.claim([request_of(task.id, count=2)])
    assert await look(store, clock) == []


async def test_an_orphan_is_reclaimed_once(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """Two engines find it: the second one's reclaim is fenced off."""
    await start(store, clock)
    clock.advance(20 * HOUR)
    (first,), (second,) = await look(store, clock), await look(store, clock)
    assert first == second
    pairs = [(first.task.id, first.task.attempt)]
    verdicts = [*await store.reclaim(pairs), *await store.reclaim(pairs)]
    assert [type(verdict).__name__ for verdict in verdicts] == ["Recorded", "Fenced"]


async def test_items_of_other_programs_belong_to_the_default_queue(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """They name no queue."""
    task_id = make_task(clock).id
    await table.put(foreign(task_id))
    await store.claim([request_of(task_id)])
    clock.advance(20 * HOUR)
    assert await look(store, clock, queue="other") == []
    assert ids(await look(store, clock), StrandedKind.ORPHANED) == {task_id}


async def test_a_piece_of_the_walk_is_bounded(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    await create(store, clock, 50)
    clock.advance(181)
    page = await store.stranded("default", before=clock.now(), sent_before=clock.now(), limit=5)
    assert len(page.found) == 5
    assert len(await look(store, clock, limit=7)) == 45


@pytest.mark.parametrize(
    "place",
    [
        ("OPEN#99", ""),
        ("ROUTINE#1", ""),
        ("FAILED#1", ""),
        ("", ""),
        ("SWEEP", "x"),
        ("OPEN#1", "x"),
        ("OPEN#1", "a#"),
    ],
)
async def test_a_made_up_cursor_is_refused(
    store: DynamoStore, clock: ManualClock, place: tuple[str, str]
) -> None:
    with pytest.raises(InvalidQuery):
        await store.stranded(
            "default",
            before=clock.now(),
            sent_before=None,
            limit=1,
            cursor=encode_cursor("stranded", place),
        )
