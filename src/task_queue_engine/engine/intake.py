"""Hands submissions to the submitter, and its answers back to the callers that wait for them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import trio

from task_queue_engine.actors.messages import SubmitRequest, SubmitResult
from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    NewTask,
    Rejected,
    TooLarge,
    TryAgain,
)
from task_queue_engine.engine.api import Accepted, Refused, Submission, SubmitVerdict
from task_queue_engine.engine.submission import TaskBuilder
from task_queue_engine.errors import (
    BackendUnavailable,
    EngineNotRunning,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidTask,
    MessageRefused,
    PayloadTooLarge,
)
from task_queue_engine.execution.checks import PayloadChecks, is_small_json
from task_queue_engine.task import Task

# Seconds after which a batch lets others have their turn.
_TURN = 0.005


class Intake:
    """The way in for submissions. A request that the submitter has is carried out, even when its
    caller is cancelled while it waits for the answer."""

    def __init__(
        self,
        *,
        builder: TaskBuilder,
        checks: PayloadChecks,
        submissions: trio.MemorySendChannel[SubmitRequest],
        request_size: int,
    ) -> None:
        self._builder = builder
        self._submissions = submissions
        self._request_size = request_size
        self._checks = checks
        self._keys_in_flight: set[str] = set()
        self._unanswered: dict[int, SubmitRequest] = {}
        self._numbers = itertools.count()

    @property
    def pending(self) -> int:
        """Requests without an answer and keys in flight."""
        return len(self._unanswered) + len(self._keys_in_flight)

    async def submit(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        """One verdict each, in their order. Raises EngineNotRunning where none was taken over."""
        verdicts: list[SubmitVerdict | None] = [None] * len(submissions)
        requests: list[tuple[SubmitRequest, list[int]]] = []
        # Those this call has put in flight; the answer to a request takes its own out again.
        keys: set[str] = set()
        try:
            accepted = await self._build(submissions, verdicts, keys)
            for i in range(0, len(accepted), self._request_size):
                chunk = accepted[i : i + self._request_size]
                try:
                    request = await self._hand_over(tuple(new for _, new in chunk))
                except EngineNotRunning as error:
                    if not requests:
                        raise
                    for index, _ in accepted[i:]:
                        verdicts[index] = Refused(error)
                    break
                keys.difference_update(new.task.id for _, new in chunk)
                requests.append((request, [index for index, _ in chunk]))
        finally:
            self._keys_in_flight -= keys
        for request, indexes in requests:
            results = await request.results()
            for index, new, result in zip(indexes, request.tasks, results, strict=True):
                verdicts[index] = self._judge(submissions[index], new.task, result)
        return [verdict for verdict in verdicts if verdict is not None]

    async def _build(
        self,
        submissions: Sequence[Submission],
        verdicts: list[SubmitVerdict | None],
        keys: set[str],
    ) -> list[tuple[int, NewTask]]:
        """The tasks to hand over, with their places; refusals go to `verdicts`."""
        accepted: list[tuple[int, NewTask]] = []
        turn_ends = time.perf_counter() + _TURN
        for index, submission in enumerate(submissions):
            if time.perf_counter() > turn_ends:
                await trio.lowlevel.checkpoint()
                turn_ends = time.perf_counter() + _TURN
            try:
                definition = self._builder.definition(submission)
                if definition.payload_type is Any and is_small_json(submission.payload):
                    # No code but the engine's.
                    packed = self._builder.pack(definition, submission)
                else:
                    pack = partial(self._builder.pack, definition, submission)
                    packed = await self._checks.call(definition, submission.payload, pack)
                new = self._builder.build(definition, submission, packed)
            except InvalidTask as error:
                verdicts[index] = Refused(error)
                continue
            if submission.idempotency_key is not None:
                if new.task.id in self._keys_in_flight:
                    verdicts[index] = Refused(IdempotencyKeyInFlight())
                    continue
                keys.add(new.task.id)
                self._keys_in_flight.add(new.task.id)
            accepted.append((index, new))
        return accepted

    async def _hand_over(self, tasks: tuple[NewTask, ...]) -> SubmitRequest:
        number = next(self._numbers)
        # By its number: a request that held itself would keep its payloads until the garbage
        # collector comes, which then has all of them to walk through.
        request = SubmitRequest(tasks, partial(self._on_answer, number))
        await trio.lowlevel.checkpoint_if_cancelled()
        self._unanswered[number] = request
        try:
            # Where there is room the checkpoint is the wait for the answer.
            try:
                self._submissions.send_nowait(request)
            except trio.WouldBlock:
                await self._submissions.send(request)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            del self._unanswered[number]
            raise EngineNotRunning from None
        except trio.Cancelled:
            del self._unanswered[number]
            raise
        return request

    def _on_answer(self, number: int) -> None:
        request = self._unanswered.pop(number, None)
        if request is not None and self._keys_in_flight:
            self._keys_in_flight.difference_update(new.task.id for new in request.tasks)

    def _judge(self, submission: Submission, task: Task, result: SubmitResult) -> SubmitVerdict:
        match result:
            case Created():
                return Accepted(task, created=True)
            case AlreadyExists(existing):
                if self._is_replay(submission, task, existing):
                    return Accepted(existing, created=False)
                return Refused(IdempotencyKeyReused(existing.id))
            case TooLarge(size, limit):
                return Refused(PayloadTooLarge(size, limit))
            case TryAgain(reason):
                return Refused(BackendUnavailable(reason))
            case Rejected(reason):
                return Refused(MessageRefused(task.id, reason))
            case BackendUnavailable():
                return Refused(result)

    def _is_replay(self, submission: Submission, task: Task, existing: Task) -> bool:
        """Whether it asks for what `existing` was submitted for, under any name of its type.

        Options count where they are given: what was left out took a default, which may have changed
        since. When it is to run does not: the row keeps that only until the first attempt, and a
        caller that tries again may have counted its delay anew.
        """
        return (
            existing.queue == task.queue
            and self._builder.is_of_type(existing, task.type)
            and submission.max_attempts in (None, existing.max_attempts)
            and (submission.timeout is None or existing.timeout_seconds == task.timeout_seconds)
            and _same_json(existing.payload, task.payload)
        )

    def close(self) -> None:
        """The submitter is gone: callers that still wait get an answer."""
        lost = BackendUnavailable("the engine ended before it could answer; ask for the task again")
        for request in tuple(self._unanswered.values()):
            request.answer((lost,) * len(request.tasks))


def _same_json(one: object, other: object) -> bool:
    """Equal as JSON: member order does not matter, 1 and true do."""
    return _canonical.encode(one) == _canonical.encode(other)


_canonical = msgspec.json.Encoder(order="sorted")
