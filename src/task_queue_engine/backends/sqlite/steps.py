"""The steps of a task's way, each one transaction: queue and store are one file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, structs

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
    then_after,
)
from task_queue_engine.backends.claimed_by import claimed_by
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.messages import MAX_DELAY
from task_queue_engine.backends.sqlite.passing import FIRST, PASSING, AllPassing, place_behind
from task_queue_engine.backends.sqlite.queue import SqliteQueue
from task_queue_engine.backends.sqlite.rows import (
    NUMBER_OF,
    ROW_AS_JSON,
    Stored,
    from_us,
    from_us_or_none,
    to_us_or_none,
)
from task_queue_engine.backends.sqlite.store import SqliteStore
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.lifecycle import (
    Recorded,
    RecordVerdict,
    Started,
    may_be_claimed_ahead,
)
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import ACTION_TYPE

_PENDING = NUMBER_OF[TaskStatus.PENDING]
_PROCESSING = NUMBER_OF[TaskStatus.PROCESSING]


class _Visible(msgspec.Struct, array_like=True):
    message_id: int
    task_id: str
    receive_count: int
    leased: int
    row_id: int
    row: Stored | None


# In one look what a receive and a claim would each look for: the messages, and their tasks.
_VISIBLE = (
    "SELECT '[[' || group_concat(concat_ws(',', m.id, json_quote(m.task_id), m.receive_count, "
    "m.leased, ifnull(tasks.rowid, 0), "
    f"iif(tasks.id IS NULL, 'null', '[' || {ROW_AS_JSON} || ']')), '],[' "
    "ORDER BY m.visible_at, m.id) || ']]' "
    "FROM ({chosen}) AS m LEFT JOIN tasks ON tasks.id = m.task_id"
)
_FIRST = _VISIBLE.format(chosen=FIRST)
_PASSING = _VISIBLE.format(chosen=PASSING)
# By the index of statuses and types: the queue's own knows neither, and actions are few. Named, and
# joined in this order, or SQLite might rather go through the queue.
_ACTION = _VISIBLE.format(
    chosen="SELECT waiting.* FROM tasks AS action INDEXED BY tasks_listed CROSS JOIN messages AS "
    "waiting ON waiting.task_id = action.id "
    f"WHERE action.status IN ({_PENDING}, {_PROCESSING}) AND action.type = ? "
    "AND waiting.queue = ? AND waiting.visible_at <= ? LIMIT 1"
)
# Microseconds until a busy queue is looked through again for an action: a statement a second, where
# one in every take would make that of a single task twice as slow (50 us and 100).
_LOOK_FOR_ACTIONS = 10**6
_visible = JsonRows(_Visible)
# `lifecycle.decide_claim` of a task that is PENDING and due.
_START = Batch(
    "WITH new (number, message_id, receive_count, ahead) AS (VALUES {rows}) "
    f"UPDATE tasks SET status = {_PROCESSING}, attempt = attempt + 1, started_at = ?, "
    "updated_at = ?, worker = ?, claimed_by = ?, progress = NULL, due_at = NULL, "
    "message_id = new.message_id, receive_count = new.receive_count, "
    "claimed_ahead = iif(new.ahead, attempt + 1, NULL) "
    "FROM new WHERE tasks.rowid = new.number",
    width=4,
)


async def submit(
    tasks: Sequence[NewTask],
    *,
    file: DatabaseFile,
    store: SqliteStore,
    queue_of: Callable[[str], SqliteQueue],
) -> list[SubmitVerdict]:
    """`Backend.submit`: rows and messages in one transaction."""
    creation = store.creation(tasks)
    queues = {new.task.queue: queue_of(new.task.queue) for new in tasks if new.due_at is None}
    times = {name: queue.now() for name, queue in queues.items()}

    def work(transaction: Transaction) -> list[SubmitVerdict]:
        verdicts: list[SubmitVerdict] = [*creation.carry_out(transaction)]
        for name, queue in queues.items():
            now = times[name]
            latest = now + round(MAX_DELAY * 1e6)
            rows = [
                (new.task.id, min(max(now, to_us_or_none(new.task.run_at) or now), latest))
                for new, verdict in zip(tasks, verdicts, strict=True)
                if new.due_at is None and isinstance(verdict, Created) and new.task.queue == name
            ]
            queue.messages.put(transaction, rows, now)
        return verdicts

    answered = await file.write(work)
    for queue in queues.values():
        queue.wake()
    return answered


class SqliteSteps:
    """The steps on one queue's tasks."""

    is_one_transaction = True
    max_batch = 256

    def __init__(self, *, queue: SqliteQueue, store: SqliteStore, file: DatabaseFile) -> None:
        self._queue = queue
        self._store = store
        self._file = file
        self._passing = AllPassing(queue)
        self._no_action_at = -_LOOK_FOR_ACTIONS

    # --- take -------------------------------------------------------------------------------

    async def take(self, plan: TakePlan, *, wait: float, visibility: float) -> list[Taken]:
        lease_us = round(visibility * 1e6)
        passing = self._passing.of(plan.without_place)
        limit = min(plan.most, self.max_batch)

        def take(transaction: Transaction, now: int) -> list[Taken] | None:
            action: list[_Visible] = []
            if not 0 <= now - self._no_action_at < _LOOK_FOR_ACTIONS and ACTION_TYPE in plan.types:
                action = self._first_action(transaction, now)
            if passing is None:
                rows = transaction.execute(_FIRST, (self._queue.name, now, limit))
            else:
                rows = transaction.execute(_PASSING, passing.place(now, limit))
            found = _visible.of(rows.fetchall())
            if action:
                first = action[0].message_id
                others = (each for each in found if each.message_id != first)
                found = [*action, *others][:limit]
            taking, asked, is_any = _Taking(plan, now), limit, bool(found)
            goes_on = all(map(taking.add, found))
            # Of a full look some had no place any more: as many lie behind it.
            while goes_on and len(found) == asked and len(taking.taken) < limit:
                asked = limit - len(taking.taken)
                place = place_behind(
                    transaction,
                    found[-1].message_id,
                    queue=self._queue.name,
                    now=now,
                    types=taking.without_place,
                    limit=asked,
                )
                found = _visible.of(transaction.execute(_PASSING, place).fetchall())
                goes_on = all(map(taking.add, found))
            if is_any and not taking.taken:
                return None
            ids, newly = taking.message_ids, taking.newly_leased
            self._queue.messages.lease(transaction, ids, newly, now, now + lease_us)
            by = (plan.worker, claimed_by(plan.version, plan.worker))
            _START.run(transaction.execute, taking.starts, after=(now, now, *by))
            transaction.counters[TaskStatus.PENDING] -= len(taking.starts)
            transaction.counters[TaskStatus.PROCESSING] += len(taking.starts)
            return taking.taken

        look = None if passing is None else passing.look
        return await self._queue.take_when_visible(take, wait=wait, look=look)

    def _first_action(self, transaction: Transaction, now: int) -> list[_Visible]:
        """An action on many tasks that is visible. Where there is one the next take looks at once:
        this one may have no free worker for it."""
        which = (ACTION_TYPE, self._queue.name, now)
        found = _visible.of(transaction.execute(_ACTION, which).fetchall())
        if not found:
            self._no_action_at = now
        return found

    # --- finish -----------------------------------------------------------------------------

    async def finish(self, items: Sequence[Finish]) -> list[Finished]:
        record = self._store.recording([item.write for item in items])
        now = self._queue.now()

        def work(transaction: Transaction) -> list[Finished]:
            recorded = record(transaction)
            return self._settle(transaction, items, recorded, now)

        answered = await self._file.write(work)
        # Those that go back are visible again.
        if any(item.then is not None for item in items):
            self._queue.wake()
        return answered

    def _settle(
        self,
        transaction: Transaction,
        items: Sequence[Finish],
        recorded: Sequence[RecordVerdict],
        now: int,
    ) -> list[Finished]:
        deleted: list[int] = []
        given_back: list[tuple[int, float]] = []
        dead: list[tuple[int, DeadLettering]] = []
        for index, (item, verdict) in enumerate(zip(items, recorded, strict=True)):
            if not (is_settled_by(verdict) and isinstance(verdict, Recorded)):
                continue
            then = then_after(verdict, item.then)
            if then is None:
                deleted.append(index)
            elif isinstance(then, DeadLettering):
                dead.append((index, then))
            else:
                given_back.append((index, then.delay))
        settled: list[QueueVerdict | None] = [None] * len(items)

        def note(indexes: Sequence[int], verdicts: Sequence[QueueVerdict]) -> None:
            for index, verdict in zip(indexes, verdicts, strict=True):
                settled[index] = verdict

        if deleted:
            deliveries = [items[index].delivery for index in deleted]
            note(deleted, self._queue.messages.delete(transaction, deliveries))
        if given_back:
            released = [(items[index].delivery, delay) for index, delay in given_back]
            answers = self._queue.messages.release(transaction, released, now)
            note([index for index, _ in given_back], answers)
        if dead:
            answers = self._queue.messages.dead_letter(transaction, [letter for _, letter in dead])
            note([index for index, _ in dead], answers)
        return list(map(Finished, recorded, settled))


