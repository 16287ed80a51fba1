"""What becomes of messages that this worker cannot run, as their rows say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.messages import Lease, Leave, Release, Settlement
from task_queue_engine.actors.type_check import Checked, ClaimIt, FailIt, GiveBack, TypeCheck
from task_queue_engine.backends.base import TaskStore
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.retry import GiveUp
from task_queue_engine.task import TaskError

_WORN_DELAY: Final = 1.0
"""Seconds (SQS's shortest delay) before the copy of a worn message is received, in which that is
deleted. A task that kills its process as soon as it starts would leave it behind for the broker to
dead-letter, while the task goes on."""


@dataclass(slots=True, eq=False)
class Candidate:
    """A lease whose claim is under way."""

    lease: Lease
    checked: Checked
    to_fail: tuple[TaskError, GiveUp] | None = None
    """It is claimed to be FAILED, and not to be run."""


def sort(
    leases: Sequence[Lease], checks: Sequence[Checked]
) -> tuple[list[Settlement], list[Candidate], list[tuple[Candidate, TaskError]]]:
    """What is not to be claimed in any case, what is, and what this worker cannot run."""
    settlements: list[Settlement] = []
    candidates: list[Candidate] = []
    refused: list[tuple[Candidate, TaskError]] = []
    for lease, checked in zip(leases, checks, strict=True):
        if lease.lost:  # it was with another worker by now
            settlements.append(Leave(lease))
        elif lease.delivery.is_worn:
            settlements.append(Release(lease, _WORN_DELAY))  # as a fresh copy
        elif checked.refusal is None:
            candidates.append(Candidate(lease, checked))
        else:
            refused.append((Candidate(lease, checked), checked.refusal))
    return settlements, candidates, refused


class TurningAway:
    """A part of the claimer, and no actor of its own.

    Args:
        max_delay: the longest that the queue can hide a message, in seconds.
    """

    def __init__(
        self, *, store: TaskStore, retry: BackendRetry, type_check: TypeCheck, max_delay: float
    ) -> None:
        self._store = store
        self._retry = retry
        self._types = type_check
        self._max_delay = max_delay

    async def look_at(
        self,
        refused: Sequence[tuple[Candidate, TaskError]],
        *,
        is_stopping: Callable[[], bool],
    ) -> tuple[list[Settlement], list[Candidate]]:
        """Returns what goes back, and what is to be claimed all the same. Neither while the store
        does not answer until `is_stopping`: then they are still in the caller's hands."""
        ids = [candidate.lease.delivery.task_id for candidate, _ in refused]
        try:
            tasks = await self._retry.call(lambda: self._store.get(ids), give_up=is_stopping)
        except BackendUnavailable:
            return [], []
        settlements: list[Settlement] = []
        to_claim: list[Candidate] = []
        for (candidate, refusal), task in zip(refused, tasks, strict=True):
            lease = candidate.lease
            match self._types.turn_away(task, refusal, lease.delivery, candidate.checked.data):
                case GiveBack(delay):
                    settlements.append(Release(lease, min(delay, self._max_delay)))
                case FailIt(reason):
                    candidate.to_fail = refusal, GiveUp(reason)
                    to_claim.append(candidate)
                case ClaimIt():
                    to_claim.append(candidate)
        return settlements, to_claim
