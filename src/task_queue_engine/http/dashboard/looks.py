"""The pages that show something: tasks, one task, workers, dead letters."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import trio
from msgspec import structs
from quart import Response, request

from task_queue_engine.attempt_record import AttemptHistory, AttemptRecord
from task_queue_engine.backends.base import Counts, TaskPage
from task_queue_engine.errors import InvalidQuery, TaskNotFound
from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.dashboard.listing import ACTIONS, FIELDS, Filters, read_filters
from task_queue_engine.http.dashboard.shown import MOST_SHOWN, json
from task_queue_engine.http.dashboard.site import Site
from task_queue_engine.http.requests import canonical_id
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.worker import WorkerList

_DEAD_PER_PAGE = 50
# Characters of what attempts have left behind: twenty may have 1.2 million, and a page that keeps
# itself up to date is fetched again and again. One attempt has at most 65,000 of them to show.
_MOST_OF_ATTEMPTS = 100_000


class Looks:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = site.state
        self._engine = site.engine

    async def tasks(self) -> Response:
        trouble, page = None, TaskPage(tasks=(), next_cursor=None)
        filters, counts = Filters({}, {}), None
        cursor = request.args.get("cursor")
        principal = self._site.principal
        own = None if principal.types is None else sorted(principal.types)
        try:
            filters = read_filters(request.args)
            if own is not None:
                if "type" not in filters.values and len(own) == 1:
                    filters = filters.with_type(own[0])
                if "type" not in filters.values:
                    raise InvalidQuery(texts.NO_TYPE_CHOSEN, field="type")
                self._state.types.check(principal, filters.values["type"])
            with self._state.request_deadline():
                page = await self._engine.list_tasks(filters.query(cursor=cursor))
                if own is None and filters.given.keys() <= {"status"}:
                    counts = _by_status((await self._engine.metrics()).counts)
        except InvalidQuery as error:
            trouble = texts.NO_TYPE_CHOSEN if error.reason == texts.NO_TYPE_CHOSEN else str(error)
        return await self._site.page(
            "tasks.html",
            at="tasks",
            events="/events",
            status=200 if trouble in (None, texts.NO_TYPE_CHOSEN) else 422,
            trouble=trouble,
            tasks=page.tasks,
            counts=counts,
            filters=filters,
            fields=[field for field in FIELDS if field.kind != "tabs"],
            types=own or self._site.types(),
            statuses=tuple(TaskStatus),
            actions=tuple(ACTIONS.values()),
            is_first=not cursor,
            next_cursor=page.next_cursor,
        )

    async def task(self, task_id: str) -> Response:
        try:
            wanted = canonical_id(task_id)
            with self._state.request_deadline():
                task = await self._engine.get(wanted)
                self._state.types.check(self._site.principal, task.type)
                history = await self._engine.history(wanted)
        except TaskNotFound:
            return await self._site.page(
                "no_task.html", at="tasks", status=404, task_id=task_id[:100]
            )
        return await self._site.page(
            "task.html",
            at="tasks",
            events="" if task.status.is_terminal else f"/tasks/{task.id}/events",
            task=task,
            **await trio.to_thread.run_sync(_timeline, history),
            actions=[one for one in ACTIONS.values() if _applies(one.statuses, task)],
        )

    async def workers(self) -> Response:
        with self._state.request_deadline():
            found: WorkerList = await self._engine.workers()
        return await self._site.page("workers.html", at="workers", events="/events", found=found)

    async def dead_letters(self) -> Response:
        cursor = request.args.get("cursor")
        principal = self._site.principal
        with self._state.request_deadline():
            page = await self._engine.list_dead(limit=_DEAD_PER_PAGE, cursor=cursor)
        if principal.types is not None:
            has = self._state.types.has
            own = tuple(one for one in page.dead_letters if has(principal, one.task_type))
            page = replace(page, dead_letters=own)
        return await self._site.page(
            "dead_letters.html",
            at="dead-letters",
            events="/events",
            page=page,
            is_first=not cursor,
        )


def _applies(statuses: frozenset[TaskStatus], task: Task) -> bool:
    return task.status in statuses and not (
        task.cancel_requested and task.status is TaskStatus.PROCESSING
    )


def _by_status(counts: Counts) -> dict[str, int]:
    return {
        "": counts.total,
        **{status: getattr(counts, status.lower()) for status in TaskStatus},
    }


def _timeline(history: AttemptHistory) -> dict[str, Any]:
    """Newest first, and after which one the omitted ones are missing. Those for which there is no
    room are without what makes them large."""
    attempts = list(history.attempts[::-1])
    gap_after = None
    if history.omitted:
        for later, earlier in pairwise(attempts):
            if later.number - earlier.number > 1:
                gap_after = later.number
    room, small = _MOST_OF_ATTEMPTS, set()
    for at, one in enumerate(attempts):
        room -= _characters(one)
        if room < 0 and at > 0:
            error = None if one.error is None else structs.replace(one.error, traceback=None)
            attempts[at] = structs.replace(one, logs=(), progress=None, error=error)
            small.add(one.number)
    return {
        "attempts": attempts,
        "omitted": history.omitted,
        "gap_after": gap_after,
        "small": small,
    }


def _characters(one: AttemptRecord) -> int:
    """That a page shows of it, about."""
    traceback = "" if one.error is None else one.error.traceback or ""
    progress = 0 if one.progress is None else min(MOST_SHOWN, len(json(one.progress)))
    return len(traceback) + progress + sum(len(line.message) + 60 for line in one.logs)
