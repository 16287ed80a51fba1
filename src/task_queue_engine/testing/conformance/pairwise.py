"""Two backends side by side: what one answers has to be what the other does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord, LogLine
from task_queue_engine.backends.base import Backend, DeadLetter, Delivery, Taken, TakePlan
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    ClaimRequest,
    Complete,
    Fail,
    Interrupt,
    LoseLease,
    Progress,
    ScheduleRetry,
    ScheduleSnooze,
)
from task_queue_engine.task import TaskError
from task_queue_engine.testing.conformance.harness import claim_request

ERROR = TaskError(type="ValueError", message="no")
VISIBILITY = 30.0
TYPES = ["email", "export"]

Pair = tuple[Any, Any]
Operation = Callable[["Pairwise"], Awaitable[None]]


@dataclass(slots=True)
class Pairwise:
    """Both backends, and what has been received from each so far."""

    model: Backend
    real: Backend
    clock: ManualClock
    deliveries: list[tuple[Delivery, Delivery]] = field(default_factory=list)

    async def same(self, call: Callable[[Backend], Awaitable[Any]]) -> Any:
        """Call both; their answers must be equal. Returns the model's."""
        expected, found = await call(self.model), await call(self.real)
        assert found == expected
        return expected

    async def receive(self, number: int, *, claims: bool, ahead: bool = False) -> None:
        model, real = await self.pair(
            lambda backend: backend.queue("default").receive(number, wait=0, visibility=VISIBILITY)
        )
        assert list(map(anonymous_delivery, real)) == list(map(anonymous_delivery, model))
        self.deliveries += zip(model, real, strict=True)
        if claims:

            def requests(deliveries: list[Delivery]) -> list[ClaimRequest]:
                return [structs.replace(claim_request(each), ahead=ahead) for each in deliveries]

            found = await self.real.store.claim(requests(real))
            assert found == await self.model.store.claim(requests(model))

    async def take(self, plan: TakePlan) -> None:
        model, real = await self.pair(
            lambda backend: backend.steps("default").take(plan, wait=0, visibility=VISIBILITY)
        )
        assert list(map(anonymous_taken, real)) == list(map(anonymous_taken, model))
        self.deliveries += zip(
            [one.delivery for one in model], [one.delivery for one in real], strict=True
        )

    async def pair(self, call: Callable[[Backend], Awaitable[Any]]) -> Pair:
        return await call(self.model), await call(self.real)

    def held(self, picks: Sequence[int]) -> tuple[list[Delivery], list[Delivery]]:
        """Some of the last deliveries, live and stale, as each backend knows them."""
        recent = self.deliveries[-8:]
        chosen = [recent[pick % len(recent)] for pick in picks] if recent else []
        return [model for model, _ in chosen], [real for _, real in chosen]

    async def on_held(
        self,
        picks: Sequence[int],
        call: Callable[[Backend, list[Delivery]], Awaitable[Any]],
    ) -> None:
        model, real = self.held(picks)
        assert await call(self.real, real) == await call(self.model, model)

    def later(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)


def anonymous_delivery(delivery: Delivery) -> Delivery:
    return structs.replace(delivery, message_id="", receipt="")


def anonymous_taken(taken: Taken) -> Taken:
    """A payload is in its delivery for a look before the claim alone."""
    delivery = anonymous_delivery(taken.delivery)
    if taken.started is not None:
        delivery = structs.replace(delivery, payload_json=b"")
    return structs.replace(taken, delivery=delivery)


def anonymous_dead_letter(dead_letter: DeadLetter) -> DeadLetter:
    return replace(dead_letter, id="", receipt="")


KINDS = ["complete", "complete", "fail", "retry", "retry later", "snooze", "interrupt"]
KINDS += ["cancel", "progress", "complete with lines", "fail with lines", "lost"]


def attempt_write(both: Pairwise, task_id: str, attempt: int, kind: str) -> AttemptWrite:
    record = None
    if kind in ("complete with lines", "fail with lines", "lost") and attempt > 0:
        now = both.clock.now()
        line = LogLine(time=now, level="INFO", logger="shop", message=f"{attempt}")
        running = AttemptOutcome.RUNNING
        record = AttemptRecord(number=attempt, outcome=running, started_at=now, logs=(line,))
    match kind:
        case "complete" | "complete with lines":
            return Complete(task_id=task_id, attempt=attempt, result={"by": attempt}, record=record)
        case "fail" | "fail with lines":
            return Fail(task_id=task_id, attempt=attempt, error=ERROR, record=record)
        case "lost":
            return LoseLease(task_id=task_id, attempt=attempt, record=record)
        case "retry" | "retry later":
            return ScheduleRetry(
                task_id=task_id,
                attempt=attempt,
                error=ERROR,
                run_at=both.later(10),
                scheduled=kind == "retry later",
            )
        case "snooze":
            return ScheduleSnooze(
                task_id=task_id, attempt=attempt, run_at=both.later(10), scheduled=True
            )
        case "interrupt":
            return Interrupt(task_id=task_id, attempt=attempt)
        case "cancel":
            return Cancel(task_id=task_id, attempt=attempt, error=ERROR)
        case _:
            return Progress(task_id=task_id, attempt=attempt, value=[attempt])
