"""Claims in the store, and which claims were this engine's own though their answers were lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.messages import Attempt, AttemptKey, Lease
from task_queue_engine.backends.base import TaskStore
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    ClaimRequest,
    ClaimVerdict,
    DuplicateDelivery,
    Exhausted,
    Started,
)
from task_queue_engine.task import Task, TaskStatus

# What a claim made again answers both to its own work and to a duplicate; None: not answered.
_UNCLEAR: tuple[ClaimVerdict | None, ...] = (DuplicateDelivery(), None)

# Attempts whose lease was lost: far more than can be the subject of a late duplicate delivery.
_LOST_KEPT = 1000
# Settled attempts kept before they are looked through: so many, that looking costs nothing a task.
_SETTLED_KEPT = 64


class StoreClaims:
    """A part of the claimer, and no actor of its own.

    It is the one place that recognises a claim of its own whose answer was lost, as the contract of
    `TaskStore.claim` asks of its caller: the row is PROCESSING under this worker's name, in an
    attempt that was never begun here. For that it knows all that were, since none begins without
    `begin`. Several calls at a time would do each other no harm: of two that meet one attempt, the
    first to `begin` it has it.
    """

    def __init__(self, *, store: TaskStore, worker_name: str, retry: BackendRetry) -> None:
        self._store = store
        self._worker_name = worker_name
        self._retry = retry
        self._begun: dict[AttemptKey, Attempt] = {}
        self._lost: deque[AttemptKey] = deque(maxlen=_LOST_KEPT)
        self._look_through_at = _SETTLED_KEPT

    async def claim(
        self,
        leases: Sequence[Lease],
        *,
        is_stopping: Callable[[], bool],
        is_cut_short: Callable[[], bool],
    ) -> Sequence[ClaimVerdict | None]:
        """One verdict a lease; None: not claimed, and to be given back.

        Tries however long the store takes, until the engine stops or every lease is lost. What
        went unanswered until then may have taken effect all the same, and would count a crash of
        an attempt that never ran. So it goes on asking what came of it, until `is_cut_short`.
        """
        requests = [
            ClaimRequest(
                task_id=lease.delivery.task_id,
                message_id=lease.delivery.message_id,
                receive_count=lease.delivery.receive_count,
                worker=self._worker_name,
                copy_of=lease.delivery.copy_of,
                ahead=lease.claimed_ahead,
            )
            for lease in leases
        ]
        tries = 0

        async def claim() -> list[ClaimVerdict]:
            nonlocal tries
            tries += 1
            return await self._store.claim(requests)

        verdicts: Sequence[ClaimVerdict | None]
        try:
            verdicts = await self._retry.call(
                claim, give_up=lambda: is_stopping() or all(lease.lost for lease in leases)
            )
        except BackendUnavailable:
            verdicts = [None] * len(leases)
        else:
            if tries == 1:
                return verdicts
        return await self._recognise_own(leases, verdicts, is_cut_short)

    def begin(self, attempt: Attempt) -> bool:
        """Note it as one of this engine's; False: it was begun before, and this is a duplicate."""
        if attempt.key in self._begun:
            return False
        if len(self._begun) >= self._look_through_at:
            self._forget_settled()
        self._begun[attempt.key] = attempt
        return True

    def _forget_settled(self) -> None:
        for key, attempt in list(self._begun.items()):
            if attempt.lease.settling:
                del self._begun[key]
                if attempt.lease.lost:  # its row may be PROCESSING for a while
                    self._lost.append(key)
        self._look_through_at = 2 * len(self._begun) + _SETTLED_KEPT

    async def _recognise_own(
        self,
        leases: Sequence[Lease],
        verdicts: Sequence[ClaimVerdict | None],
        is_cut_short: Callable[[], bool],
    ) -> Sequence[ClaimVerdict | None]:
        """An earlier try may have taken effect though its answer was lost. Where the last one was
        answered it met the work of that: an attempt that looks like one running elsewhere, a task
        that has just FAILED. Left alone, an attempt that never ran would count as a crash, and a
        dead letter would be missing. (A task CANCELLED by an earlier try needs nothing more: its
        message is deleted either way.)"""
        unclear = [index for index, verdict in enumerate(verdicts) if verdict in _UNCLEAR]
        if not unclear:
            return verdicts
        ids = [leases[index].delivery.task_id for index in unclear]
        try:
            tasks = await self._retry.call(lambda: self._store.get(ids), give_up=is_cut_short)
        except BackendUnavailable:
            # A duplicate is left alone, as its verdict says: it may be one. That of a task that
            # FAILED finds at its next receive that its dead letter is missing.
            return verdicts
        # Of one attempt in this batch the second is a duplicate.
        known = {_key(verdict.task) for verdict in verdicts if isinstance(verdict, Started)}
        recognised = list(verdicts)
        for index, task in zip(unclear, tasks, strict=True):
            if task is None:
                continue
            after_crash = task.error is not None and task.error.type == CRASH_ERROR_TYPE
            if task.status is TaskStatus.FAILED:
                if after_crash and verdicts[index] is not None:
                    recognised[index] = Exhausted(task)
            elif self._runs_as_mine(task):
                if _key(task) in known or self._was_begun(_key(task)):
                    recognised[index] = DuplicateDelivery()
                else:
                    known.add(_key(task))
                    recognised[index] = Started(task, takeover=after_crash)
        return recognised

    def _runs_as_mine(self, task: Task) -> bool:
        return task.status is TaskStatus.PROCESSING and task.worker == self._worker_name

    def _was_begun(self, key: AttemptKey) -> bool:
        return key in self._begun or key in self._lost


def _key(task: Task) -> AttemptKey:
    return task.id, task.attempt
