"""Deleting tasks that an operator names. (What ended long ago goes by `expiry`.)"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from task_queue_engine.backends.aws.dynamodb import conditional_writes
from task_queue_engine.backends.aws.dynamodb.item_format import Item, is_counted, read_row
from task_queue_engine.backends.aws.dynamodb.schema import DEAD_LETTERS_KEPT
from task_queue_engine.backends.aws.dynamodb.write_context import WriteContext
from task_queue_engine.backends.aws.dynamodb.writers import Applied, ConditionFailed, Unanswered
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Deleted, DeleteVerdict, Missing, decide_delete

_PURPOSE = "delete"

# A task that is reopened and ends again between the look and the write, that often in a row.
_ROUNDS = 5


async def delete(context: WriteContext, task_ids: Sequence[str]) -> list[DeleteVerdict]:
    """As `TaskStore.delete`. A message of a cancelled task waits in the queue, where it cannot be
    deleted: SQS keeps it for 14 days at most, and the task is kept for as long.

    Raises:
        BackendUnavailable: some may be deleted.
    """
    context.table.count(_PURPOSE, len(task_ids))
    decided: dict[str, DeleteVerdict] = {}
    left = list(dict.fromkeys(task_ids))
    for _ in range(_ROUNDS):
        items = await context.table.get(_PURPOSE, left)
        to_write: list[tuple[str, Item, Deleted]] = []
        for task_id in left:
            item = items.get(task_id)
            verdict = _decide(item, context.now())
            if isinstance(verdict, Deleted) and item is not None:
                to_write.append((task_id, item, verdict))
            else:
                decided[task_id] = verdict
        left = await _write(context, to_write, decided)
        if not left:
            break
    if left:
        raise BackendUnavailable(f"task {left[0]} was changed by others {_ROUNDS} times in a row")
    return [decided.pop(task_id, Missing()) for task_id in task_ids]


def _decide(item: Item | None, now: datetime) -> DeleteVerdict:
    row = None if item is None else read_row(item)
    return decide_delete(row, now, message_for=DEAD_LETTERS_KEPT)


async def _write(
    context: WriteContext,
    to_write: Sequence[tuple[str, Item, Deleted]],
    decided: dict[str, DeleteVerdict],
) -> list[str]:
    """Returns those that were changed meanwhile."""
    answers = await context.writer.write(
        _PURPOSE,
        [
            conditional_writes.remove(task_id, verdict.task.status, item.get("finished_at"))
            for task_id, item, verdict in to_write
        ],
        explain=False,
    )
    changed: list[str] = []
    for (task_id, item, verdict), answer in zip(to_write, answers, strict=True):
        match answer.result:
            case Applied():
                decided[task_id] = verdict
                if is_counted(item):
                    context.counters.move(verdict.task.status, None)
            case ConditionFailed():
                changed.append(task_id)
            case Unanswered(reason):
                raise reason
            case _:
                decided[task_id] = verdict
    return changed
