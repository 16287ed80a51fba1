"""Redriving: dead letters back to work. The row is reopened first, then a message is sent, then the
letter goes: a crash in between leaves the letter, and doing it again is harmless."""

from __future__ import annotations

from collections.abc import Sequence

from task_queue_engine.backends.base import Backend, DeadLetter, Done, Message
from task_queue_engine.engine.api import RedriveReport
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import NotReopened, Reopened
from task_queue_engine.task import Task, TaskStatus


async def redrive(
    backend: Backend, queue_name: str, ids: Sequence[str] | None = None
) -> RedriveReport:
    """Put letters (by id; None: all there are now) back to work.

    Raises:
        BackendUnavailable: part of the work may be done; the rest is still in the dead-letter
            queue.
    """
    queue = backend.queue(queue_name)
    size = min(queue.max_batch, backend.store.max_batch)
    redriven = skipped = 0
    if ids is not None:
        batches = [ids[i : i + size] for i in range(0, len(ids), size)]
        for batch in batches:
            letters = await queue.dead_letters.take(limit=size, ids=batch)
            done = await _redrive_batch(backend, queue_name, letters)
            redriven += done
            skipped += len(letters) - done
        return RedriveReport(redriven=redriven, skipped=skipped)
    # Letters that come in meanwhile (of what was just redriven, say) are not taken again.
    left = (await queue.depth()).dead
    while left > 0:
        letters = await queue.dead_letters.take(limit=min(size, left))
        if not letters:
            break
        done = await _redrive_batch(backend, queue_name, letters)
        redriven += done
        skipped += len(letters) - done
        left -= len(letters)
    return RedriveReport(redriven=redriven, skipped=skipped)


async def _redrive_batch(backend: Backend, queue_name: str, letters: Sequence[DeadLetter]) -> int:
    queue = backend.queue(queue_name)
    if not letters:
        return 0
    verdicts = await backend.store.reopen([letter.task_id for letter in letters])
    to_send: list[Task] = []
    for verdict in verdicts:
        if isinstance(verdict, Reopened):
            to_send.append(verdict.task)
        elif isinstance(verdict, NotReopened) and verdict.task.status is TaskStatus.PENDING:
            # Reopened by an earlier redrive that did not get as far as sending.
            to_send.append(verdict.task)
    if to_send:
        sent = await queue.send([Message(task=task) for task in to_send])
        failed = [verdict for verdict in sent if not isinstance(verdict, Done)]
        if failed:
            raise BackendUnavailable(f"{len(failed)} dead letters could not be sent: {failed[0]}")
    deleted = await queue.dead_letters.delete(letters)
    failed = [verdict for verdict in deleted if not isinstance(verdict, Done)]
    if failed:
        raise BackendUnavailable(f"{len(failed)} dead letters could not be deleted: {failed[0]}")
    return len(to_send)