@dataclass(slots=True)
class _Taking:
    """What is taken of the visible messages, in their order, and what of it starts."""

    plan: TakePlan
    now: int
    message_ids: list[int] = field(default_factory=list)
    newly_leased: int = 0
    starts: list[tuple[int, str, int, bool]] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    _free: int = 0
    _ahead: int = 0
    _started: set[str] = field(default_factory=set)
    _places: dict[Hashable, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = dict(self.plan.places)

    @property
    def without_place(self) -> frozenset[str]:
        """Types that have none any more."""
        return structs.replace(self.plan, places=self._places).without_place

    def add(self, visible: _Visible) -> bool:
        """False: it is not the turn of this one, nor of those behind it."""
        plan, row = self.plan, visible.row
        where = None if row is None else plan.types.get(row.type)
        if where in self._places and self._places[where] <= 0:
            return True  # it is passed
        ahead = self._free >= plan.free
        if ahead:
            is_short = row is not None and row.type in plan.ahead_types
            if where is None or not is_short or self._ahead >= plan.ahead:
                return False
        if where in self._places:
            self._places[where] -= 1
        self._ahead += ahead
        self._free += not ahead
        self.message_ids.append(visible.message_id)
        self.newly_leased += not visible.leased
        delivery = _delivery(visible)
        task = None if row is None or where is None else self._startable(visible, row, ahead=ahead)
        if task is not None:
            number = (visible.row_id, delivery.message_id, delivery.receive_count, ahead)
            self.starts.append(number)
            self.taken.append(Taken(delivery, Started(task), ahead))
            return True
        # Looked at before its claim: by which a worker sees what it cannot run.
        payload_json = b"" if row is None else msgspec.json.encode(row.payload)
        self.taken.append(Taken(structs.replace(delivery, payload_json=payload_json)))
        return True

    def _startable(self, visible: _Visible, row: Stored, *, ahead: bool) -> Task | None:
        """None: its claim takes more than a look at a PENDING row."""
        if visible.receive_count or row.status != _PENDING or row.id in self._started:
            return None
        if row.run_at is not None and row.run_at > self.now:
            return None
        task = _started(row, self.plan.worker, self.now)
        if ahead and not may_be_claimed_ahead(task):
            return None
        self._started.add(row.id)
        return task


def _delivery(visible: _Visible) -> Delivery:
    row, count = visible.row, visible.receive_count + 1
    message_id = str(visible.message_id)
    return Delivery(
        task_id=visible.task_id,
        message_id=message_id,
        receipt=f"{message_id}.{count}",
        receive_count=count,
        task_type="" if row is None else row.type,
    )


def _started(row: Stored, worker: str, now_us: int) -> Task:
    now = from_us(now_us)
    return Task(
        id=row.id,
        type=row.type,
        payload=row.payload,
        status=TaskStatus.PROCESSING,
        queue=row.queue,
        retry_count=row.retry_count,
        attempt=row.attempt + 1,
        max_attempts=row.max_attempts,
        timeout_seconds=row.timeout_seconds,
        created_at=from_us(row.created_at),
        updated_at=now,
        run_at=from_us_or_none(row.run_at),
        started_at=now,
        finished_at=from_us_or_none(row.finished_at),
        result=row.result,
        error=row.error,
        worker=worker,
        cancel_requested=bool(row.cancel_requested),
        trace_context=row.trace_context or UNSET,
    )
