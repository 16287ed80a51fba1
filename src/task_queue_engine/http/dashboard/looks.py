"""The pages that show something: tasks, one task, workers, dead letters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import trio
from msgspec import structs
from quart import Response, request

from task_queue_engine.attempt_record import AttemptHistory, AttemptRecord
from task_queue_engine.backends.base import Counts, TaskPage
from task_queue_engine.errors import InvalidQuery, TaskNotFound
from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.dashboard.action_view import view_of
from task_queue_engine.http.dashboard.concurrently import bare_errors
from task_queue_engine.http.dashboard.listing import (
    ACTIONS,
    FIELDS,
    PAGE_SIZE,
    Field,
    Filters,
    actions_for,
    read_filters,
)
from task_queue_engine.http.dashboard.shown import MOST_SHOWN, json
from task_queue_engine.http.dashboard.site import Site, new_key
from task_queue_engine.http.principal import Role
from task_queue_engine.http.requests import canonical_id
from task_queue_engine.task import TaskStatus
from task_queue_engine.worker import WorkerList

_DEAD_PER_PAGE = 50
# Characters of what attempts have left behind: twenty may have 1.2 million, and a page that keeps
# itself up to date is fetched again and again. One attempt has at most 65,000 of them to show.
_MOST_OF_ATTEMPTS = 100_000


@dataclass(slots=True)
class _List:
    """A page of tasks, as far as it is known."""

    filters: Filters
    page: TaskPage = TaskPage(tasks=(), next_cursor=None)  # noqa: RUF009 - frozen
    counts: dict[str, int] | None = None
    trouble: str = ""


class Looks:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = site.state
        self._engine = site.engine

    async def tasks(self) -> Response:
        filters, cursor = read_filters(request.args), request.args.get("cursor")
        principal = self._site.principal
        own = None if principal.types is None else sorted(principal.types)
        if own is not None and len(own) == 1 and "type" not in filters.given:
            filters = filters.with_type(own[0])
        found = _List(filters)
        # A key for some types lists one of them at a time.
        if own is None or "type" in filters.values:
            if own is not None:
                self._state.types.check(principal, filters.values["type"])
            with self._state.request_deadline(), bare_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._list, found, cursor)
                    if own is None and filters.given.keys() <= {"status"}:
                        nursery.start_soon(self._count, found)
        else:
            found.trouble = texts.NO_TYPE_CHOSEN
        filters = found.filters
        may_act = principal.may(Role.OPERATE) and not (filters.wrong or found.trouble)
        is_refused = bool(filters.wrong) or found.trouble not in ("", texts.NO_TYPE_CHOSEN)
        return await self._site.page(
            "tasks.html",
            at="tasks",
            events="/events",
            status=422 if is_refused else 200,
            trouble=found.trouble,
            tasks=found.page.tasks,
            counts=found.counts,
            filters=filters,
            fields=[field for field in FIELDS if field.kind != "tabs" and self._is_asked(field)],
            types=own or self._site.types(),
            statuses=tuple(TaskStatus),
            actions=actions_for(filters) if may_act else (),
            is_first=not cursor,
            is_short=found.page.next_cursor is not None and len(found.page.tasks) < PAGE_SIZE,
            next_cursor=found.page.next_cursor,
            idempotency_key=new_key(),
        )

    def _is_asked(self, field: Field) -> bool:
        """Errors are not searched where they may repeat what is hidden."""
        return not (field.name == "error" and self._state.settings.redact)

    async def _list(self, found: _List, cursor: str | None) -> None:
        """What the backend cannot be asked for is left out, and said. (Never the type, of which no
        backend refuses one: a key for some types must not see others.)"""
        while True:
            filters = found.filters
            try:
                found.page = await self._engine.list_tasks(filters.query(cursor=cursor))
                return
            except InvalidQuery as error:
                if error.field not in filters.values or error.field == "type":
                    found.trouble = str(error)
                    return
                found.filters = filters.without(error.field, error.reason)

    async def _count(self, found: _List) -> None:
        found.counts = _by_status((await self._engine.metrics()).counts)

    async def task(self, task_id: str) -> Response:
        try:
            wanted = canonical_id(task_id)
            with self._state.request_deadline():
                task = await self._engine.get(wanted)
                self._state.types.check_task(self._site.principal, task)
                history = await self._engine.history(wanted)
        except TaskNotFound:
            return await self._site.page(
                "no_task.html", at="tasks", status=404, task_id=task_id[:100]
            )
        view = view_of(task, history)
        return await self._site.page(
            "task.html" if view is None else "action.html",
            at="tasks",
            events="" if task.status.is_terminal else f"/tasks/{task.id}/events",
            task=task,
            view=view,
            **await trio.to_thread.run_sync(_timeline, history),
            actions=[one for one in ACTIONS.values() if one.is_for(task)],
            actions_first=self._engine.backend_info.actions_first,
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
