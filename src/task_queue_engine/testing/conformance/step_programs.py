"""Of the programs of operations: the steps of a task's way."""

from __future__ import annotations

import hypothesis.strategies as st

from task_queue_engine.backends.base import DeadLettering, Delivery, Finish, GiveBack, TakePlan
from task_queue_engine.testing.conformance.pairwise import (
    ERROR,
    KINDS,
    TYPES,
    Operation,
    Pairwise,
    attempt_write,
)

WHERE = {"email": "here", "export": "there"}
some_types = st.sampled_from([TYPES, TYPES, TYPES[:1], []])


@st.composite
def taking(draw: st.DrawFn) -> Operation:
    free = draw(st.integers(0, 3))
    plan = TakePlan(
        worker="taker",
        free=free,
        ahead=draw(st.integers(0 if free else 1, 3)),
        types={name: WHERE[name] for name in draw(some_types)},
        ahead_types=frozenset(draw(some_types)),
        places=draw(st.sampled_from([{}, {}, {"there": 1}, {"here": 0, "there": 2}])),
    )

    async def take(both: Pairwise) -> None:
        await both.take(plan)

    return take


THEN = ["delete", "give back", "give back", "give back later", "too late", "dead letter"]


@st.composite
def finishing(draw: st.DrawFn) -> Operation:
    items = draw(
        st.lists(
            st.tuples(
                st.integers(0, 7),
                st.sampled_from([0] * 8 + [-1, 1]),
                st.sampled_from(KINDS),
                st.sampled_from(THEN),
            ),
            min_size=1,
            max_size=5,
        )
    )

    def then(both: Pairwise, delivery: Delivery, what: str) -> GiveBack | DeadLettering | None:
        match what:
            case "give back":
                return GiveBack()
            case "give back later":
                return GiveBack(15.0)
            case "too late":
                return GiveBack(901.0)
            case "dead letter":
                return DeadLettering(
                    delivery=delivery, reason="a test", error=ERROR, at=both.clock.now()
                )
            case _:
                return None

    async def finish(both: Pairwise) -> None:
        # An attempt comes to one end: a batch has a delivery once.
        number = max(1, len(both.deliveries[-8:]))
        ends = {item[0] % number: item for item in items}.values()
        model, real = both.held([pick for pick, *_ in ends])
        rows = await both.model.store.get([delivery.task_id for delivery in model])
        attempts = [row.attempt if row else 0 for row in rows]

        def finishes(deliveries: list[Delivery]) -> list[Finish]:
            return [
                Finish(
                    attempt_write(both, delivery.task_id, attempt + offset, kind),
                    delivery,
                    then(both, delivery, what),
                )
                for delivery, attempt, (_, offset, kind, what) in zip(
                    deliveries, attempts, ends, strict=False
                )
            ]

        found = await both.real.steps("default").finish(finishes(real))
        assert found == await both.model.steps("default").finish(finishes(model))

    return finish
