"""Events for one who asked for them: of one task from its present state to its end, or of all tasks
as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from typing import Self
from weakref import WeakMethod

import trio
from msgspec import structs

from task_queue_engine.attempt_record import (
    AttemptHistory,
    AttemptOutcome,
    AttemptRecord,
    LogLine,
)
from task_queue_engine.backends.base import ListQuery, TaskPage
from task_queue_engine.engine.event_order import Seen
from task_queue_engine.engine.event_reader import Entry, Reader
from task_queue_engine.engine.live_events import LiveEvents
from task_queue_engine.engine.waiting import Waiters
from task_queue_engine.errors import BackendUnavailable, EngineNotRunning, TaskNotFound
from task_queue_engine.limits import MAX_PAGE
from task_queue_engine.patience import Patience
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import (
    EndEvent,
    GapEvent,
    LogEvent,
    OfTask,
    ProgressEvent,
    StateEvent,
    TaskEvent,
    log_of,
    progress_of,
    state_of,
)

# Lines that a stream begins with, the last ones: those of ten attempts that logged all they may.
_MOST_LINES = 1000
# Events without a checkpoint, which takes as long as one of them: a millisecond.
_TURN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where events come from."""

    live: LiveEvents
    waiters: Waiters
    history: Callable[[str], Awaitable[AttemptHistory]]
    list_tasks: Callable[[ListQuery], Awaitable[TaskPage]]
    check_running: Callable[[], object]
    """Raises EngineNotRunning."""


class _Stream:
    """An iterator, and no generator: one that is left before its end is closed with its last
    reference, which for a generator would be a warning."""

    def __init__(self, sources: Sources, reader: Reader, after: str | None) -> None:
        self._live = sources.live
        self._check_running = sources.check_running
        self._reader = reader
        self._after = after
        self._ready: deque[TaskEvent] = deque()
        self._coming: deque[Entry] = deque()
        self._entered = ExitStack()
        self._position = ""
        """The id of the latest event that came from the live ones."""
        self._resumed: bool | None = None
        self._has_begun = False
        self._has_to_look = False
        self._is_over = False
        self._since_checkpoint = 0
        self._patience = Patience(trio.current_time)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskEvent:
        self._since_checkpoint += 1
        if self._since_checkpoint >= _TURN:
            await trio.lowlevel.checkpoint()
            self._since_checkpoint = 0
        while not self._ready:
            if self._is_over:
                self._close()
                raise StopAsyncIteration
            await self._step()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Give its place back. Nothing more comes."""
        self._ready.clear()
        self._close()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        self._is_over = True
        self._entered.close()

    # --- what comes -------------------------------------------------------------------------

    async def _step(self) -> None:
        """One thing at a time, so that it may be cancelled and called again."""
        if self._resumed is None:
            self._check_running()
            self._resumed = self._live.add_reader(self._reader, self._after)
            self._entered.callback(self._live.remove_reader, self._reader)
            self._position = self._live.position
        if not self._has_begun:
            await self._live.until_others_are_heard()
            await self._begin(self._resumed)
            self._has_begun = True
        elif self._coming:
            await self._give(self._coming[0])
            if self._coming:
                self._coming.popleft()
        elif self._has_to_look:
            try:
                await self._look_again()
                self._has_to_look = False
                self._patience.over()
            except BackendUnavailable as error:
                await trio.sleep(self._patience.pause(error))
        elif self._reader.is_closed:
            raise EngineNotRunning
        else:
            await self._reader.wait()
            self._coming.extend(self._reader.take())

    async def _begin(self, resumed: bool) -> None:
        if self._after is not None and not resumed:
            self._give_gap(GapEvent(reason="what came since then is not kept here"))

    def _give_gap(self, gap: GapEvent) -> None:
        self._add(gap)
        self._has_to_look = True

    async def _give(self, entry: Entry) -> None:
        raise NotImplementedError

    async def _look_again(self) -> None:
        raise NotImplementedError

    def _add(self, *events: TaskEvent) -> None:
        """They become ready together, and those that come back come back behind all of them."""
        for event in events[:-1]:
            self._ready.append(event)
        for event in events[-1:]:
            self._ready.append(structs.replace(event, id=self._position))

    def _pass_on(self, entry: Entry) -> None:
        self._position = self._live.id_of(entry.number)
        self._add(entry.event)


class AllTasks(_Stream):
    """
    Args:
        task_type: for looks; None: tasks of all types.
        wants: which of the events.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        task_type: str | None,
        wants: Callable[[OfTask], bool],
        after: str | None,
    ) -> None:
        super().__init__(sources, Reader(None, wants), after)
        self._list_tasks = sources.list_tasks
        self._type = task_type
        self._wants = wants

    async def _give(self, entry: Entry) -> None:
        if isinstance(entry.event, GapEvent):
            self._position = self._live.id_of(entry.number)
            self._give_gap(entry.event)
        else:
            self._pass_on(entry)

    async def _look_again(self) -> None:
        """Of all tasks those that run."""
        query = ListQuery(status=TaskStatus.PROCESSING, type=self._type, limit=MAX_PAGE)
        page = await self._list_tasks(query)
        for task in page.tasks:
            state, known = state_of(task), self._live.seen(task.id)
            if self._wants(state) and (known is None or known.agrees_with(state)):
                self._add(state)


