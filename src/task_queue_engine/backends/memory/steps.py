"""The steps of a task's way, each one transaction, as where queue and store are one file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from task_queue_engine.backends.base import (
    Created,
    DeadLettering,
    Delivery,
    Finish,
    Finished,
    NewTask,
    QueueVerdict,
    SubmitVerdict,
    Taken,
    TakePlan,
    is_settled_by,
    message_of,
    then_after,
)
from task_queue_engine.backends.memory.queue import MAX_DELAY, MemoryQueue
from task_queue_engine.backends.memory.state import MemoryState, StoredMessage
from task_queue_engine.backends.memory.store import MemoryStore
from task_queue_engine.lifecycle import ClaimRequest, Recorded, Started, decide_claim
from task_queue_engine.task import TaskStatus
from task_queue_engine.task_actions import ACTION_TYPE


async def submit(
    tasks: Sequence[NewTask],
    *,
    state: MemoryState,
    store: MemoryStore,
    queue_of: Callable[[str], MemoryQueue],
) -> list[SubmitVerdict]:
    """`Backend.submit`: rows and messages at once."""

    def carry_out() -> list[SubmitVerdict]:
        verdicts: list[SubmitVerdict] = []
        for new in tasks:
            verdict = store.add(new)
            verdicts.append(verdict)
            if isinstance(verdict, Created) and new.due_at is None:
                message = message_of(new, state.clock.now(), MAX_DELAY)
                queue_of(new.task.queue).put(message)
        return verdicts

    return await state.call("submit", carry_out)


class MemorySteps:
    """The steps on one queue's tasks. Its operations, for `Faults`: "take" and "finish"."""

    is_one_transaction = True
    max_batch = 100

    def __init__(self, *, queue: MemoryQueue, store: MemoryStore, state: MemoryState) -> None:
        self._queue = queue
        self._store = store
        self._state = state

    async def take(self, plan: TakePlan, *, wait: float, visibility: float) -> list[Taken]:
        def claim(
            delivery: Delivery, taken: list[Taken], places: dict[Hashable, int]
        ) -> bool | None:
            """None: it has no place. False: it has one, and is not its turn."""
            where = plan.types.get(delivery.task_type)
            if where in places and places[where] <= 0:
                return None
            ahead = len(taken) >= plan.free
            if ahead and (where is None or delivery.task_type not in plan.ahead_types):
                return False
            if where in places:
                places[where] -= 1
            started = None if where is None else self._start(delivery, plan, ahead=ahead)
            taken.append(Taken(delivery, started, ahead and started is not None))
            return True

        def take() -> list[Taken] | None:
            taken: list[Taken] = []
            places = dict(plan.places)
            all_taken = self._queue.take_while(
                lambda delivery: claim(delivery, taken, places),
                most=min(plan.most, self.max_batch),
                visibility=visibility,
                first=self._is_action if ACTION_TYPE in plan.types else lambda _: False,
            )
            return taken if taken or all_taken else None

        return await self._queue.when_visible("take", take, wait=wait)

    def _is_action(self, message: StoredMessage) -> bool:
        row = self._state.rows.get(message.task_id)
        if row is None or row.task.status.is_terminal:
            return False
        return row.task.type == ACTION_TYPE

    def _start(self, delivery: Delivery, plan: TakePlan, *, ahead: bool) -> Started | None:
        row = self._state.rows.get(delivery.task_id)
        if row is None or row.task.status is not TaskStatus.PENDING or delivery.receive_count > 1:
            return None
        request = ClaimRequest(
            task_id=delivery.task_id,
            message_id=delivery.message_id,
            receive_count=delivery.receive_count,
            worker=plan.worker,
            version=plan.version,
            ahead=ahead,
        )
        verdict, started = decide_claim(row, request, self._state.clock.now())
        if started is None or not isinstance(verdict, Started):
            return None
        self._state.save(started)
        return verdict

    async def finish(self, items: Sequence[Finish]) -> list[Finished]:
        def carry_out() -> list[Finished]:
            return [self._finish(item) for item in items]

        answered = await self._state.call("finish", carry_out)
        self._queue.wake()
        return answered

    def _finish(self, item: Finish) -> Finished:
        recorded = self._store.record_one(item.write)
        if not (is_settled_by(recorded) and isinstance(recorded, Recorded)):
            return Finished(recorded)
        then = then_after(recorded, item.then)
        settled: QueueVerdict
        if then is None:
            settled = self._queue.remove(item.delivery)
        elif isinstance(then, DeadLettering):
            settled = self._queue.move(then)
        else:
            settled = self._queue.give_back(item.delivery, then.delay)
        return Finished(recorded, settled)
