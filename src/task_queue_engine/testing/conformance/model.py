"""A backend against the memory backend: the same operations get the same answers.

The memory backend calls the functions of `lifecycle` and keeps its messages in a dict, so it is
the model. For backends that promise everything (see `Promises`) and are quickly made: hundreds are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import trio
from hypothesis import HealthCheck, given, settings

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import Backend, DeadLetter, ListQuery, StrandedKind
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import ManualClock
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.testing.conformance.pairwise import (
    TYPES,
    Operation,
    Pairwise,
    anonymous_dead_letter,
)
from task_queue_engine.testing.conformance.programs import TASKS, operations


def check_against_model(
    make: Callable[[Path, ManualClock], Backend], *, examples: int = 250
) -> None:
    """Run random programs on a backend and on the model; fails with a program, as
    simple as could be found, to which they answer differently.

    Args:
        make: a new backend in this empty folder, on this clock.
        examples: how many programs.
    """

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(operations, min_size=10, max_size=50))
    def same_answers(program: list[Operation]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            clock = ManualClock()
            real = make(Path(folder), clock)
            in_one = real.steps("default").is_one_transaction
            model = MemoryBackend(clock=clock, is_one_transaction=in_one)
            both = Pairwise(model, real, clock)
            trio.run(_run, both, program)

    same_answers()


async def _run(both: Pairwise, program: list[Operation]) -> None:
    async with both.model.open(), both.real.open():
        for number, operation in enumerate(program, start=1):
            try:
                await operation(both)
                await both.same(lambda backend: backend.store.counts())
                await both.same(lambda backend: backend.queue("default").depth())
            except AssertionError as error:
                error.add_note(
                    f"operation {number} of {len(program)}: {operation.__name__}; "
                    "right of == is the model's answer"
                )
                raise
        await _compare_everything(both)


async def _history(backend: Backend, task_id: str) -> AttemptHistory | None:
    return await backend.store.history(task_id)


async def _list_all(backend: Backend, query: ListQuery) -> list[Task]:
    tasks: list[Task] = []
    while True:
        page = await backend.store.list_tasks(query)
        tasks += page.tasks
        if page.next_cursor is None:
            return tasks
        query = replace(query, cursor=page.next_cursor)


async def _all_dead_letters(backend: Backend) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    cursor = None
    while True:
        page = await backend.queue("default").dead_letters.page(limit=2, cursor=cursor)
        found += map(anonymous_dead_letter, page.dead_letters)
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


async def _all_stranded(backend: Backend, before: datetime) -> set[tuple[str, StrandedKind]]:
    found = set()
    cursor = None
    while True:
        page = await backend.stranded("default", before=before, limit=2, cursor=cursor)
        found |= {(item.task.id, item.kind) for item in page.found}
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


async def _compare_everything(both: Pairwise) -> None:
    await both.same(lambda backend: backend.store.get(TASKS))
    for task_id in TASKS:
        await both.same(partial(_history, task_id=task_id))
    await both.same(lambda backend: backend.store.cancel_requested(TASKS))
    for status in (None, *TaskStatus):
        for type_name in (None, *TYPES):
            query = ListQuery(status=status, type=type_name, limit=2)
            await both.same(partial(_list_all, query=query))
    now = both.clock.now()
    await both.same(lambda backend: backend.store.due("default", before=now, limit=100))
    await both.same(_all_dead_letters)
    await both.same(lambda backend: _all_stranded(backend, now))
