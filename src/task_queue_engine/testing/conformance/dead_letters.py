"""The dead-letter queue: what goes in comes out, with its reason."""

from __future__ import annotations

import pytest

from task_queue_engine.backends.base import DeadLetter, DeadLettering, Done, LeaseLost
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task import TaskError
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs

ERROR = TaskError(type="ValueError", message="ungültig ☃", traceback="Traceback ...")


async def dead_letters_of(harness: Harness, number: int) -> list[str]:
    """Dead-letter this many tasks, oldest first; returns their ids."""
    ids = []
    for i in range(number):
        task = await harness.submit()
        delivery = await harness.receive_one()
        assert await harness.queue.dead_letter(
            [DeadLettering(delivery=delivery, reason=f"reason {i}", at=harness.now())]
        ) == [Done()]
        await harness.advance(1)
        ids.append(task.id)
    return ids


async def everything(harness: Harness, *, limit: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    cursor = None
    while True:
        page = await harness.queue.dead_letters.page(limit=limit, cursor=cursor)
        assert len(page.dead_letters) <= limit
        found += page.dead_letters
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_a_dead_letter_says_what_and_why(harness: Harness) -> None:
    running, delivery = await harness.start()
    item = DeadLettering(
        delivery=delivery,
        reason="attempts exhausted (3 of 3)",
        task_type=running.type,
        attempts=3,
        error=ERROR,
        at=harness.now(),
    )

    assert await harness.queue.dead_letter([item]) == [Done()]

    (dead_letter,) = (await harness.queue.dead_letters.page(limit=10)).dead_letters
    assert dead_letter.task_id == running.id
    assert dead_letter.task_type == "email"
    assert dead_letter.reason == "attempts exhausted (3 of 3)"
    assert dead_letter.attempts == 3
    assert dead_letter.error == ERROR
    assert dead_letter.at == harness.now()
    await harness.lapse()
    assert await harness.receive() == [], "the message has left the queue"


async def test_a_dead_letter_without_a_task(harness: Harness) -> None:
    task = harness.make_task()
    await harness.send(task)
    await harness.queue.dead_letter(
        [
            DeadLettering(
                delivery=await harness.receive_one(),
                reason="no such task in the store",
                at=harness.now(),
            )
        ]
    )
    (found,) = (await harness.queue.dead_letters.page(limit=10)).dead_letters
    assert (found.task_id, found.task_type) == (task.id, "")
    assert (found.attempts, found.error) == (0, None)


@needs("ordered_dead_letters")
async def test_newest_first_page_by_page(harness: Harness) -> None:
    ids = await dead_letters_of(harness, 5)
    found = await everything(harness, limit=2)
    assert [each.task_id for each in found] == ids[::-1]


@needs("ordered_dead_letters")
async def test_pages_hold_still_while_dead_letters_come_and_go(harness: Harness) -> None:
    ids = await dead_letters_of(harness, 4)
    first = await harness.queue.dead_letters.page(limit=2)
    await dead_letters_of(harness, 1)
    await harness.queue.dead_letters.delete(first.dead_letters)
    second = await harness.queue.dead_letters.page(limit=2, cursor=first.next_cursor)
    assert [each.task_id for each in second.dead_letters] == [ids[1], ids[0]]
    assert second.next_cursor is None


async def test_a_full_last_page_has_no_cursor(harness: Harness) -> None:
    await dead_letters_of(harness, 2)
    page = await harness.queue.dead_letters.page(limit=2)
    assert len(page.dead_letters) == 2
    if harness.promises.ordered_dead_letters:
        assert page.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "!", "bm9uc2Vuc2U", "ü", "W10", "a" * 5000])
async def test_a_bad_cursor_is_refused(harness: Harness, cursor: str) -> None:
    await dead_letters_of(harness, 1)
    with pytest.raises(InvalidQuery) as caught:
        await harness.queue.dead_letters.page(limit=2, cursor=cursor)
    assert caught.value.field == "cursor"


async def test_taken_dead_letters_can_be_taken_again_until_deleted(harness: Harness) -> None:
    await dead_letters_of(harness, 3)
    first = await harness.queue.dead_letters.take(limit=2)
    assert len(first) == 2
    everything_taken = await harness.queue.dead_letters.take(limit=10)
    assert {each.id for each in everything_taken} >= {each.id for each in first}

    assert await harness.queue.dead_letters.delete(first) == [Done(), Done()]
    rest = await harness.queue.dead_letters.take(limit=10)
    assert len(rest) == 1
    assert rest[0].id not in {each.id for each in first}


async def test_take_by_id(harness: Harness) -> None:
    ids = await dead_letters_of(harness, 3)
    wanted = next(each for each in await everything(harness, limit=10) if each.task_id == ids[1])
    taken = await harness.queue.dead_letters.take(
        limit=10, ids=[wanted.id, "987654321", "nonsense"]
    )
    assert [each.task_id for each in taken] == [ids[1]]


async def test_take_by_very_many_ids(harness: Harness) -> None:
    (task_id,) = await dead_letters_of(harness, 1)
    (dead_letter,) = await everything(harness, limit=10)
    ids = [dead_letter.id, *(str(10**9 + n) for n in range(40_000))]
    assert [
        taken.task_id for taken in await harness.queue.dead_letters.take(limit=10, ids=ids)
    ] == [task_id]


@needs("notices_stale_receipts")
async def test_deleting_a_dead_letter_that_is_gone(harness: Harness) -> None:
    await dead_letters_of(harness, 2)
    first, second = await harness.queue.dead_letters.take(limit=2)
    await harness.queue.dead_letters.delete([first])
    assert await harness.queue.dead_letters.delete([first, second]) == [LeaseLost(), Done()]
    assert (await harness.queue.depth()).dead == 0


async def test_purge(harness: Harness) -> None:
    await dead_letters_of(harness, 3)
    waiting = await harness.submit()

    purged = await harness.queue.dead_letters.purge()

    if harness.promises.exact_depth:
        assert purged == 3
        assert (await harness.queue.depth()).dead == 0
        assert await harness.queue.dead_letters.purge() == 0
    assert (await harness.queue.dead_letters.page(limit=10)).dead_letters == ()
    assert [delivery.task_id for delivery in await harness.receive()] == [waiting.id]


async def test_dead_letters_stay_with_their_queue(harness: Harness) -> None:
    await dead_letters_of(harness, 1)
    other = harness.backend.queue("other")
    assert (await other.dead_letters.page(limit=10)).dead_letters == ()
    assert await other.dead_letters.take(limit=10) == []
    assert await other.dead_letters.purge() == 0
    (dead_letter,) = await harness.queue.dead_letters.take(limit=10)
    await other.dead_letters.delete([dead_letter])
    assert len(await harness.queue.dead_letters.take(limit=10)) == 1


async def test_dead_letter_ids_are_never_used_again(harness: Harness) -> None:
    """A list that an operator still looks at must not name another one by an old id."""
    await dead_letters_of(harness, 1)
    (old,) = await everything(harness, limit=10)
    await harness.queue.dead_letters.purge()
    await dead_letters_of(harness, 1)
    (new,) = await everything(harness, limit=10)
    assert new.id != old.id
