"""A backend in memory: a verified fake. For tests of an application and of the engine itself.

It keeps `Row`s and asks the pure functions of `lifecycle` what to do, and it passes the same
conformance suite as the real backends. Nothing survives the process. `faults` makes trouble.

Waiting runs on trio's clock and visibility on the `Clock` given: with `TrioClock` both follow
pytest-trio's `autojump_clock`. A `ManualClock` never wakes a waiting receiver by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
import trio

from task_queue_engine import lifecycle
from task_queue_engine.backends.base import (
    AlreadyExists,
    BackendInfo,
    Counts,
    Created,
    CreateVerdict,
    DeadLetter,
    DeadLettering,
    DeadLetterPage,
    Delivery,
    Done,
    LeaseLost,
    ListQuery,
    Message,
    NewTask,
    QueueCapabilities,
    QueueDepth,
    QueueVerdict,
    Rejected,
    Stranded,
    StrandedKind,
    StrandedPage,
    TaskPage,
    TooLarge,
    TryAgain,
)
from task_queue_engine.backends.cursors import (
    Int64,
    Moment,
    check_limit,
    decode_cursor,
    encode_cursor,
)
from task_queue_engine.backends.memory.faults import Faults
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Complete,
    Progress,
    RecordVerdict,
    ReopenVerdict,
    Row,
)
from task_queue_engine.task import Task, TaskStatus

T = TypeVar("T")

MAX_DELAY = 900.0
"""Seconds; the longest SQS can do, so that tests meet the same limit everywhere."""

MAX_ITEM_BYTES = 2**20


class MemoryBackend:
    """A queue and a store in memory, for one process. Several engines may share it, as several
    processes share a real backend.

    Args:
        clock: what "now" is; the machine's clock where None.
        max_item_bytes: larger payloads (in bytes of JSON) get the verdict TooLarge.
    """

    def __init__(self, *, clock: Clock | None = None, max_item_bytes: int = MAX_ITEM_BYTES) -> None:
        self.clock: Clock = clock or SystemClock()
        self.faults = Faults()
        self._rows: dict[str, Row] = {}
        self._queues: dict[str, MemoryQueue] = {}
        self._store = MemoryStore(self, self._rows, max_item_bytes)
        self._times_open = 0
        self._last_id = 0

    @property
    def store(self) -> MemoryStore:
        return self._store

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(name="memory", detail="this process, nothing is kept")

    def queue(self, name: str) -> MemoryQueue:
        if name not in self._queues:
            self._queues[name] = MemoryQueue(self, name)
        return self._queues[name]

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        self._times_open += 1
        try:
            yield
        finally:
            self._times_open -= 1
            for queue in self._queues.values():
                queue.wake()

    async def ping(self) -> None:
        await self.call("ping", lambda: None)

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        def look() -> StrandedPage:
            check_limit(limit)
            after = (
                None if cursor is None else decode_cursor(cursor, "stranded", tuple[Moment, str])
            )
            messages = self.queue(queue)
            waiting = sorted(
                (
                    row
                    for row in self._rows.values()
                    if row.task.queue == queue and not row.task.status.is_terminal
                ),
                key=_position,
            )
            if after is not None:
                waiting = [row for row in waiting if _position(row) > after]
            page = waiting[:limit]
            found = [
                Stranded(row.task, kind)
                for row in page
                if row.task.updated_at < before and (kind := messages.why_stranded(row)) is not None
            ]
            more = len(waiting) > limit
            return StrandedPage(
                found=tuple(found),
                next_cursor=encode_cursor("stranded", _position(page[-1])) if more else None,
            )

        return await self.call("stranded", look)

    async def call(self, operation: str, carry_out: Callable[[], T]) -> T:
        """Run one operation: a checkpoint first, then no way to be cancelled halfway."""
        self.check_open()
        await self.faults.enter(operation)
        self.check_open()
        answer = carry_out()
        self.faults.leave(operation)
        return answer

    def next_id(self) -> str:
        """Of a message or a dead letter; no two queues share one."""
        self._last_id += 1
        return str(self._last_id)

    def check_open(self) -> None:
        if not self._times_open:
            raise BackendUnavailable("the backend is not open")


# --- queue ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stored:
    id: str
    task_id: str
    visible_at: datetime
    receipt: str | None = None
    receive_count: int = 0


class MemoryQueue:
    """Messages in the order in which they become visible.

    `depth` counts a message as in flight from its receipt until it is deleted, released or
    received again: a lapsed lease is noticed by the next receive.
    """

    max_batch = 100
    max_delay = MAX_DELAY
    capabilities = QueueCapabilities()

    def __init__(self, backend: MemoryBackend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._messages: dict[str, _Stored] = {}
        self._dead_letters = MemoryDeadLetters(backend, self)
        self._duplicates: deque[Delivery] = deque()
        self._changed = trio.Event()

    @property
    def name(self) -> str:
        return self._name

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        return self._dead_letters

    async def send(self, messages: Sequence[Message]) -> list[QueueVerdict]:
        def put(message: Message) -> QueueVerdict:
            if not 0 <= message.delay <= self.max_delay:
                return _bad_delay(message.delay)
            message_id = self._backend.next_id()
            self._messages[message_id] = _Stored(
                message_id, message.task.id, self._now() + timedelta(seconds=message.delay)
            )
            return Done()

        return await self.write("send", messages, put)

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        deadline = trio.current_time() + wait
        taken = await self._backend.call("receive", lambda: self._take(max_messages, visibility))
        while not taken:
            left = deadline - trio.current_time()
            if left <= 0:
                break
            self._changed = self._changed if not self._changed.is_set() else trio.Event()
            with trio.move_on_after(min(left, self._until_next_visible())):
                await self._changed.wait()
            self._backend.check_open()
            taken = self._take(max_messages, visibility)
        return taken

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        def renew(delivery: Delivery) -> QueueVerdict:
            message = self._held(delivery)
            if message is None:
                return LeaseLost()
            message.visible_at = self._now() + timedelta(seconds=visibility)
            return Done()

        return await self.write("extend", deliveries, renew)

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        def give_back(item: tuple[Delivery, float]) -> QueueVerdict:
            delivery, delay = item
            if not 0 <= delay <= self.max_delay:
                return _bad_delay(delay)
            message = self._held(delivery)
            if message is None:
                return LeaseLost()
            message.visible_at = self._now() + timedelta(seconds=delay)
            message.receipt = None
            return Done()

        return await self.write("release", items, give_back)

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        def remove(delivery: Delivery) -> QueueVerdict:
            message = self._held(delivery)
            if message is None:
                return LeaseLost()
            del self._messages[message.id]
            return Done()

        return await self.write("delete", deliveries, remove)

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        def move(item: DeadLettering) -> QueueVerdict:
            message = self._held(item.delivery)
            if message is None:
                return LeaseLost()
            del self._messages[message.id]
            letter_id = self._backend.next_id()
            self._dead_letters.letters[letter_id] = DeadLetter(
                id=letter_id,
                task_id=message.task_id,
                task_type=item.task_type,
                reason=item.reason,
                error=item.error,
                attempts=item.attempts,
                at=item.at,
            )
            return Done()

        return await self.write("dead_letter", items, move)

    async def depth(self) -> QueueDepth:
        def count() -> QueueDepth:
            held = sum(message.receipt is not None for message in self._messages.values())
            return QueueDepth(
                waiting=len(self._messages) - held,
                in_flight=held,
                dead=len(self._dead_letters.letters),
            )

        return await self._backend.call("depth", count)

    def give_up_messages(self) -> None:
        """For tests: all messages move to the dead-letter queue by themselves, as SQS moves what
        was received too often."""
        reason = "given up by the queue"
        for message in self._messages.values():
            self._dead_letters.given_up[message.id] = BrokerDeadLetter(
                task_id=message.task_id, message_id=message.id, reason=reason
            )
            self._dead_letters.letters[message.id] = DeadLetter(
                id=message.id,
                task_id=message.task_id,
                task_type="",
                reason=reason,
                error=None,
                attempts=0,
                at=self._now(),
            )
        self._messages.clear()

    def wake(self) -> None:
        """Let whoever waits in `receive` look again."""
        self._changed.set()

    def lapse_leases(self) -> None:
        """For tests: all visibility timeouts run out now, as if their owners had gone silent."""
        for message in self._messages.values():
            if message.receipt is not None:
                message.visible_at = min(message.visible_at, self._now())
        self._changed.set()

    def lose_messages(self) -> None:
        """For tests: all messages vanish, as after a crash between save and send."""
        self._messages.clear()

    def why_stranded(self, row: Row) -> StrandedKind | None:
        if any(
            dead_letter.task_id == row.task.id
            for dead_letter in self._dead_letters.given_up.values()
        ):
            return None  # whose letter lies there is not stranded: `buried` tells
        if row.task.status is TaskStatus.PROCESSING:
            return None if row.message_id in self._messages else StrandedKind.ORPHANED
        if row.due_at is not None:
            return None
        sent = any(message.task_id == row.task.id for message in self._messages.values())
        return None if sent else StrandedKind.UNSENT

    async def write(
        self, operation: str, items: Sequence[T], one: Callable[[T], QueueVerdict]
    ) -> list[QueueVerdict]:
        def all_items() -> list[QueueVerdict]:
            verdicts = [
                TryAgain("made to fail by a test")
                if self._backend.faults.hits_item(operation)
                else one(item)
                for item in items
            ]
            self._changed.set()
            return verdicts

        return await self._backend.call(operation, all_items)

    def _take(self, max_messages: int, visibility: float) -> list[Delivery]:
        taken: list[Delivery] = []
        while self._duplicates and len(taken) < max_messages:
            taken.append(self._duplicates.popleft())
        now = self._now()
        visible = sorted(
            (message for message in self._messages.values() if message.visible_at <= now),
            key=lambda message: (message.visible_at, int(message.id)),
        )
        for message in visible[: max_messages - len(taken)]:
            message.receive_count += 1
            message.receipt = f"{message.id}.{message.receive_count}"
            message.visible_at = now + timedelta(seconds=visibility)
            delivery = Delivery(
                task_id=message.task_id,
                message_id=message.id,
                receipt=message.receipt,
                receive_count=message.receive_count,
            )
            taken.append(delivery)
            if self._backend.faults.hits_delivery():
                self._duplicates.append(delivery)
        while self._duplicates and len(taken) < max_messages:
            taken.append(self._duplicates.popleft())
        if self._duplicates:
            self._changed.set()
        return taken

    def _held(self, delivery: Delivery) -> _Stored | None:
        message = self._messages.get(delivery.message_id)
        return message if message is not None and message.receipt == delivery.receipt else None

    def _until_next_visible(self) -> float:
        """Seconds; infinite for an empty queue. Never 0: a visible message would have been
        taken, and a clock that lags behind trio's must not make the waiting spin."""
        if not self._messages:
            return math.inf
        earliest = min(message.visible_at for message in self._messages.values())
        return max(1e-6, (earliest - self._now()).total_seconds())

    def _now(self) -> datetime:
        return self._backend.clock.now()


