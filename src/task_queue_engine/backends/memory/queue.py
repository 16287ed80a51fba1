"""Messages in the order in which they become visible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import trio

from task_queue_engine.backends.base import (
    DeadLetter,
    DeadLettering,
    Delivery,
    Done,
    LeaseLost,
    Message,
    QueueCapabilities,
    QueueDepth,
    QueueVerdict,
    Rejected,
    StrandedKind,
    TooLarge,
)
from task_queue_engine.backends.memory.dead_letters import MemoryDeadLetters
from task_queue_engine.backends.memory.state import MemoryState, StoredMessage
from task_queue_engine.lifecycle import BrokerDeadLetter, Row
from task_queue_engine.task import TaskStatus

T = TypeVar("T")

MAX_DELAY = 900.0
"""Seconds; the longest SQS can do, so that tests meet the same limit everywhere."""


class MemoryQueue:
    """Messages in the order in which they become visible.

    `depth` counts a message as in flight from its receipt until it is deleted, released or
    received again: a lapsed lease is noticed by the next receive.
    """

    max_batch = 100
    max_delay = MAX_DELAY
    capabilities = QueueCapabilities()

    def __init__(self, name: str, state: MemoryState) -> None:
        self._name = name
        self._state = state
        self._queue = state.queue(name)
        self._dead_letters = MemoryDeadLetters(name, state)

    @property
    def name(self) -> str:
        return self._name

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        return self._dead_letters

    def too_large(self, message: Message) -> TooLarge | None:
        """None: a message holds the task's id alone."""
        return None

    async def send(self, messages: Sequence[Message]) -> list[QueueVerdict]:
        return await self._state.write(self._queue, "send", messages, self.put)

    def put(self, message: Message) -> QueueVerdict:
        if not 0 <= message.delay <= self.max_delay:
            return _bad_delay(message.delay)
        message_id = self._state.next_id()
        self._queue.messages[message_id] = StoredMessage(
            message_id, message.task.id, self._now() + timedelta(seconds=message.delay)
        )
        self.wake()
        return Done()

    def wake(self) -> None:
        """Let receivers that wait look again."""
        self._queue.changed.set()

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        return await self.when_visible(
            "receive", lambda: self._take(max_messages, visibility), wait=wait
        )

    async def when_visible(
        self, operation: str, take: Callable[[], list[T] | None], *, wait: float
    ) -> list[T]:
        """`take()` until it takes something, or `wait` seconds are over. None from it ends the
        wait: there is something, and it is left there."""
        deadline = trio.current_time() + wait
        taken = await self._state.call(operation, take)
        while taken is not None and not taken:
            left = deadline - trio.current_time()
            if left <= 0:
                break
            if self._queue.changed.is_set():
                self._queue.changed = trio.Event()
            with trio.move_on_after(min(left, self._until_next_visible())):
                await self._queue.changed.wait()
            self._state.check_open()
            taken = take()
        return taken or []

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        def renew(delivery: Delivery) -> QueueVerdict:
            message = self._held(delivery)
            if message is None:
                return LeaseLost()
            message.visible_at = self._now() + timedelta(seconds=visibility)
            return Done()

        return await self._state.write(self._queue, "extend", deliveries, renew)

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        return await self._state.write(
            self._queue, "release", items, lambda item: self.give_back(*item)
        )

    def give_back(self, delivery: Delivery, delay: float) -> QueueVerdict:
        if not 0 <= delay <= self.max_delay:
            return _bad_delay(delay)
        message = self._held(delivery)
        if message is None:
            return LeaseLost()
        message.visible_at = self._now() + timedelta(seconds=delay)
        message.receipt = None
        return Done()

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        return await self._state.write(self._queue, "delete", deliveries, self.remove)

    def remove(self, delivery: Delivery) -> QueueVerdict:
        message = self._held(delivery)
        if message is None:
            return LeaseLost()
        del self._queue.messages[message.id]
        return Done()

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        return await self._state.write(self._queue, "dead_letter", items, self.move)

    def move(self, item: DeadLettering) -> QueueVerdict:
        message = self._held(item.delivery)
        if message is None:
            return LeaseLost()
        del self._queue.messages[message.id]
        dead_letter_id = self._state.next_id()
        self._queue.dead_letters[dead_letter_id] = DeadLetter(
            id=dead_letter_id,
            task_id=message.task_id,
            task_type=item.task_type,
            reason=item.reason,
            error=item.error,
            attempts=item.attempts,
            at=item.at,
        )
        return Done()

    async def depth(self) -> QueueDepth:
        def count() -> QueueDepth:
            now = self._now()
            oldest = min((one.visible_at for one in self._queue.messages.values()), default=now)
            free = [one for one in self._queue.messages.values() if one.receipt is None]
            return QueueDepth(
                waiting=len(free),
                delayed=sum(message.visible_at > now for message in free),
                in_flight=len(self._queue.messages) - len(free),
                dead=len(self._queue.dead_letters),
                oldest_age=max(0.0, (now - oldest).total_seconds()),
            )

        return await self._state.call("depth", count)

    def dead_letter_by_broker(self) -> None:
        """For tests: all messages move to the dead-letter queue by themselves, as SQS moves what
        was received too often."""
        reason = "moved by the broker"
        for message in self._queue.messages.values():
            self._queue.moved_by_broker[message.id] = BrokerDeadLetter(
                task_id=message.task_id, message_id=message.id, reason=reason
            )
            self._queue.dead_letters[message.id] = DeadLetter(
                id=message.id,
                task_id=message.task_id,
                task_type="",
                reason=reason,
                error=None,
                attempts=0,
                at=self._now(),
            )
        self._queue.messages.clear()

    def lapse_leases(self) -> None:
        """For tests: all visibility timeouts run out now, as if their owners had died."""
        for message in self._queue.messages.values():
            if message.receipt is not None:
                message.visible_at = min(message.visible_at, self._now())
        self._queue.changed.set()

    def lose_messages(self) -> None:
        """For tests: all messages vanish, as after a crash between save and send."""
        self._queue.messages.clear()

    def why_stranded(self, row: Row) -> StrandedKind | None:
        """None where a message, the scheduler or a dead letter of the broker's brings it on."""
        if any(
            dead_letter.task_id == row.task.id
            for dead_letter in self._queue.moved_by_broker.values()
        ):
            return None
        if row.task.status is TaskStatus.PROCESSING:
            return None if row.message_id in self._queue.messages else StrandedKind.ORPHANED
        if row.due_at is not None:
            return None
        sent = any(message.task_id == row.task.id for message in self._queue.messages.values())
        return None if sent else StrandedKind.UNSENT

    def _take(self, max_messages: int, visibility: float) -> list[Delivery]:
        taken: list[Delivery] = []

        def take(delivery: Delivery) -> bool | None:
            taken.append(delivery)
            return True

        self.take_while(take, most=max_messages, visibility=visibility)
        return taken

    def take_while(
        self,
        take: Callable[[Delivery], bool | None],
        *,
        most: int,
        visibility: float,
        first: Callable[[StoredMessage], bool] = lambda _: False,
    ) -> bool:
        """Lease visible messages in their order while `take` takes them, at most so many; those of
        which it says None are passed. False where it has refused one.

        Args:
            first: says which come before all others.
        """
        all_taken = True
        left = most
        left -= self._repeat(take, left)
        now = self._now()
        visible = sorted(
            (message for message in self._queue.messages.values() if message.visible_at <= now),
            key=lambda message: (not first(message), message.visible_at, int(message.id)),
        )
        for message in visible:
            if not left:
                break
            delivery = self._delivery(message)
            is_taken = take(delivery)
            if is_taken is None:
                continue
            if not is_taken:
                all_taken = False
                break
            left -= 1
            message.receive_count += 1
            message.receipt = delivery.receipt
            message.visible_at = now + timedelta(seconds=visibility)
            if self._state.faults.hits_delivery():
                self._queue.duplicates.append(delivery)
        self._repeat(take, left)
        if self._queue.duplicates:
            self._queue.changed.set()
        return all_taken

    def _repeat(self, take: Callable[[Delivery], bool | None], most: int) -> int:
        """Hand out what is to be delivered twice; returns how many."""
        number = 0
        while self._queue.duplicates and number < most and take(self._queue.duplicates[0]):
            self._queue.duplicates.popleft()
            number += 1
        return number

    def _delivery(self, message: StoredMessage) -> Delivery:
        count = message.receive_count + 1
        row = self._state.rows.get(message.task_id)
        return Delivery(
            task_id=message.task_id,
            message_id=message.id,
            receipt=f"{message.id}.{count}",
            receive_count=count,
            task_type="" if row is None else row.task.type,
            payload_json=b"" if row is None else msgspec.json.encode(row.task.payload),
        )

    def _held(self, delivery: Delivery) -> StoredMessage | None:
        message = self._queue.messages.get(delivery.message_id)
        return message if message is not None and message.receipt == delivery.receipt else None

    def _until_next_visible(self) -> float:
        """Seconds; infinite where none is hidden. Never 0: what is visible was taken or passed, and
        a clock that lags behind trio's must not make the waiting spin."""
        now = self._now()
        hidden = [one.visible_at for one in self._queue.messages.values() if one.visible_at > now]
        return max(1e-6, (min(hidden) - now).total_seconds()) if hidden else math.inf

    def _now(self) -> datetime:
        return self._state.clock.now()


def _bad_delay(delay: float) -> Rejected:
    return Rejected(f"the delay must be 0 to {MAX_DELAY:g} seconds, not {delay!r}")
