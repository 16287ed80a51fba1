"""What the buttons do. Each change is a form's POST, asks before it does what cannot be taken back,
and ends at a page that says what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import trio
from quart import Response

from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import MessageRefused, TaskNotFound, WrongState
from task_queue_engine.http.dashboard.concurrently import bare_errors
from task_queue_engine.http.dashboard.listing import ACTIONS, DELETE, REDRIVE, Action
from task_queue_engine.http.dashboard.many import TASKS, ManyTasks
from task_queue_engine.http.dashboard.site import Notice, Site, local_path, one, task_ids
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.task import Task, TaskStatus

# Tasks that are changed at one time: as many as the backends put into a batch.
_AT_ONCE = 10
# Ids in a notice: a cookie holds 4 KB.
_MOST_UNDONE = 50
# Of a request's time limit, as for redrives by the API: see routes/dead_letters.py.
_SHARE = 3

DEAD_LETTERS = f"{PAGES}dead-letters"

Run = Callable[[TaskApi, str], Awaitable[Task | None]]


class Changes:
    def __init__(self, site: Site, many: ManyTasks) -> None:
        self._site = site
        self._many = many
        self._state = site.state
        self._engine = site.engine

    # --- tasks ------------------------------------------------------------------------------

    async def cancel(self) -> Response:
        return await self._change(ACTIONS["cancel"])

    async def retry(self) -> Response:
        return await self._change(ACTIONS["retry"])

    async def delete(self) -> Response:
        return await self._change(DELETE)

    async def redrive_tasks(self) -> Response:
        return await self._change(REDRIVE)

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
                yes=action.yes(len(ids)),
                to=f"{TASKS}/{action.name}",
                back=back,
                members=[
                    *(("id", task_id) for task_id in ids),
                    ("idempotency_key", one(form, "idempotency_key")),
                ],
                dangerous=action.dangerous,
                at="tasks",
            )
        if action.run is None:
            found = await self._found(ids)
            if not found:
                return self._site.go_to(back, Notice(key="nothing", numbers={"gone": len(ids)}))
            return await self._many.redrive(found, form, back)
        if action is DELETE and len(ids) == 1:
            return await self._delete_one(ids[0], back)
        return self._site.go_to(back, await self._do(action, action.run, ids))

    async def _delete_one(self, task_id: str, back: str) -> Response:
        """Who asks for one task hears in the engine's own words why it stays."""
        asker = self._state.asker
        asker.note(task_ids=(task_id,))
        # Its own page is gone with it.
        back = TASKS if back.startswith(f"{TASKS}/{task_id}") else back
        try:
            with self._state.request_deadline():
                await self._own(task_id)
                await self._engine.delete(task_id)
        except TaskNotFound:
            return self._site.go_to(back, Notice(key="deleted", numbers={"done": 0, "gone": 1}))
        except WrongState as error:
            return await self._site.page(
                "refused.html", at="tasks", status=409, reason=str(error), task_id=task_id
            )
        return self._site.go_to(back, Notice(key="deleted", numbers={"done": 1}))

    async def _own(self, task_id: str) -> Task:
        """Raises TaskNotFound, ProblemError (403)."""
        task = await self._engine.get(task_id)
        self._state.types.check_task(self._state.asker.principal, task)
        self._state.asker.note(task_types=(task.type,))
        return task

    async def _found(self, ids: Sequence[str]) -> list[Task]:
        """Those that are still there."""
        found: list[Task] = []
        room = trio.Semaphore(_AT_ONCE)

        async def look(task_id: str) -> None:
            async with room:
                with suppress(TaskNotFound):
                    found.append(await self._own(task_id))

        with self._state.request_deadline(), bare_errors():
            async with trio.open_nursery() as nursery:
                for task_id in ids:
                    nursery.start_soon(look, task_id)
        return found

    async def _do(self, action: Action, run: Run, ids: Sequence[str]) -> Notice:
        """Each by itself: what has changed meanwhile keeps none of the others from it."""
        self._state.asker.note(task_ids=ids)
        came_to: Counter[str] = Counter(done=0)
        undoable: list[str] = []
        room = trio.Semaphore(_AT_ONCE)

        async def change(task_id: str) -> None:
            async with room:
                try:
                    before = await self._own(task_id)
                    after = await run(self._engine, task_id) or before
                except TaskNotFound:
                    came_to["gone"] += 1
                    return
                except WrongState as error:
                    came_to[_why_not(action, error)] += 1
                    return
                except MessageRefused:
                    came_to["barred"] += 1
                    return
            came_to["stopping" if _is_being_stopped(after) else "done"] += 1
            if action.can_undo(before, after):
                undoable.append(task_id)

        with self._state.request_deadline(), bare_errors():
            async with trio.open_nursery() as nursery:
                for task_id in ids:
                    nursery.start_soon(change, task_id)
        can_undo = action.undo is not None and 0 < len(undoable) <= _MOST_UNDONE
        return Notice(
            key=action.done,
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
                yes="Redrive all dead letters",
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
                yes="Delete all dead letters",
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
        yes: str,
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
            yes=yes,
            to=to,
            back=back,
            members=members,
            dangerous=dangerous,
        )


def _is_being_stopped(task: Task) -> bool:
    return task.cancel_requested and task.status is TaskStatus.PROCESSING


def _why_not(action: Action, error: WrongState) -> str:
    """What is added to the notice."""
    if action is not DELETE:
        return "changed"
    return "kept" if error.status.is_terminal else "unended"