class MemoryDeadLetters:
    """The dead letters of one queue, oldest first."""

    def __init__(self, backend: MemoryBackend, queue: MemoryQueue) -> None:
        self._backend = backend
        self._queue = queue
        self.letters: dict[str, DeadLetter] = {}
        self.given_up: dict[str, BrokerDeadLetter] = {}

    async def page(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        def page() -> DeadLetterPage:
            check_limit(limit)
            below = math.inf
            if cursor is not None:
                (below,) = decode_cursor(cursor, "dead", tuple[Int64])
            letters = [
                letter for letter in reversed(self.letters.values()) if int(letter.id) < below
            ]
            return DeadLetterPage(
                letters=tuple(letters[:limit]),
                next_cursor=encode_cursor("dead", (int(letters[limit - 1].id),))
                if len(letters) > limit
                else None,
            )

        return await self._backend.call("dead_letters.page", page)

    async def take(self, *, limit: int, ids: Sequence[str] | None = None) -> list[DeadLetter]:
        def take() -> list[DeadLetter]:
            wanted = None if ids is None else set(ids)
            letters = [
                letter for letter in self.letters.values() if wanted is None or letter.id in wanted
            ]
            return letters[:limit]

        return await self._backend.call("dead_letters.take", take)

    async def delete(self, dead_letters: Sequence[DeadLetter]) -> list[QueueVerdict]:
        def remove(letter: DeadLetter) -> QueueVerdict:
            self.given_up.pop(letter.id, None)
            return Done() if self.letters.pop(letter.id, None) is not None else LeaseLost()

        return await self._queue.write("dead_letters.delete", dead_letters, remove)

    async def purge(self) -> int:
        def purge() -> int:
            count = len(self.letters)
            self.letters.clear()
            self.given_up.clear()
            return count

        return await self._backend.call("dead_letters.purge", purge)

    async def moved_by_broker(self) -> list[BrokerDeadLetter]:
        return await self._backend.call(
            "dead_letters.moved_by_broker", lambda: list(self.given_up.values())
        )


def _bad_delay(delay: float) -> Rejected:
    return Rejected(f"the delay must be 0 to {MAX_DELAY:g} seconds, not {delay!r}")


# --- store ----------------------------------------------------------------------------------


class MemoryStore:
    """Rows by task id, changed by the functions of `lifecycle` alone."""

    max_batch = 100

    def __init__(self, backend: MemoryBackend, rows: dict[str, Row], max_item_bytes: int) -> None:
        self._backend = backend
        self._rows = rows
        self._max_item_bytes = max_item_bytes

    def row(self, task_id: str) -> Row | None:
        """For tests: the row as it is stored."""
        return self._rows.get(task_id)

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        def add(new: NewTask) -> CreateVerdict:
            if self._backend.faults.hits_item("create"):
                return TryAgain("made to fail by a test")
            payload = msgspec.json.encode(new.task.payload)
            if len(payload) > self._max_item_bytes:
                return TooLarge(len(payload), self._max_item_bytes)
            existing = self._rows.get(new.task.id)
            if existing is not None:
                return AlreadyExists(existing.task)
            task = msgspec.structs.replace(new.task, payload=msgspec.json.decode(payload))
            self._rows[task.id] = Row(task=task, due_at=new.due_at)
            return Created()

        return await self._each("create", tasks, add)

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        def look(task_id: str) -> Task | None:
            row = self._rows.get(task_id)
            return None if row is None else row.task

        return await self._each("get", task_ids, look)

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        def page() -> TaskPage:
            check_limit(query.limit)
            below = (
                None
                if query.cursor is None
                else decode_cursor(query.cursor, "tasks", tuple[Moment, str])
            )
            rows = sorted(
                (
                    row
                    for row in self._rows.values()
                    if query.status in (None, row.task.status)
                    and query.type in (None, row.task.type)
                    and (below is None or _position(row) < below)
                ),
                key=_position,
                reverse=True,
            )
            return TaskPage(
                tasks=tuple(row.task for row in rows[: query.limit]),
                next_cursor=encode_cursor("tasks", _position(rows[query.limit - 1]))
                if len(rows) > query.limit
                else None,
            )

        return await self._backend.call("list_tasks", page)

    async def counts(self) -> Counts:
        def count() -> Counts:
            by_status = dict.fromkeys(TaskStatus, 0)
            for row in self._rows.values():
                by_status[row.task.status] += 1
            return Counts(**{status.lower(): number for status, number in by_status.items()})

        return await self._backend.call("counts", count)

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        return await self._decide(
            "claim",
            requests,
            lambda request, now: (
                request.task_id,
                lifecycle.decide_claim(self._rows.get(request.task_id), request, now),
            ),
        )

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
        def one(write: AttemptWrite, now: datetime) -> tuple[str, tuple[RecordVerdict, Row | None]]:
            if isinstance(write, Complete):
                write = replace(write, result=_through_json(write.result))
            elif isinstance(write, Progress):
                write = replace(write, value=_through_json(write.value))
            row = self._rows.get(write.task_id)
            return write.task_id, lifecycle.decide_record(row, write, now)

        return await self._decide("record", writes, one)

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        return await self._decide(
            "cancel",
            task_ids,
            lambda task_id, now: (
                task_id,
                lifecycle.decide_cancel(self._rows.get(task_id), now),
            ),
        )

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        def look(task_id: str) -> bool:
            row = self._rows.get(task_id)
            return row is not None and row.task.cancel_requested

        return await self._each("cancel_requested", task_ids, look)

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        return await self._decide(
            "reopen",
            task_ids,
            lambda task_id, now: (
                task_id,
                lifecycle.decide_reopen(self._rows.get(task_id), now),
            ),
        )

    async def due(self, *, before: datetime, limit: int) -> list[Task]:
        def look() -> list[Task]:
            # A stable sort: those due at one moment stay in the order of their creation.
            found = sorted(
                (
                    (row.due_at, row.task)
                    for row in self._rows.values()
                    if row.due_at is not None
                    and row.due_at <= before
                    and row.task.status is TaskStatus.PENDING
                ),
                key=itemgetter(0),
            )
            return [task for _, task in found[:limit]]

        return await self._backend.call("due", look)

    async def schedule(self, items: Sequence[tuple[str, datetime | None]]) -> None:
        def write() -> None:
            for task_id, due_at in items:
                row = self._rows.get(task_id)
                if row is not None and row.task.status is TaskStatus.PENDING:
                    self._rows[task_id] = replace(row, due_at=due_at)

        await self._backend.call("schedule", write)

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        return await self._decide(
            "reclaim",
            items,
            lambda item, now: (
                item[0],
                lifecycle.decide_reclaim(self._rows.get(item[0]), item[1], now),
            ),
        )

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        return await self._decide(
            "fail_dead_lettered",
            items,
            lambda item, now: (
                item.task_id,
                lifecycle.decide_fail_dead_lettered(self._rows.get(item.task_id), item, now),
            ),
        )

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        def remove() -> int:
            old = [
                task_id
                for task_id, row in self._rows.items()
                if row.task.finished_at is not None and row.task.finished_at < finished_before
            ][:limit]
            for task_id in old:
                del self._rows[task_id]
            return len(old)

        return await self._backend.call("expire", remove)

    async def _each(self, operation: str, items: Sequence[Any], one: Callable[[Any], T]) -> list[T]:
        return await self._backend.call(operation, lambda: [one(item) for item in items])

    async def _decide(
        self,
        operation: str,
        items: Iterable[Any],
        one: Callable[[Any, datetime], tuple[str, tuple[T, Row | None]]],
    ) -> list[T]:
        def all_items() -> list[T]:
            now = self._backend.clock.now()
            verdicts = []
            for item in items:
                task_id, (verdict, row) = one(item, now)
                if row is not None:
                    self._rows[task_id] = row
                verdicts.append(verdict)
            return verdicts

        return await self._backend.call(operation, all_items)


def _position(row: Row) -> tuple[datetime, str]:
    return row.task.created_at, row.task.id


def _through_json(value: Any) -> Any:
    """As a real store would keep it: nobody else's object, and only what JSON can say."""
    return msgspec.json.decode(msgspec.json.encode(value))
