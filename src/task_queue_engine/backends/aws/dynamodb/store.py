"""The task store on DynamoDB.

From here inwards: `creation`; `operations` (what is asked of a row), `changes` (blind writes,
decisions, conflicts); `writes` (conditional writes as data), `writers` (how they are sent); `items`
and `table` (what is stored); `listing`, `scans`, `sweep` and `counters` beside them; `calls` at the
edge.
docs/adr/0014 says what each operation costs.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import trio

from task_queue_engine.backends.aws.dynamodb import listing, scans
from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.dynamodb.conditional_writes import mark_due, remove
from task_queue_engine.backends.aws.dynamodb.counters import Counters, CountRepair
from task_queue_engine.backends.aws.dynamodb.create import Creator
from task_queue_engine.backends.aws.dynamodb.item_format import (
    id_of_position,
)
from task_queue_engine.backends.aws.dynamodb.sweep import Sweep
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.dynamodb.transitions import (
    Cancelling,
    Claiming,
    FailingDeadLettered,
    Reclaiming,
    Recording,
    Reopening,
)
from task_queue_engine.backends.aws.dynamodb.update import Changer
from task_queue_engine.backends.aws.dynamodb.write_tokens import Tokens
from task_queue_engine.backends.aws.dynamodb.writers import (
    Answer,
    Applied,
    ConditionFailed,
    Unanswered,
    make_writer,
)
from task_queue_engine.backends.aws.usage import Meter, Usage
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.base import (
    Counts,
    CreateVerdict,
    ListQuery,
    NewTask,
    StrandedPage,
    TaskPage,
)
from task_queue_engine.backends.cursors import check_limit, decode_cursor, encode_cursor
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendUnavailable, InvalidQuery
from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Progress,
    RecordVerdict,
    ReopenVerdict,
    Started,
)
from task_queue_engine.task import Task, TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

_REQUEST_TIMEOUT = 4.0
_CALL_TIMEOUT = 8.0
"""Of a write with all its retries; what a shutdown may have to wait for while DynamoDB hangs."""

ORPHANED_AFTER = timedelta(hours=12, minutes=10)
"""The longest a message can be kept invisible (SQS API reference, ChangeMessageVisibility), and
10 minutes for clocks that disagree."""

_REMEMBERED_TYPES = 50_000

_SWEEP_ON: scans.Place = ("SWEEP", "")
"""For a cursor: the walk is over, the sweep is not."""


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What the store has asked of DynamoDB since it was made."""

    by_operation: dict[str, Usage] = field(default_factory=dict)
    """Methods of the store, and "counters", "repair_counts", "sweep". Requests are calls: the
    client's own statistics count its retries."""
    by_task_type: dict[str, Usage] = field(default_factory=dict)
    """Writes of tasks, as far as their type was known here."""


