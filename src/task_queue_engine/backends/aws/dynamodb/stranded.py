"""The search for tasks that nothing will bring on, where SQS cannot be asked whether a message
exists: it goes by what times can tell.

- UNSENT: PENDING, not left to the scheduler, ready since before `before` and before `sent_before`.
  That its message is lost is a guess, and a wrong guess costs one extra message. Each find is noted
  on the item: one engine acts on it, and the same task is found again only after it has waited
  twice as long.
- ORPHANED: its attempt started more than `orphaned_after` ago. SQS hides no message for longer than
  12 hours after its receipt, and an engine stops an attempt whose lease is lost: no live attempt is
  that old.

The walk goes over the partition OPEN, and how far it has come is noted after each piece that is not
its last: a process that begins goes on from there, so that processes which live shorter than a walk
takes get to its end together. If this engine gets the sweep's lease, a piece of the sweep
comes first, so that all that is older than its lag is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from task_queue_engine.backends.aws.dynamodb import conditional_writes
from task_queue_engine.backends.aws.dynamodb.item_format import Item, read_row
from task_queue_engine.backends.aws.dynamodb.schema import (
    WALK_PREFIX,
    IndexPartition,
    status_shards,
)
from task_queue_engine.backends.aws.dynamodb.sort_keys import id_of_sort_key, sort_key_of
from task_queue_engine.backends.aws.dynamodb.status_index import check_sort_key, walk
from task_queue_engine.backends.aws.dynamodb.sweep import Sweep
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Writer
from task_queue_engine.backends.base import Stranded, StrandedKind, StrandedPage
from task_queue_engine.backends.cursors import check_limit, decode_cursor, encode_cursor
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import TaskStatus

ORPHANED_AFTER = timedelta(hours=12, minutes=10)
"""The longest a message can be kept invisible (SQS API reference, ChangeMessageVisibility), and
10 minutes for clocks that disagree."""

_PURPOSE = "stranded"

_SHARDS = tuple(status_shards(IndexPartition.OPEN))

_NEVER = datetime.min.replace(tzinfo=UTC)

# A shard, and the sort key after which to go on ("" for its start).
_Place = tuple[str, str]

# For a cursor: the walk is over, the sweep is not.
_SWEEP_ON: _Place = ("SWEEP", "")


class StrandedSearch:
    """
    Args:
        orphaned_after: how old an attempt must be to be given up.
    """

    def __init__(
        self,
        table: TableClient,
        writer: Writer,
        sweep: Sweep,
        *,
        now: Callable[[], datetime],
        orphaned_after: timedelta,
    ) -> None:
        self._table = table
        self._writer = writer
        self._sweep = sweep
        self._now = now
        self._orphaned_after = orphaned_after

    async def page(
        self,
        queue: str,
        *,
        before: datetime,
        sent_before: datetime | None,
        limit: int,
        cursor: str | None,
    ) -> StrandedPage:
        """As `DynamoStore.stranded`."""
        check_limit(limit)
        place = await self._noted(queue) if cursor is None else _place_of(cursor)
        began_at = place
        is_swept = await self._sweep.go_on()
        now = self._now()
        unsent_before = _NEVER if sent_before is None else min(before, sent_before)
        orphaned_before = min(before, now - self._orphaned_after)
        candidates, next_place = await self._walk(
            queue, max(unsent_before, orphaned_before), limit, place
        )
        # Noted before the find is acted upon: what is lost with this process, the next walk finds.
        if next_place is not None or began_at is not None:
            await self._note(queue, next_place)
        stranded: list[tuple[Item, Stranded]] = []
        if candidates:
            found = await self._table.get(_PURPOSE, candidates)
            stranded = [
                (item, Stranded(row.task, kind))
                for item in found.values()
                if (row := read_row(item)) is not None
                and (kind := _why_stranded(item, row, unsent_before, orphaned_before, now))
                is not None
            ]
        reported = await self._report(stranded, now)
        if next_place is None and not is_swept:
            next_place = _SWEEP_ON
        self._table.count(_PURPOSE, len(reported))
        return StrandedPage(
            found=tuple(reported),
            next_cursor=None if next_place is None else encode_cursor("stranded", next_place),
        )

    async def _noted(self, queue: str) -> _Place | None:
        """Where the walk that was left off goes on; None: at the start."""
        item_id = f"{WALK_PREFIX}{queue}"
        found = await self._table.get(_PURPOSE, [item_id], consistent=False)
        noted = [
            value.get("S", "") for value in found.get(item_id, {}).get("place", {}).get("L", ())
        ]
        return (noted[0], noted[1]) if len(noted) == 2 and noted[0] in _SHARDS else None

    async def _note(self, queue: str, place: _Place | None) -> None:
        """Of several engines the last one counts: all walk to the end by themselves."""
        noted: Item = {":place": {"L": [{"S": part} for part in place or ()]}}
        await self._table.update(
            _PURPOSE,
            f"{WALK_PREFIX}{queue}",
            "SET #place = :place",
            names={"#place": "place"},
            values=noted,
        )

    async def _walk(
        self, queue: str, since_before: datetime, limit: int, place: _Place | None
    ) -> tuple[list[str], _Place | None]:
        """The ids in a piece about `limit` index entries long, and where to go on."""
        shard, after = place or (_SHARDS[0], "")
        remaining = list(_SHARDS[_SHARDS.index(shard) :])
        candidates: list[str] = []
        left = limit
        while remaining and left > 0:
            page = await walk(
                self._table,
                _PURPOSE,
                shard=remaining[0],
                after=after or None,
                since_before=since_before,
                queue=queue,
                limit=left,
            )
            candidates += [id_of_sort_key(sort_key_of(entry)) for entry in page.entries]
            left -= page.scanned
            if page.after is None:
                remaining.pop(0)
            after = page.after or ""
        return candidates, (remaining[0], after) if remaining else None

    async def _report(
        self, found: Sequence[tuple[Item, Stranded]], now: datetime
    ) -> list[Stranded]:
        """Those that this engine may act upon: an unsent task is one engine's, and not soon
        again."""
        unsent = [item for item, stranded in found if stranded.kind is StrandedKind.UNSENT]
        answers = await self._writer.write(
            _PURPOSE,
            [conditional_writes.mark_stranded(item, now) for item in unsent],
            explain=False,
        )
        mine = {
            item["id"]["S"]
            for item, answer in zip(unsent, answers, strict=True)
            if isinstance(answer.result, Applied)
        }
        return [
            stranded
            for _, stranded in found
            if stranded.kind is StrandedKind.ORPHANED or stranded.task.id in mine
        ]


def _place_of(cursor: str) -> _Place | None:
    """None where only the sweep goes on. Raises InvalidQuery for field "cursor"."""
    place = decode_cursor(cursor, "stranded", tuple[str, str])
    if place == _SWEEP_ON:
        return None
    shard, after = place
    if shard not in _SHARDS:
        raise InvalidQuery("is not a cursor of this listing", field="cursor")
    if after:
        check_sort_key(after)
    return place


def _why_stranded(
    item: Item, row: Row, unsent_before: datetime, orphaned_before: datetime, now: datetime
) -> StrandedKind | None:
    task = row.task
    if task.status is TaskStatus.PROCESSING:
        started_at = task.started_at or task.updated_at
        return StrandedKind.ORPHANED if started_at < orphaned_before else None
    if task.status is not TaskStatus.PENDING or row.due_at is not None:
        return None
    ready_at = max(task.updated_at, task.run_at or task.updated_at)
    if ready_at >= unsent_before:
        return None
    reported = item.get("stranded_at")
    if reported is not None:
        reported_at = datetime.fromisoformat(reported["S"])
        # Its message may merely wait in a long line: ask ever more rarely.
        if reported_at >= unsent_before or now - reported_at < reported_at - ready_at:
            return None
    return StrandedKind.UNSENT
