"""The task store on DynamoDB: the methods of `TaskStore`, and what they are made of.

From here inwards: `create`, `transitions` (what can be asked of a row) and `update` (blind writes,
decisions, conflicts); `conditional_writes` (as data) and `writers` (how they are sent, by `partiql`
or `expressions`); `write_tokens` (recognising one's own); `item_format` and `schema` (what is
stored). Beside them what is found by looking: `listing`, `sparse_indexes`, `stranded`, `expiry`
over `status_index`, and the `sweep` that keeps that index in order; `counters`, their
`crash_recovery` and their `counter_repair`. At the edge `table_client`.
docs/adr/0014 says what each operation costs.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Literal

import trio

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.aws.dynamodb import transitions
from task_queue_engine.backends.aws.dynamodb.attempt_slots import in_item
from task_queue_engine.backends.aws.dynamodb.conditional_writes import change_due, mark_due
from task_queue_engine.backends.aws.dynamodb.cost_by_type import CostByType
from task_queue_engine.backends.aws.dynamodb.counter_repair import (
    CounterRepair,
    CountRepair,
    Numbers,
    count_rows,
)
from task_queue_engine.backends.aws.dynamodb.counters import Counters
from task_queue_engine.backends.aws.dynamodb.crash_recovery import DEAD_AFTER, CrashRecovery
from task_queue_engine.backends.aws.dynamodb.create import Creator
from task_queue_engine.backends.aws.dynamodb.deletion import delete
from task_queue_engine.backends.aws.dynamodb.expiry import expire
from task_queue_engine.backends.aws.dynamodb.item_format import read_row
from task_queue_engine.backends.aws.dynamodb.late_retention import LateRetention
from task_queue_engine.backends.aws.dynamodb.listing import count_tasks, list_tasks
from task_queue_engine.backends.aws.dynamodb.sparse_indexes import DueSearch, cancel_requests
from task_queue_engine.backends.aws.dynamodb.stranded import ORPHANED_AFTER, StrandedSearch
from task_queue_engine.backends.aws.dynamodb.sweep import Sweep
from task_queue_engine.backends.aws.dynamodb.table_check import check_table, ping
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.update import RowUpdater
from task_queue_engine.backends.aws.dynamodb.workers import DynamoWorkers
from task_queue_engine.backends.aws.dynamodb.write_context import WriteContext
from task_queue_engine.backends.aws.dynamodb.write_tokens import WriteTokens, new_process
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Unanswered, make_writer
from task_queue_engine.backends.aws.usage import StoreUsage
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import (
    Counts,
    CreateVerdict,
    DueChange,
    DueTask,
    ListQuery,
    NewTask,
    StrandedPage,
    TaskCount,
    TaskPage,
    TryAgain,
)
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    DeleteVerdict,
    PendingFailure,
    Progress,
    RecordVerdict,
    ReopenVerdict,
    Started,
    history_of,
)
from task_queue_engine.task import Task

# Seconds for one request with the client's retries: two of them fit into a call.
_REQUEST_TIMEOUT = 4.0
# Of a write with all its retries; what a shutdown may have to wait for while DynamoDB hangs.
_CALL_TIMEOUT = 8.0


class DynamoStore:
    """All queues' tasks, in one table.

    Args:
        client: open while the store is.
        table_name: a table as in `schema.create_table_parameters`.
        writes: "batch", or "single" for servers without PartiQL.
        retention: seconds after which DynamoDB's TTL may delete a finished task; with 0 it never
            does, and `expire` deletes.
        flush_interval, repair_interval: of the counters, in seconds; see `counters` and
            `counter_repair`. With a `repair_interval` of 0 they are not repaired, nor is counted
            what killed processes did.
        dead_after: seconds of silence after which a busy process counts as killed; see
            `crash_recovery`.
        orphaned_after: how old an attempt must be to be given up; see `stranded`.
        sweep_lag: seconds after which a task that has not ended is moved in the index; see `sweep`.
            A task that takes longer costs more, a lost message is found no sooner. Engines that
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
        dead_after: float = DEAD_AFTER,
        orphaned_after: timedelta = ORPHANED_AFTER,
        sweep_lag: float = 120.0,
        concurrency: int = 16,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311  # jitter, not a secret
        now = (clock or SystemClock()).now
        self._retention = retention
        self._repair_interval = repair_interval
        self._table = TableClient(
            client,
            table=table_name,
            concurrency=concurrency,
            timeout=_REQUEST_TIMEOUT,
            rng=rng,
        )
        self._writer = make_writer(writes, self._table)
        process = new_process()
        tokens = WriteTokens(process)
        self._counters = Counters(
            self._table,
            process=process,
            settled=tokens.settled,
            now=now,
            flush_interval=flush_interval,
        )
        self._crash_recovery = CrashRecovery(
            self._table, process=process, now=now, rng=rng, dead_after=dead_after
        )
        self._counter_repair = CounterRepair(
            self._table,
            self._counters,
            now=now,
            count_rows=self._count_rows,
            interval=repair_interval,
            flush_interval=flush_interval,
            rng=rng,
        )
        self._sweep = Sweep(
            self._table,
            self._writer,
            now=now,
            lag=timedelta(seconds=sweep_lag),
            reindexed=self._counters.reindexed,
        )
        self._stranded = StrandedSearch(
            self._table, self._writer, self._sweep, now=now, orphaned_after=orphaned_after
        )
        self._late_retention = LateRetention(
            self._table, self._writer, now=now, retention=retention
        )
        self._due_search = DueSearch(self._table)
        self.workers = DynamoWorkers(self._table, self._writer, now=now)
        self._costs = CostByType()
        context = WriteContext(
            table=self._table,
            writer=self._writer,
            tokens=tokens,
            counters=self._counters,
            costs=self._costs,
            now=now,
            retention=retention,
            timeout=_CALL_TIMEOUT,
        )
        self._context = context
        self._creator = Creator(context, self._sweep)
        self._updater = RowUpdater(context)

    def __str__(self) -> str:
        return f"table {self._table.name}"

    def usage(self) -> StoreUsage:
        return StoreUsage(by_step=self._table.usage(), by_task_type=self._costs.usage)

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
        await check_table(self._table)
        failure: BaseException | None = None
        self._table.is_open = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._counters.run)
                if self._repair_interval:
                    nursery.start_soon(self._counter_repair.run)
                    nursery.start_soon(self._crash_recovery.run)
                try:
                    yield
                except BaseException as error:  # noqa: BLE001  # raised below, not in a group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            try:
                await self._counters.close()
            finally:
                self._table.is_open = False
        if failure is not None:
            raise failure

    async def ping(self) -> None:
        """Raises BackendUnavailable with the reason where no task could be written."""
        await ping(self._table)

    # --- writes -----------------------------------------------------------------------------

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        return await self._creator.create(tasks)

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        updates = [transitions.Claim(request) for request in requests]
        verdicts = await self._updater.carry_out("claim", updates)
        for verdict in verdicts:
            if isinstance(verdict, Started):
                self._costs.started(verdict.task)
        return verdicts

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict | TryAgain]:
        updates = [transitions.Record(write, retention=self._retention) for write in writes]
        verdicts = await self._updater.carry_out_each("record", updates)
        for write, verdict in zip(writes, verdicts, strict=True):
            if not isinstance(verdict, TryAgain) and not isinstance(write, Progress):
                self._costs.ended(write.task_id)
        return verdicts

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        updates = [transitions.cancel(task_id) for task_id in task_ids]
        return await self._updater.carry_out("cancel", updates)

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        updates = [transitions.reopen(task_id) for task_id in task_ids]
        return await self._updater.carry_out("reopen", updates)

    async def delete(self, task_ids: Sequence[str]) -> list[DeleteVerdict]:
        return await delete(self._context, task_ids)

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        updates = [transitions.reclaim(task_id, attempt) for task_id, attempt in items]
        return await self._updater.carry_out("reclaim", updates)

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        updates = [transitions.fail_dead_lettered(dead_letter) for dead_letter in items]
        return await self._updater.carry_out("fail_dead_lettered", updates)

    async def fail_pending(self, items: Sequence[PendingFailure]) -> list[RecordVerdict]:
        updates = [transitions.fail_pending(failure) for failure in items]
        return await self._updater.carry_out("fail_pending", updates)

    async def schedule(self, items: Sequence[tuple[str, datetime]]) -> None:
        self._table.count("schedule", len(items))
        # Of several for one task the last one counts.
        updates = [mark_due(task_id, due_at) for task_id, due_at in dict(items).items()]
        answers = await self._writer.write("schedule", updates, explain=False)
        for answer in answers:
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason

    async def change_due(self, items: Sequence[DueChange]) -> list[bool]:
        self._table.count("change_due", len(items))
        answers = await self._writer.write(
            "change_due", [change_due(item) for item in items], explain=False
        )
        for answer in answers:
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason
        return [isinstance(answer.result, Applied) for answer in answers]

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        """With a retention this is left to DynamoDB's TTL, which deletes for free; the counters
        follow at their next repair. Here only what had ended before there was a retention is given
        a time to expire at: see `late_retention`."""
        if self._retention:
            await self._late_retention.go_on()
            return 0
        return await expire(
            self._table,
            self._writer,
            finished_before=finished_before,
            limit=limit,
            count=self._counters.move,
            timeout=_CALL_TIMEOUT,
        )

    async def flush_counts(self) -> None:
        """Write down now what the counters do not hold yet, for other processes to see.

        Raises:
            BackendUnavailable: it is tried again later.
        """
        await self._counters.flush()

    async def repair_counts(self) -> CountRepair:
        """Count the tasks and correct the counters; see `counter_repair`.

        Raises:
            BackendUnavailable
        """
        return await self._counter_repair.repair()

    async def _count_rows(self) -> Numbers:
        return await count_rows(self._table, await self._sweep.settled("repair_counts"))

    # --- reads ------------------------------------------------------------------------------

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        self._table.count("get", len(task_ids))
        found = await self._table.get("get", task_ids)
        tasks = {
            task_id: row.task
            for task_id, item in found.items()
            if (row := read_row(item)) is not None
        }
        return [tasks.get(task_id) for task_id in task_ids]

    async def history(self, task_id: str) -> AttemptHistory | None:
        self._table.count("history", 1)
        item = (await self._table.get("history", [task_id])).get(task_id)
        row = None if item is None else read_row(item)
        return None if item is None or row is None else history_of(row, in_item(item))

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        return await list_tasks(self._table, self._sweep, query)

    async def count_tasks(self, query: ListQuery) -> TaskCount:
        return await count_tasks(self._table, self._sweep, query)

    async def counts(self) -> Counts:
        return await self._counters.read()

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        """One look at a sparse index, whatever the number of tasks asked about."""
        if not task_ids:
            return []
        self._table.count("cancel_requested", len(task_ids))
        asked = await cancel_requests(self._table)
        return [task_id in asked for task_id in task_ids]

    async def due(self, queue: str, *, before: datetime, limit: int) -> list[DueTask]:
        found = await self._due_search.due(queue, before=before, limit=limit)
        self._table.count("due", len(found))
        return found

    async def stranded(
        self,
        queue: str,
        *,
        before: datetime,
        sent_before: datetime | None,
        limit: int,
        cursor: str | None = None,
    ) -> StrandedPage:
        """A piece of the walk over unfinished tasks, for `Backend.stranded`: see `stranded`.

        Args:
            before: what has been as it is since before this may be stranded.
            sent_before: messages sent before this have been received or are lost; None where
                nothing is known of them: then nothing is called UNSENT.

        Raises:
            InvalidQuery: a bad limit or cursor.
            BackendUnavailable
        """
        return await self._stranded.page(
            queue, before=before, sent_before=sent_before, limit=limit, cursor=cursor
        )