class DynamoStore:
    """All queues' tasks, in one table.

    Args:
        client: open while the store is.
        table_name: a table as in `table.create_table_parameters`.
        writes: "batch", or "single" for servers without PartiQL.
        retention: seconds after which DynamoDB's TTL may delete a finished task; with 0 it never
            does, and `expire` deletes.
        flush_interval, repair_interval: of the counters, in seconds; see `counters`.
        orphaned_after: how old an attempt must be to be given up; see `stranded`.
        sweep_lag: seconds after which a task that has not ended is filed apart; see `sweep`. A
            task that takes longer costs more, a lost message is found no sooner. Engines that
            share a table should agree on it, and their clocks to within half of it.
        concurrency: write requests at once, and as many reads.
    """

    max_batch = 100

    def __init__(
        self,
        client: AwsClient,
        *,
        table_name: str,
        clock: Clock | None = None,
        writes: Literal["batch", "single"] = "batch",
        retention: float = 0.0,
        flush_interval: float = 1.0,
        repair_interval: float = 24 * 3600.0,
        orphaned_after: timedelta = ORPHANED_AFTER,
        sweep_lag: float = 120.0,
        concurrency: int = 16,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311  # jitter, not a secret
        self._clock: Clock = clock or SystemClock()
        self._retention = retention
        self._orphaned_after = orphaned_after
        self._calls = TableCalls(
            client,
            table=table_name,
            concurrency=concurrency,
            timeout=_REQUEST_TIMEOUT,
            rng=rng,
        )
        self._counters = Counters(
            self._calls,
            now=self._clock.now,
            count_rows=self._count_rows,
            flush_interval=flush_interval,
            repair_interval=repair_interval,
            rng=rng,
        )
        self._tokens = Tokens()
        self._writer = make_writer(writes, self._calls)
        self._sweep = Sweep(
            self._calls,
            self._writer,
            now=self._clock.now,
            lag=timedelta(seconds=sweep_lag),
            refiled=self._counters.refiled,
        )
        self._creator = Creator(
            calls=self._calls,
            writer=self._writer,
            tokens=self._tokens,
            sweep=self._sweep,
            count=self._counters.move,
            pay=self._pay,
            now=self._clock.now,
            retention=retention,
            timeout=_CALL_TIMEOUT,
        )
        self._changer = Changer(
            calls=self._calls,
            writer=self._writer,
            tokens=self._tokens,
            count=self._counters.move,
            pay=self._pay,
            now=self._clock.now,
            retention=retention,
            timeout=_CALL_TIMEOUT,
        )
        self._meters: dict[str, Meter] = {}
        # Of what is running here: a record names no type.
        self._types: OrderedDict[str, str] = OrderedDict()

    def __str__(self) -> str:
        return f"table {self._calls.table}"

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            by_operation=self._calls.usage(),
            by_task_type={name: meter.snapshot() for name, meter in self._meters.items()},
        )

    # --- opening ----------------------------------------------------------------------------

    def open(self) -> AbstractAsyncContextManager[None]:
        """Check the table, then keep its counters until the block is left.

        Raises:
            ConfigurationError, BackendRefused: it cannot be used, and why.
            BackendUnavailable: throttled or failing; another try may help.
        """
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        await self._check()
        failure: BaseException | None = None
        self._calls.is_open = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._counters.run)
                try:
                    yield
                except BaseException as error:  # noqa: BLE001  # raised below, not in a group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            try:
                await self._counters.close()
            finally:
                self._calls.is_open = False
        if failure is not None:
            raise failure

    async def _check(self) -> None:
        name = self._calls.table
        key = _key(table.counter_ids()[0])
        await self._calls.check("GetItem", key, lacking=f"there is no table {name} with the key id")
        await gather([partial(self._check_index, index) for index in table.INDEXES])

    async def _check_index(self, index: table.Index) -> None:
        query = {
            "IndexName": index.name,
            "KeyConditionExpression": "#key = :none",
            "ExpressionAttributeNames": {"#key": index.hash_key},
            "ExpressionAttributeValues": {":none": {"S": "none"}},
            "Limit": 1,
        }
        lacking = f"table {self._calls.table} has no index {index.name} on {index.hash_key}"
        await self._calls.check("Query", query, lacking=lacking)

    async def ping(self) -> None:
        """A write that changes nothing. Raises BackendUnavailable with the reason where no task
        could be written."""
        removal = {
            "TableName": self._calls.table,
            **_key(table.counter_ids()[0]),
            "UpdateExpression": "REMOVE #nothing",
            "ExpressionAttributeNames": {"#nothing": "ping"},
        }
        try:
            await self._calls.write("ping", "UpdateItem", removal)
        except AwsRequestFailed as error:
            raise BackendUnavailable(f"table {self._calls.table}: {error}") from error

    # --- writes -----------------------------------------------------------------------------

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        return await self._creator.create(tasks)

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        verdicts = await self._changer.carry_out("claim", [Claiming(each) for each in requests])
        for verdict in verdicts:
            if isinstance(verdict, Started):
                self._types[verdict.task.id] = verdict.task.type
        while len(self._types) > _REMEMBERED_TYPES:
            self._types.popitem(last=False)
        return verdicts

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
        verdicts = await self._changer.carry_out(
            "record", [Recording(write, self._retention) for write in writes]
        )
        for write in writes:
            if not isinstance(write, Progress):
                self._types.pop(write.task_id, None)
        return verdicts

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        return await self._changer.carry_out("cancel", [Cancelling(each) for each in task_ids])

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        return await self._changer.carry_out("reopen", [Reopening(each) for each in task_ids])

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        return await self._changer.carry_out(
            "reclaim", [Reclaiming(task_id, attempt) for task_id, attempt in items]
        )

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        return await self._changer.carry_out(
            "fail_dead_lettered", [FailingDeadLettered(each) for each in items]
        )

    async def schedule(self, items: Sequence[tuple[str, datetime | None]]) -> None:
        self._calls.count("schedule", len(items))
        # Of several for one task the last one counts.
        updates = [mark_due(task_id, due_at) for task_id, due_at in dict(items).items()]
        answers = await self._writer.write("schedule", updates, explain=False)
        for answer in answers:
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        """With a retention this is left to DynamoDB's TTL, which deletes for free, and nothing is
        done here; the counters follow at their next repair."""
        if self._retention:
            await trio.lowlevel.checkpoint()
            return 0
        ended = await scans.find_ended(self._calls, ended_before=finished_before, limit=limit)
        deleted = 0
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CALL_TIMEOUT):
            for start in range(0, len(ended), self.max_batch):
                chunk = ended[start : start + self.max_batch]
                answers = await self._writer.write(
                    "expire", [remove(*each) for each in chunk], explain=False
                )
                for (_, status, _), answer in zip(chunk, answers, strict=True):
                    if isinstance(answer.result, Applied) and answer.result.item is not None:
                        self._counters.move(status, None)
                        deleted += 1
        self._calls.count("expire", deleted)
        return deleted

    async def flush_counts(self) -> None:
        """Write down now what the counters do not hold yet, for other processes to see.

        Raises:
            BackendUnavailable: it is tried again later.
        """
        await self._counters.flush()

    async def repair_counts(self) -> CountRepair:
        """Count the tasks and correct the counters; see `counters`. Costs about 0.04 read units
        for each task in the table, and 0.5 for each one that is not finished.

        Raises:
            BackendUnavailable
        """
        return await self._counters.repair()

    async def _count_rows(self) -> dict[TaskStatus, int]:
        return await scans.count_rows(self._calls, await self._sweep.settled("repair_counts"))

    # --- reads ------------------------------------------------------------------------------

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        self._calls.count("get", len(task_ids))
        found = await self._calls.get("get", task_ids)
        tasks = {
            task_id: row.task
            for task_id, item in found.items()
            if (row := scans.row_of(item)) is not None
        }
        return [tasks.get(task_id) for task_id in task_ids]

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        check_limit(query.limit)
        below = None
        if query.cursor is not None:
            (below,) = decode_cursor(query.cursor, "tasks", tuple[str])
            _check_position(below)
        settled = None
        if query.status in listing.UNFINISHED:
            settled = await self._sweep.settled("list_tasks")
        page = await listing.find(self._calls, query, below=below, settled=settled)
        tasks = tuple(
            row.task
            for task_id in page.task_ids
            if (item := page.rows.get(task_id)) is not None
            and (row := scans.row_of(item)) is not None
        )
        self._calls.count("list_tasks", len(tasks))
        cursor = None if page.next_below is None else encode_cursor("tasks", (page.next_below,))
        return TaskPage(tasks=tasks, next_cursor=cursor)

    async def counts(self) -> Counts:
        return await self._counters.read()

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        """One look at a sparse index, whatever the number of tasks asked about."""
        if not task_ids:
            return []
        self._calls.count("cancel_requested", len(task_ids))
        asked = await scans.cancel_requests(self._calls)
        return [task_id in asked for task_id in task_ids]

    async def due(self, *, before: datetime, limit: int) -> list[Task]:
        tasks = await scans.due_tasks(self._calls, before=before, limit=limit)
        self._calls.count("due", len(tasks))
        return tasks

    async def stranded(
        self,
        queue: str,
        *,
        before: datetime,
        sent_before: datetime | None,
        limit: int,
        cursor: str | None = None,
    ) -> StrandedPage:
        """A piece of the walk over unfinished tasks, for `Backend.stranded`.

        SQS cannot be asked whether a message exists, so it goes by what times can tell:

        - UNSENT: PENDING, not left to the scheduler, ready since before `before` and before
          `sent_before`. That its message is lost is a guess, and a wrong guess costs one extra
          message. Each find is noted on the item: one engine acts on it, and the same task is
          found again only after it has waited twice as long.
        - ORPHANED: its attempt started more than `orphaned_after` ago. SQS lets nobody keep a
          message invisible for more than 12 hours after its receipt, and an engine stops an
          attempt whose lease is lost: no live attempt is that old.

        The walk goes over what is filed as OPEN. Where it is this engine's turn a piece of the
        sweep comes first, so that there is all that is older than `sweep_lag`.

        Args:
            sent_before: messages sent before this have been received or are lost; None where
                nothing is known of them: then nothing is called UNSENT.

        Raises:
            InvalidQuery: a bad limit or cursor.
            BackendUnavailable
        """
        check_limit(limit)
        place = None
        if cursor is not None:
            place = decode_cursor(cursor, "stranded", tuple[str, str])
            if place == _SWEEP_ON:
                place = None
            elif place[0] not in scans.WALK:
                raise InvalidQuery("is not a cursor of this listing", field="cursor")
            elif place[1]:
                _check_position(place[1])
        is_swept = await self._sweep.go_on()
        now = self._clock.now()
        found, next_place = await scans.find_stranded(
            self._calls,
            self._writer,
            queue=queue,
            unsent_before=None if sent_before is None else min(before, sent_before),
            orphaned_before=min(before, now - self._orphaned_after),
            now=now,
            limit=limit,
            place=place,
        )
        if next_place is None and not is_swept:
            next_place = _SWEEP_ON
        self._calls.count("stranded", len(found))
        return StrandedPage(
            found=tuple(found),
            next_cursor=None if next_place is None else encode_cursor("stranded", next_place),
        )

    # --- the price --------------------------------------------------------------------------

    def _pay(self, task_type: str | None, task_id: str, answer: Answer) -> None:
        if task_type is None:
            task_type = self._types.get(task_id) or _type_in(answer)
            if task_type is None:
                return
        meter = self._meters.get(task_type)
        if meter is None:
            meter = self._meters[task_type] = Meter()
        meter.items += 1
        meter.requests += answer.requests
        meter.write_units += answer.units


def _type_in(answer: Answer) -> str | None:
    result = answer.result
    if isinstance(result, Applied | ConditionFailed) and result.item is not None:
        found: str | None = result.item.get("type", {}).get("S")
        return found
    return None


def _key(item_id: str) -> dict[str, Any]:
    return {"Key": {"id": {"S": item_id}}}


def _check_position(text: str) -> None:
    """Raises InvalidQuery for field "cursor" where it is none that DynamoDB could hold."""
    if not 3 <= len(text) <= 200 or not id_of_position(text):
        raise InvalidQuery("is not a cursor of this listing", field="cursor")
