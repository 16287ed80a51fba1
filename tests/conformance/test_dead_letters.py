"""The dead-letter side: list, take, delete, purge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from task_queue_engine.backends.base import DeadLetter, Done
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task import TaskError
from tests.conformance.bench import BOOM, Bench


async def bury_some(bench: Bench, count: int) -> list[str]:
    """The ids of the tasks, in the order of their burials."""
    buried = []
    for i in range(count):
        task, delivery = await bench.deliver()
        assert await bench.bury(delivery, reason=f"reason {i}") == Done()
        buried.append(task.id)
    return buried


def task_ids(letters: list[DeadLetter]) -> list[str]:
    return [letter.task_id for letter in letters]


async def test_a_dead_letter_says_what_it_was_told(bench: Bench) -> None:
    task, delivery = await bench.deliver()
    error = TaskError(type="x.Y", message="zß水🍌\n", traceback="Traceback\n  in f")
    at = bench.in_seconds(-5.000001)

    verdict = await bench.bury(
        delivery, reason="attempts exhausted", task_type="mail", attempts=3, error=error, at=at
    )

    assert verdict == Done()
    (letter,) = await bench.dead()
    assert letter.id
    assert letter.task_id == task.id
    assert letter.task_type == "mail"
    assert letter.reason == "attempts exhausted"
    assert letter.error == error
    assert letter.attempts == 3
    assert letter.at == at
    await bench.depth(dead=1)
    assert await bench.nothing_visible()
    await bench.advance(bench.lease)
    assert await bench.nothing_visible()


async def test_a_dead_letter_without_an_error(bench: Bench) -> None:
    _, delivery = await bench.deliver()
    await bench.bury(delivery, error=None, task_type="", attempts=0, reason="no such task")
    (letter,) = await bench.dead()
    assert (letter.error, letter.task_type, letter.attempts) == (None, "", 0)


async def test_newest_first(bench: Bench) -> None:
    buried = await bury_some(bench, 5)
    found = task_ids(await bench.dead())
    if bench.can.ordered_dead_letters:
        assert found == buried[::-1]
    else:
        assert sorted(found) == sorted(buried)


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
async def test_pages_show_each_once(bench: Bench, limit: int) -> None:
    if not bench.can.stable_dead_letter_pages:
        return
    buried = await bury_some(bench, 5)
    found: list[str] = []
    cursor = None
    while True:
        page = await bench.queue.list_dead(limit=limit, cursor=cursor)
        assert len(page.letters) <= limit
        found += task_ids(list(page.letters))
        cursor = page.next_cursor
        if cursor is None:
            break
        if len(found) == limit:
            # One that comes in meanwhile does not shift the pages.
            await bury_some(bench, 1)
    assert found == buried[::-1]


async def test_a_limit_below_one(bench: Bench) -> None:
    with pytest.raises(InvalidQuery) as raised:
        await bench.queue.list_dead(limit=0)
    assert raised.value.field == "limit"


async def test_take_leaves_them_until_they_are_deleted(bench: Bench) -> None:
    buried = await bury_some(bench, 3)
    taken = await bench.queue.take_dead(limit=10)
    assert sorted(task_ids(taken)) == sorted(buried)
    if bench.can.ordered_dead_letters:
        assert task_ids(taken) == buried
    await bench.advance(bench.lease)
    assert sorted(task_ids(await bench.queue.take_dead(limit=10))) == sorted(buried)
    await bench.depth(dead=3)


async def test_take_no_more_than_asked_for(bench: Bench) -> None:
    await bury_some(bench, 3)
    assert len(await bench.queue.take_dead(limit=2)) <= 2


async def test_take_by_id(bench: Bench) -> None:
    await bury_some(bench, 4)
    letters = await bench.dead()
    wanted = [letters[0], letters[2]]

    taken = await bench.queue.take_dead(limit=10, ids=[letter.id for letter in wanted])

    assert sorted(task_ids(taken)) == sorted(task_ids(wanted))
    assert await bench.queue.take_dead(limit=10, ids=[]) == []


async def test_the_same_id_twice_is_taken_once(bench: Bench) -> None:
    await bury_some(bench, 1)
    (letter,) = await bench.dead()
    assert task_ids(await bench.queue.take_dead(limit=10, ids=[letter.id] * 2)) == [letter.task_id]


async def test_ids_that_nobody_has(bench: Bench) -> None:
    await bury_some(bench, 1)
    (letter,) = await bench.dead()
    nonsense = ["", "x", "-1", "0", "1.5", "²", "٣", "007", "9" * 40, "' OR 1=1 --", "\x00"]
    assert await bench.queue.take_dead(limit=10, ids=nonsense) == []
    taken = await bench.queue.take_dead(limit=10, ids=[*nonsense, letter.id])
    assert task_ids(taken) == [letter.task_id]


async def test_take_with_thousands_of_ids(bench: Bench) -> None:
    await bury_some(bench, 1)
    (letter,) = await bench.dead()
    many = [str(n) for n in range(10**6, 10**6 + 40_000)]
    taken = await bench.queue.take_dead(limit=10, ids=[*many, letter.id])
    assert task_ids(taken) == [letter.task_id]


async def test_delete(bench: Bench) -> None:
    await bury_some(bench, 3)
    taken = await bench.queue.take_dead(limit=2)
    assert await bench.queue.delete_dead(taken) == [Done()] * len(taken)
    left = await bench.dead()
    assert not set(task_ids(left)) & set(task_ids(taken))
    await bench.depth(dead=3 - len(taken))


async def test_delete_of_what_is_not_there_fails_no_neighbour(bench: Bench) -> None:
    await bury_some(bench, 2)
    one, two = await bench.queue.take_dead(limit=2)
    bad = [replace(one, id=id_, receipt="") for id_ in ("", "x", "-1", "007", "9" * 40)]

    verdicts = await bench.queue.delete_dead([one, *bad, two])

    assert (verdicts[0], verdicts[-1]) == (Done(), Done())
    assert Done() not in verdicts[1:-1]
    await bench.depth()


async def test_delete_twice_counts_once(bench: Bench) -> None:
    await bury_some(bench, 2)
    letter, _ = await bench.queue.take_dead(limit=2)
    await bench.queue.delete_dead([letter, letter])
    await bench.queue.delete_dead([letter])
    await bench.depth(dead=1)


async def test_purge(bench: Bench) -> None:
    await bury_some(bench, 3)
    await bench.send(bench.task())
    count = await bench.queue.purge_dead()
    if bench.can.exact_depth:
        assert count == 3
    assert await bench.dead() == []
    assert await bench.queue.take_dead(limit=10) == []
    await bench.depth(waiting=1)
    if bench.can.exact_depth:
        assert await bench.queue.purge_dead() == 0


async def test_redriving_step_by_step(bench: Bench) -> None:
    failed = await bench.fail()
    (letter,) = await bench.queue.take_dead(limit=1)
    assert letter.error == BOOM
    (task_id,) = {letter.task_id}
    assert task_id == failed.id
    await bench.reopen(failed)
    await bench.send(failed)
    await bench.queue.delete_dead([letter])
    await bench.depth(waiting=1)
    (delivery,) = await bench.receive()
    assert delivery.task_id == failed.id
    # A message of its own: its receive count starts anew.
    assert delivery.receive_count == 1
