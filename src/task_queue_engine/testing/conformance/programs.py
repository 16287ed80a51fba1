"""Programs of operations, drawn at random, to be run on two backends side by side."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import hypothesis.strategies as st
from msgspec import structs

from task_queue_engine.backends.base import (
    Backend,
    DeadLettering,
    Delivery,
    DueChange,
    Message,
    NewTask,
)
from task_queue_engine.lifecycle import ClaimRequest, PendingFailure
from task_queue_engine.task import Task
from task_queue_engine.testing.conformance.harness import claim_request
from task_queue_engine.testing.conformance.pairwise import (
    ERROR,
    KINDS,
    TYPES,
    VISIBILITY,
    Operation,
    Pairwise,
    anonymous_dead_letter,
    attempt_write,
)
from task_queue_engine.testing.conformance.step_programs import finishing, taking

TASKS = [str(UUID(int=number)) for number in range(4)]

# --- operations: strategies of functions ----------------------------------------------------

task_ids = st.sampled_from(TASKS)
picks = st.lists(st.integers(0, 7), min_size=1, max_size=4)
some_ids = st.lists(task_ids, min_size=1, max_size=4)


@st.composite
def creating(draw: st.DrawFn) -> Operation:
    items = draw(
        st.lists(
            st.tuples(
                task_ids,
                st.sampled_from(TYPES),
                st.integers(1, 3),
                st.sampled_from([None, None, 0.0, 40.0]),
                st.booleans(),
                st.sampled_from([None, 1, {"n": [1.5, "☃"]}, "x" * 3000]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    sends = draw(st.booleans())

    async def create(both: Pairwise) -> None:
        now = both.clock.now()
        new = []
        for task_id, type_name, max_attempts, wait, scheduled, payload in items:
            run_at = None if wait is None else both.later(wait)
            task = Task(
                id=task_id,
                type=type_name,
                payload=payload,
                max_attempts=max_attempts,
                created_at=now,
                updated_at=now,
                run_at=run_at,
            )
            new.append(NewTask(task=task, due_at=run_at if scheduled else None))
        if sends:
            await both.same(lambda backend: backend.submit(new))
        else:
            await both.same(lambda backend: backend.store.create(new))

    return create


@st.composite
def sending(draw: st.DrawFn) -> Operation:
    items = draw(
        st.lists(
            st.tuples(task_ids, st.sampled_from([0.0, 0.0, 0.0, 20.0, 900.0, 901.0, -1.0])),
            min_size=1,
            max_size=4,
        )
    )

    async def send(both: Pairwise) -> None:
        now = both.clock.now()
        messages = [
            Message(
                task=Task(id=id_, type="x", payload=None, created_at=now, updated_at=now),
                delay=delay,
            )
            for id_, delay in items
        ]
        await both.same(lambda backend: backend.queue("default").send(messages))

    return send


@st.composite
def submitting(draw: st.DrawFn) -> Operation:
    """Create, send, receive and claim: the usual way into PROCESSING."""
    task_id = draw(task_ids)
    max_attempts = draw(st.integers(1, 3))

    async def submit(both: Pairwise) -> None:
        now = both.clock.now()
        task = Task(
            id=task_id,
            type=TYPES[max_attempts % 2],
            payload=[max_attempts],
            max_attempts=max_attempts,
            created_at=now,
            updated_at=now,
        )
        await both.same(lambda backend: backend.store.create([NewTask(task=task)]))
        await both.same(lambda backend: backend.queue("default").send([Message(task=task)]))
        await both.receive(4, claims=True)

    return submit


@st.composite
def receiving(draw: st.DrawFn) -> Operation:
    number = draw(st.integers(1, 4))
    claims = draw(st.sampled_from([True, True, False]))
    ahead = draw(st.sampled_from([False, False, True]))

    async def receive(both: Pairwise) -> None:
        await both.receive(number, claims=claims, ahead=ahead)

    return receive


@st.composite
def claiming(draw: st.DrawFn) -> Operation:
    chosen = draw(picks)
    wrong_task = draw(st.sampled_from([None, None, *TASKS]))

    def requests(deliveries: list[Delivery]) -> list[ClaimRequest]:
        made = [structs.replace(claim_request(each), ahead=ahead) for each in deliveries]
        if wrong_task is not None and made:
            made[0] = structs.replace(made[0], task_id=wrong_task)
        return made

    ahead = draw(st.sampled_from([False, False, True]))

    async def claim(both: Pairwise) -> None:
        await both.on_held(chosen, lambda backend, held: backend.store.claim(requests(held)))

    return claim


@st.composite
def recording(draw: st.DrawFn) -> Operation:
    items = draw(
        st.lists(
            st.tuples(task_ids, st.sampled_from([0] * 8 + [-1, 1]), st.sampled_from(KINDS)),
            min_size=1,
            max_size=5,
        )
    )

    async def record(both: Pairwise) -> None:
        rows = await both.model.store.get([task_id for task_id, _, _ in items])
        writes = [
            attempt_write(both, task_id, (row.attempt if row else 0) + offset, kind)
            for (task_id, offset, kind), row in zip(items, rows, strict=True)
        ]
        await both.same(lambda backend: backend.store.record(writes))

    return record


@st.composite
def handling(draw: st.DrawFn) -> Operation:
    chosen = draw(picks)
    what = draw(st.sampled_from(["extend", "release", "delete", "delete", "dead_letter"]))
    delay = draw(st.sampled_from([0.0, 0.0, 15.0, 901.0]))

    async def handle(both: Pairwise) -> None:
        now = both.clock.now()

        async def call(backend: Backend, held: list[Delivery]) -> Any:
            queue = backend.queue("default")
            match what:
                case "extend":
                    return await queue.extend(held, visibility=VISIBILITY)
                case "release":
                    return await queue.release([(delivery, delay) for delivery in held])
                case "delete":
                    return await queue.delete(held)
                case _:
                    return await queue.dead_letter(
                        [
                            DeadLettering(
                                delivery=delivery, reason="a test", attempts=n, error=ERROR, at=now
                            )
                            for n, delivery in enumerate(held)
                        ]
                    )

        await both.on_held(chosen, call)

    return handle


@st.composite
def asking(draw: st.DrawFn) -> Operation:
    ids = draw(some_ids)
    what = draw(st.sampled_from(["cancel", "reopen", "reclaim", "schedule", "unschedule", "fail"]))

    async def ask(both: Pairwise) -> None:
        rows = await both.model.store.get(ids)
        match what:
            case "cancel":
                await both.same(lambda backend: backend.store.cancel(ids))
            case "reopen":
                await both.same(lambda backend: backend.store.reopen(ids))
            case "reclaim":
                items = [
                    (id_, row.attempt if row else 1) for id_, row in zip(ids, rows, strict=True)
                ]
                await both.same(lambda backend: backend.store.reclaim(items))
            case "fail":
                failures = [
                    PendingFailure(task_id=id_, attempt=row.attempt if row else 0, error=ERROR)
                    for id_, row in zip(ids, rows, strict=True)
                ]
                await both.same(lambda backend: backend.store.fail_pending(failures))
            case "schedule":
                at = both.later(5)
                await both.same(lambda backend: backend.store.schedule([(id_, at) for id_ in ids]))
            case _:
                found = await both.model.store.due("default", before=both.later(10**8), limit=100)
                marks = {each.task.id: each.due_at for each in found}
                changes = [DueChange(id_, marks.get(id_), None) for id_ in dict.fromkeys(ids)]
                await both.same(lambda backend: backend.store.change_due(changes))

    return ask


@st.composite
def passing_time(draw: st.DrawFn) -> Operation:
    seconds = draw(st.sampled_from([0.000001, 10.0, 10.0, 20.0, VISIBILITY, 1000.0]))

    async def advance(both: Pairwise) -> None:
        both.clock.advance(seconds)

    return advance


@st.composite
def keeping_house(draw: st.DrawFn) -> Operation:
    what = draw(st.sampled_from(["expire", "purge", "delete dead letters"]))

    async def keep(both: Pairwise) -> None:
        if what == "expire":
            before = both.later(-20)
            await both.same(lambda backend: backend.store.expire(finished_before=before, limit=100))
        elif what == "purge":
            await both.same(lambda backend: backend.queue("default").dead_letters.purge())
        else:
            model, real = await both.pair(
                lambda backend: backend.queue("default").dead_letters.take(limit=2)
            )
            assert list(map(anonymous_dead_letter, real)) == list(map(anonymous_dead_letter, model))
            assert await both.real.queue("default").dead_letters.delete(
                real
            ) == await both.model.queue("default").dead_letters.delete(model)

    return keep


operations = st.one_of(
    creating(),
    submitting(),
    submitting(),
    sending(),
    receiving(),
    receiving(),
    taking(),
    taking(),
    recording(),
    claiming(),
    finishing(),
    finishing(),
    handling(),
    asking(),
    passing_time(),
    keeping_house(),
)
