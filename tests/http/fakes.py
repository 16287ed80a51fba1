"""An engine in memory: `EngineApi` by the real rules of the lifecycle, but without queue, workers
or store. Tests stand in for the worker (`finish`) and inject failures (`failure`, `hold`)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import trio

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import (
    BackendInfo,
    BackendUsage,
    Counts,
    DeadLetter,
    DeadLetterPage,
    ListQuery,
    QueueDepth,
    TaskPage,
)
from task_queue_engine.engine.api import (
    Accepted,
    EngineApi,
    Readiness,
    RedriveReport,
    Refused,
    Submission,
    SubmitVerdict,
)
from task_queue_engine.engine.metrics import EngineMetrics, Scale, scale
from task_queue_engine.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidQuery,
    InvalidTask,
    PayloadTooLarge,
    TaskNotFound,
    TaskQueueError,
    WrongState,
)
from task_queue_engine.lifecycle import (
    AlreadyFinished,
    NotReopened,
    Reopened,
    Row,
    decide_cancel,
    decide_reopen,
    history_of,
)
from task_queue_engine.measures import Rates, Sample
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus, new_task_id, task_id_for_key
from task_queue_engine.task_actions import ActionRequest, Matching
from task_queue_engine.task_events import TaskEvent, state_of
from task_queue_engine.worker import WorkerList

MAX_PAYLOAD = 100_000


@dataclass
class Email:
    to: str
    subject: str = ""


def make_registry() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("anything")
    async def anything(payload: Any) -> Any:
        return payload

    @tasks.task("email", max_attempts=5)
    async def email(payload: Email) -> None:
        del payload

    return tasks


class FakeEvents:
    """What a test puts into it comes out."""

    def __init__(self, engine: FakeEngine, task_id: str | None) -> None:
        self._engine = engine
        self._task_id = task_id
        self._put, self._events = trio.open_memory_channel[TaskEvent](1000)
        self._has_begun = task_id is None
        self.asked: dict[str, str | None] = {}
        self.of_type: Callable[[str], bool] | None = None
        self.closed = trio.Event()

    def put(self, event: TaskEvent) -> None:
        self._put.send_nowait(event)

    def __aiter__(self) -> FakeEvents:
        return self

    async def __anext__(self) -> TaskEvent:
        if not self._has_begun and self._task_id is not None:
            task = await self._engine.get(self._task_id)
            self._has_begun = True
            return msgspec.structs.replace(state_of(task), id="0")
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self.closed.set()
        await trio.lowlevel.checkpoint()


class FakeEngine(EngineApi):
    def __init__(self) -> None:
        self._registry = make_registry()
        self.rows: dict[str, Row] = {}
        self.dead_letters: list[DeadLetter] = []
        self.is_slow = False
        self.failure: BaseException | None = None
        """Raised by every call while it is set."""
        self.hold: trio.Event | None = None
        """While set, a submission waits for it before it is taken."""
        self.reached = trio.Event()
        """Set when a submission has reached the engine."""
        self.not_ready: tuple[str, ...] = ()
        self.usage: BackendUsage | None = None
        self.worker_list = WorkerList()
        self.measured: dict[str, Any] = {}
        """More of `EngineMetrics`."""
        self.streams: list[FakeEvents] = []
        self.sampled: tuple[Sample, ...] = ()
        self.histories: dict[str, AttemptHistory] = {}
        """In place of what the rows say."""
        self._in_flight: set[str] = set()
        self._changed = trio.Event()

    @property
    def registry(self) -> TaskRegistry:
        return self._registry

    @property
    def backend_info(self) -> BackendInfo:
        return BackendInfo(name="fake", detail="memory")

    # --- tasks ------------------------------------------------------------------------------

    async def submit_task(self, submission: Submission) -> Accepted:
        self._check()
        key = submission.idempotency_key
        if key is not None and key in self._in_flight:
            raise IdempotencyKeyInFlight
        new = self._new_task(submission)
        if key is not None:
            self._in_flight.add(key)
        try:
            self.reached.set()
            if self.hold is not None:
                await self.hold.wait()
            else:
                await trio.lowlevel.checkpoint()
            old = self.rows.get(new.id)
            if old is not None:
                if (old.task.type, old.task.payload) != (new.type, new.payload):
                    raise IdempotencyKeyReused(new.id)
                return Accepted(old.task, created=False)
            self.rows[new.id] = Row(task=new)
            return Accepted(new, created=True)
        finally:
            self._in_flight.discard(key or "")

    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        verdicts: list[SubmitVerdict] = []
        self._check()
        for submission in submissions:
            try:
                verdicts.append(await self.submit_task(submission))
            except TaskQueueError as error:
                verdicts.append(Refused(error))
        return verdicts

    def _new_task(self, submission: Submission) -> Task:
        definition = self._registry.get(submission.task)
        payload, encoded = definition.convert_payload.pack(submission.payload)
        if len(encoded) > MAX_PAYLOAD:
            raise PayloadTooLarge(len(encoded), MAX_PAYLOAD)
        now = datetime.now(UTC)
        run_at = submission.run_at
        if submission.delay is not None:
            try:
                run_at = now + timedelta(seconds=to_seconds(submission.delay, name="delay_seconds"))
            except ValueError as error:
                raise InvalidTask(str(error), field="delay_seconds") from None
        key = submission.idempotency_key
        timeout = submission.timeout
        return Task(
            id=new_task_id() if key is None else task_id_for_key(key),
            type=definition.name,
            payload=payload,
            max_attempts=submission.max_attempts or definition.max_attempts or 3,
            timeout_seconds=None if timeout is None else to_seconds(timeout, name="timeout"),
            created_at=now,
            updated_at=now,
            run_at=run_at,
        )

    async def get(self, task_id: str) -> Task:
        await self._enter()
        return self._row(task_id).task

    async def history(self, task_id: str) -> AttemptHistory:
        await self.get(task_id)
        return self.histories.get(task_id, history_of(self.rows[task_id], ()))

    def events(
        self,
        task_id: str | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        after: str | None = None,
        of_type: Callable[[str], bool] | None = None,
    ) -> FakeEvents:
        stream = FakeEvents(self, task_id)
        stream.asked = {"task_id": task_id, "type": type, "queue": queue, "after": after}
        stream.of_type = of_type
        self.streams.append(stream)
        return stream

    async def wait(self, task_id: str, *, timeout: float | timedelta) -> Task:
        await self._enter()
        with trio.move_on_after(to_seconds(timeout, name="timeout")):
            while not self._row(task_id).task.status.is_terminal:
                await self._changed.wait()
        return self._row(task_id).task

    async def _wait_for_end(self, task_id: str, *, timeout: float) -> Task:
        return await self.wait(task_id, timeout=timeout)

    def _result_converter(self, task_type: str) -> None:
        del task_type

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        await self._enter()
        found = [row.task for row in self.rows.values() if query.passes(row.task)]
        found.sort(key=lambda task: (task.created_at, task.id), reverse=True)
        start = _read_cursor(query.cursor)
        page = found[start : start + query.limit]
        more = start + query.limit < len(found)
        return TaskPage(
            tasks=tuple(page), next_cursor=_cursor(start + query.limit) if more else None
        )

    async def cancel(self, task_id: str) -> Task:
        await self._enter()
        verdict, row = decide_cancel(self._row(task_id), datetime.now(UTC))
        if isinstance(verdict, AlreadyFinished):
            raise WrongState(task_id, verdict.task.status, "it has ended and cannot be cancelled")
        assert row is not None
        self._write(row)
        return row.task

    async def retry(self, task_id: str) -> Task:
        await self._enter()
        verdict, row = decide_reopen(self._row(task_id), datetime.now(UTC))
        if isinstance(verdict, NotReopened):
            raise WrongState(task_id, verdict.task.status, "only failed or cancelled tasks")
        assert isinstance(verdict, Reopened)
        assert row is not None
        self._write(row)
        return row.task

    # Actions are tested with a real engine (test_actions.py).

    async def delete(self, task_id: str) -> None:
        await self._enter()
        row = self._row(task_id)
        if not row.task.status.is_terminal:
            raise WrongState(task_id, row.task.status, "only what has ended can be deleted")
        del self.rows[task_id]

    async def preview_action(self, request: ActionRequest) -> Matching:
        raise NotImplementedError

    async def start_action(
        self, request: ActionRequest, *, idempotency_key: str | None = None
    ) -> Task | None:
        raise NotImplementedError

    async def undo_action(self, task_id: str, *, idempotency_key: str | None = None) -> Task | None:
        raise NotImplementedError

    # --- dead letters -----------------------------------------------------------------------

    async def list_dead(self, *, limit: int = 50, cursor: str | None = None) -> DeadLetterPage:
        await self._enter()
        start = _read_cursor(cursor)
        more = start + limit < len(self.dead_letters)
        return DeadLetterPage(
            dead_letters=tuple(self.dead_letters[start : start + limit]),
            next_cursor=_cursor(start + limit) if more else None,
        )

    async def redrive(
        self,
        ids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        within: Seconds | None = None,
        of_type: Callable[[str], bool] | None = None,
    ) -> RedriveReport:
        """With a time limit it does one, as an engine whose batches take long."""
        await self._enter()
        redriven = skipped = 0
        wanted = [
            one
            for one in self.dead_letters
            if (ids is None or one.id in ids) and (of_type is None or of_type(one.task_type))
        ][:limit]
        todo = wanted if within is None or not self.is_slow else wanted[:1]
        for dead_letter in todo:
            self.dead_letters.remove(dead_letter)
            try:
                await self.retry(dead_letter.task_id)
                redriven += 1
            except (TaskNotFound, WrongState):
                skipped += 1
        return RedriveReport(
            redriven=redriven,
            skipped=skipped,
            not_found=0 if ids is None else len(set(ids)) - len(wanted),
            remaining=len(wanted) - len(todo),
        )

    async def purge_dead(self) -> int:
        await self._enter()
        purged = len(self.dead_letters)
        self.dead_letters.clear()
        return purged

    # --- looking ----------------------------------------------------------------------------

    async def workers(self) -> WorkerList:
        await self._enter()
        return self.worker_list

    async def metrics(self) -> EngineMetrics:
        await self._enter()
        statuses = [row.task.status for row in self.rows.values()]
        return EngineMetrics(
            counts=Counts(
                pending=statuses.count(TaskStatus.PENDING),
                processing=statuses.count(TaskStatus.PROCESSING),
                completed=statuses.count(TaskStatus.COMPLETED),
                failed=statuses.count(TaskStatus.FAILED),
                cancelled=statuses.count(TaskStatus.CANCELLED),
            ),
            depth=QueueDepth(
                waiting=statuses.count(TaskStatus.PENDING),
                in_flight=statuses.count(TaskStatus.PROCESSING),
                dead=len(self.dead_letters),
            ),
            workers=5,
            active_workers=statuses.count(TaskStatus.PROCESSING),
            counters={"attempts_started": 7, "lease_lost": 0},
            uptime=12.5,
            usage=self.usage,
            **self.measured,
        )

    async def scale(self) -> Scale:
        depth = (await self.metrics()).depth
        return scale("default", depth, Rates(1.0, 0.5, 2.0), worker_count=5)

    def samples(self) -> tuple[Sample, ...]:
        return self.sampled

    async def ready(self) -> Readiness:
        await trio.lowlevel.checkpoint()
        return Readiness(ready=not self.not_ready, reasons=self.not_ready)

    # --- for tests --------------------------------------------------------------------------

    @property
    def stored(self) -> list[Task]:
        return [row.task for row in self.rows.values()]

    def add(self, task_type: str = "anything", payload: Any = 1, **fields: Any) -> Task:
        now = datetime.now(UTC)
        fields = {"created_at": now, "updated_at": now} | fields
        task = Task(id=new_task_id(), type=task_type, payload=payload, **fields)
        self.rows[task.id] = Row(task=task)
        return task

    def add_dead_letter(self, task: Task) -> DeadLetter:
        dead_letter = DeadLetter(
            id=f"dead-letter-{len(self.dead_letters)}",
            task_id=task.id,
            task_type=task.type,
            reason="attempts exhausted",
            error=None,
            attempts=3,
            at=datetime.now(UTC),
            receipt="secret-receipt",
        )
        self.dead_letters.append(dead_letter)
        return dead_letter

    def finish(self, task_id: str, status: TaskStatus, **fields: Any) -> None:
        """Stand in for the worker."""
        row = self._row(task_id)
        self._write(replace(row, task=msgspec.structs.replace(row.task, status=status, **fields)))

    def _write(self, row: Row) -> None:
        self.rows[row.task.id] = row
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _row(self, task_id: str) -> Row:
        try:
            return self.rows[task_id]
        except KeyError:
            raise TaskNotFound(task_id) from None

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _enter(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()


def _cursor(start: int) -> str:
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def _read_cursor(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor))
    except ValueError:
        raise InvalidQuery("is not a cursor of this listing", field="cursor") from None