class OneTask(_Stream):
    def __init__(self, sources: Sources, *, task_id: str, after: str | None) -> None:
        super().__init__(sources, Reader(task_id, lambda _: True), after)
        self._id = task_id
        self._waiters = sources.waiters
        self._history = sources.history
        self._seen = Seen()
        self._given = 0
        """The attempt at which this stream goes on: what came before was given."""
        self._told: set[int] = set()
        """Attempts whose lines come as they are logged, from the first."""
        self._read: set[int] = set()
        """Attempts whose lines were read when they were over."""
        self._first_line: dict[int, LogLine] = {}
        """The first that came, of attempts in neither."""
        self._is_gone = False

    async def _begin(self, resumed: bool) -> None:
        known = self._live.seen(self._id)
        if not resumed or known is None or known.status is None:
            task = await self._waiters.look_at(self._id)
            history = await self._history(self._id) if task.attempt else None
            await super()._begin(resumed)
            self._has_to_look = False
            self._begin_with(task, history)
        else:
            await trio.lowlevel.checkpoint()
            self._coming.extend(self._reader.take())
            self._given = _attempt_before(self._coming, known.attempt)
            if not any(isinstance(entry.event, StateEvent) for entry in self._coming):
                self._seen = copy(known)
            if not self._coming and known.status.is_terminal:
                # All had been given but its end.
                self._add(EndEvent(task_id=self._id, status=known.status))
                self._is_over = True
        if not self._is_over:
            self._watch()

    def _begin_with(self, task: Task, history: AttemptHistory | None) -> None:
        self._live.learn(task)
        self._live.in_store(task)
        events: list[TaskEvent] = [state_of(task)]
        self._seen.note(state_of(task))
        if history is not None:
            lines = [
                log_of(task, record.number, line)
                for record in history.attempts
                for line in record.logs
            ]
            events += lines[-_MOST_LINES:]
            self._read.update(
                record.number
                for record in history.attempts
                if record.outcome is not AttemptOutcome.RUNNING
            )
        coming = self._reader.take()
        if task.progress is not None:
            events.append(progress_of(task))
            self._seen.note(progress_of(task))
            coming = _behind(coming, task)
        self._coming.extend(coming)
        if task.status.is_terminal:
            events.append(EndEvent(task_id=task.id, status=task.status))
            self._is_over = True
        self._add(*events)

    def _watch(self) -> None:
        # Weakly: a stream that is left has to go.
        on_look = WeakMethod(self._on_look)

        def look(task: Task | None) -> None:
            if (method := on_look()) is not None:
                method(task)

        self._entered.enter_context(self._waiters.watch(self._id, look))

    def _on_look(self, task: Task | None) -> None:
        if task is None:
            self._is_gone = True
            self._reader.wake()
        else:
            self._live.in_store(task)

    async def _step(self) -> None:
        await super()._step()
        if self._is_gone and not self._coming and not self._is_over:
            self._add(GapEvent(reason="the task is no longer kept"))
            if self._seen.status is not None:
                self._add(EndEvent(task_id=self._id, status=self._seen.status))
            self._is_over = True

    async def _give(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, GapEvent):
            self._position = self._live.id_of(entry.number)
            self._give_gap(event)
            return
        if not self._seen.is_news(event):
            return
        lines: list[LogEvent] = []
        if isinstance(event, LogEvent):
            if event.attempt in self._read:
                return
            if event.attempt not in self._told:
                self._first_line.setdefault(event.attempt, event.line)
        elif isinstance(event, StateEvent):
            lines = await self._lines_before(event)
            if self._live.is_told_of(self._id, event.attempt, from_start=True):
                self._told.add(event.attempt)
        self._seen.note(event)
        self._position = self._live.id_of(entry.number)
        self._add(*lines, event)
        if isinstance(event, StateEvent) and event.status.is_terminal:
            self._add(EndEvent(task_id=self._id, status=event.status))
            self._is_over = True

    async def _lines_before(self, event: StateEvent) -> list[LogEvent]:
        """Those of attempts that have ended, where they did not come as they were logged: it began
        before one watched, or its process did not know yet that one does."""
        ended = event.attempt if event.status is not TaskStatus.PROCESSING else event.attempt - 1
        wanted = {
            number
            for number in range(max(self._given + 1, self._seen.attempt), ended + 1)
            if number not in self._told | self._read
        }
        if not wanted:
            return []
        records: tuple[AttemptRecord, ...] = ()
        with suppress(BackendUnavailable, TaskNotFound):
            records = (await self._history(self._id)).attempts
        self._read |= wanted
        return [
            LogEvent(
                task_id=event.task_id,
                type=event.type,
                queue=event.queue,
                attempt=record.number,
                line=line,
            )
            for record in records
            if record.number in wanted
            for line in _before(self._first_line.pop(record.number, None), record.logs)
        ]

    async def _look_again(self) -> None:
        """After a gap: as it is now, whatever of it is known."""
        try:
            task = await self._waiters.look_at(self._id)
        except TaskNotFound:
            self._is_gone = True
            return
        state = state_of(task)
        events: list[TaskEvent] = []
        # What is known and newer than the store's answer stays.
        if self._seen.agrees_with(state):
            self._seen.note(state)
            events.append(state)
            if task.progress is not None:
                self._seen.note(progress_of(task))
                events.append(progress_of(task))
        if task.status.is_terminal and self._seen.status is task.status:
            events.append(EndEvent(task_id=task.id, status=task.status))
            self._is_over = True
        self._add(*events)


def _attempt_before(coming: Iterable[Entry], known: int) -> int:
    """The one that one who comes back behind these events has seen, of `known`."""
    for entry in coming:
        if not isinstance(event := entry.event, GapEvent):
            begins = isinstance(event, StateEvent) and event.status is TaskStatus.PROCESSING
            return event.attempt - begins
    return known


def _before(first: LogLine | None, lines: Sequence[LogLine]) -> Sequence[LogLine]:
    """Those that had been logged when the first came."""
    return lines if first is None else [line for line in lines if line.time < first.time]


def _behind(coming: list[Entry], task: Task) -> list[Entry]:
    """Without the progress that came before the one that is in the store."""
    reported = [
        index
        for index, entry in enumerate(coming)
        if isinstance(entry.event, ProgressEvent)
        and entry.event.attempt == task.attempt
        and entry.event.progress == task.progress
    ]
    last = reported[-1] if reported else -1
    return [
        entry
        for index, entry in enumerate(coming)
        if index > last or not isinstance(entry.event, ProgressEvent)
    ]
