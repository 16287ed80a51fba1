"""What the buttons do. Each change is a form's POST, asks before it does what cannot be taken back,
and ends at a page that says what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import trio
from quart import Response

from task_queue_engine.errors import TaskNotFound, WrongState
from task_queue_engine.http.dashboard.listing import ACTIONS, Action
from task_queue_engine.http.dashboard.site import Notice, Site, local_path, one, task_ids
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.task import Task, TaskStatus

# Tasks that are changed at one time: as many as the backends put into a batch.
_AT_ONCE = 10
# Ids in a notice: a cookie holds 4 KB.
_MOST_UNDONE = 50
# Of a request's time limit, as for redrives by the API: see routes/dead_letters.py.
_SHARE = 3

TASKS = f"{PAGES}tasks"
DEAD_LETTERS = f"{PAGES}dead-letters"


class Changes:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = site.state
        self._engine = site.engine

    # --- tasks ------------------------------------------------------------------------------

    async def cancel(self) -> Response:
        return await self._change(ACTIONS["cancel"])

    async def retry(self) -> Response:
        return await self._change(ACTIONS["retry"])

    async def _change(self, action: Action) -> Response:
        form = await self._site.form()
        ids = task_ids(form)
        back = local_path(one(form, "back"), TASKS)
        if not ids:
            return self._site.go_to(back, Notice(key="nothing-chosen"))
        question = action.question_for_one if len(ids) == 1 else action.question
        if question is not None and not one(form, "confirmed"):
            return await self._ask(
                question.format(n=len(ids)),
                label=action.label,
                to=f"{TASKS}/{action.name}",
                back=back,
                members=[("id", task_id) for task_id in ids],
                dangerous=action.dangerous,
                at="tasks",
            )
        return self._site.go_to(back, await self._do(action, ids))

    async def _do(self, action: Action, ids: Sequence[str]) -> Notice:
        """Each by itself: what has changed meanwhile keeps none of the others from it."""
        asker = self._state.asker
        asker.note(task_ids=ids)
        came_to: Counter[str] = Counter(done=0)
        undoable: list[str] = []
        room = trio.Semaphore(_AT_ONCE)

        async def change(task_id: str) -> None:
            async with room:
                try:
                    before = await self._engine.get(task_id)
                    self._state.types.check(asker.principal, before.type)
                    after = await action.run(self._engine, task_id) or before
                except TaskNotFound:
                    came_to["gone"] += 1
                    return
                except WrongState:
                    came_to["changed"] += 1
                    return
            asker.note(task_types=(after.type,))
            came_to["stopping" if _is_being_stopped(after) else "done"] += 1
            if action.can_undo(before, after):
                undoable.append(task_id)

        with self._state.request_deadline():
            try:
                async with trio.open_nursery() as nursery:
                    for task_id in ids:
                        nursery.start_soon(change, task_id)
            except BaseExceptionGroup as group:
                # One reason is enough: the backend is in trouble, or the key is for other types.
                raise _first(group) from None
        key = action.done
        if came_to["stopping"]:
            came_to["done"] += came_to["stopping"]
            key = "stopping"
        can_undo = action.undo is not None and 0 < len(undoable) <= _MOST_UNDONE
        return Notice(
            key=key,
            numbers=dict(came_to),
            ids=undoable if can_undo else [],
            undo=action.undo or "" if can_undo else "",
        )

    # --- dead letters -----------------------------------------------------------------------

    async def redrive(self) -> Response:
        form = await self._site.form()
        principal = self._site.principal
        every = bool(one(form, "all")) and principal.types is None
        ids = None if every else list(dict.fromkeys(form.get("id", ())))
        back = local_path(one(form, "back"), DEAD_LETTERS)
        if ids == []:
            return self._site.go_to(back, Notice(key="nothing-chosen"))
        if every and not one(form, "confirmed"):
            return await self._ask(
                "Put all dead letters back to work?",
                label="Redrive all",
                to=f"{DEAD_LETTERS}/redrive",
                back=back,
                members=[("all", "1")],
                at="dead-letters",
            )
        is_own = None if principal.types is None else partial(self._state.types.has, principal)
        with self._state.request_deadline():
            report = await self._engine.redrive(
                ids, within=self._state.settings.request_timeout / _SHARE, of_type=is_own
            )
        numbers = {
            "redriven": report.redriven,
            "skipped": report.skipped,
            "refused": report.refused,
            "not_found": report.not_found,
            "remaining": report.remaining,
        }
        self._state.asker.note(task_ids=(), task_types=(), **numbers)
        key = "redriven" if report.redriven else "nothing"
        return self._site.go_to(back, Notice(key=key, numbers=numbers))

    async def purge(self) -> Response:
        form = await self._site.form()
        if not one(form, "confirmed"):
            return await self._ask(
                "Delete all dead letters? Their tasks stay as they are. This cannot be undone.",
                label="Delete all",
                to=f"{DEAD_LETTERS}/purge",
                back=DEAD_LETTERS,
                members=[],
                dangerous=True,
                at="dead-letters",
            )
        with self._state.request_deadline():
            purged = await self._engine.purge_dead()
        self._state.asker.note(purged=purged)
        return self._site.go_to(DEAD_LETTERS, Notice(key="purged", numbers={"purged": purged}))

    async def _ask(
        self,
        question: str,
        *,
        label: str,
        to: str,
        back: str,
        members: Sequence[tuple[str, str]],
        at: str,
        dangerous: bool = False,
    ) -> Response:
        """For browsers without the script, which has asked already."""
        # Nothing was changed: the audit log has no line about a question.
        if (change := self._state.asker.change) is not None:
            change.action = None
        return await self._site.page(
            "confirm.html",
            at=at,
            question=question,
            label=label,
            to=to,
            back=back,
            members=members,
            dangerous=dangerous,
        )


def _is_being_stopped(task: Task) -> bool:
    return task.cancel_requested and task.status is TaskStatus.PROCESSING


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
