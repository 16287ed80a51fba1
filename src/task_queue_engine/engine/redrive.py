"""Redriving: dead letters back to work. Their tasks are on their way again before a dead letter is
deleted: a crash in between leaves it, and doing it again is harmless."""

from __future__ import annotations

from collections.abc import Sequence

from task_queue_engine.actors.batching import in_batches
from task_queue_engine.backends.base import DeadLetter, Done, TaskQueue, TaskStore
from task_queue_engine.clock import Clock
from task_queue_engine.engine.api import RedriveReport
from task_queue_engine.engine.reopening import is_pending, reopen_and_send
from task_queue_engine.errors import BackendUnavailable


async def redrive_dead_letters(
    queue: TaskQueue, store: TaskStore, *, clock: Clock, ids: Sequence[str] | None = None
) -> RedriveReport:
    """Put dead letters (by id; None: all there are now) back to work.

    Raises:
        BackendUnavailable: part of the work may be done; the rest is still in the dead-letter
            queue.
    """
    size = min(queue.max_batch, store.max_batch)
    redriven = skipped = 0
    if ids is not None:
        for batch in in_batches(ids, size):
            dead_letters = await queue.dead_letters.take(limit=size, ids=batch)
            done = await _redrive_batch(queue, store, clock, dead_letters)
            redriven += done
            skipped += len(dead_letters) - done
        return RedriveReport(redriven=redriven, skipped=skipped)
    # Those that come in meanwhile (of what was just redriven, say) are not taken again.
    left = (await queue.depth()).dead
    while left > 0:
        dead_letters = await queue.dead_letters.take(limit=min(size, left))
        if not dead_letters:
            break
        done = await _redrive_batch(queue, store, clock, dead_letters)
        redriven += done
        skipped += len(dead_letters) - done
        left -= len(dead_letters)
    return RedriveReport(redriven=redriven, skipped=skipped)


async def _redrive_batch(
    queue: TaskQueue, store: TaskStore, clock: Clock, dead_letters: Sequence[DeadLetter]
) -> int:
    if not dead_letters:
        return 0
    verdicts, refused = await reopen_and_send(
        store,
        [dead_letter.task_id for dead_letter in dead_letters],
        queue_of=lambda _: queue,
        clock=clock,
        # An earlier redrive may have got as far as reopening.
        pending_too=True,
    )
    # One whose message the queue refuses for good is all that is left of it.
    sent = [dead_letter for dead_letter in dead_letters if dead_letter.task_id not in refused]
    deleted = await queue.dead_letters.delete(sent)
    failed = [verdict for verdict in deleted if not isinstance(verdict, Done)]
    if failed:
        raise BackendUnavailable(f"{len(failed)} dead letters could not be deleted: {failed[0]}")
    if refused:
        reason = next(iter(refused.values())).reason
        raise BackendUnavailable(f"{len(refused)} dead letters could not be sent: {reason}")
    return sum(is_pending(verdict) for verdict in verdicts)
