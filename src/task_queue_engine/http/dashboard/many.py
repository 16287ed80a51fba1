"""The same to many tasks, as a task of its own (`tqe.bulk`): asked about with the number that it
would be for, begun, undone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import trio
from quart import Response, request

from task_queue_engine.errors import IdempotencyKeyInFlight, InvalidQuery
from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.dashboard.action_view import tasks_of
from task_queue_engine.http.dashboard.listing import ACTIONS, Filters, read_filters
from task_queue_engine.http.dashboard.site import Form, Notice, Site, local_path, new_key, one
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.task import Task, TaskStatus, is_task_id
from task_queue_engine.task_actions import ActionRequest, TaskAction, undo_of
from task_queue_engine.task_filter import TaskFilter

TASKS = f"{PAGES}tasks"

# Seconds until a form that was sent twice at once asks for the first one's task again.
_AGAIN = 0.1
# Seconds that a person waits for a redrive of what was selected, before its own page is shown.
_SHORT = 2.0


class ManyTasks:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = site.state
        self._engine = site.engine

    async def confirm(self, action: str) -> Response:
        """Of all that pass the address's filter."""
        wanted = _action(action)
        filters = read_filters(request.args)
        if filters.wrong:  # the list says what
            return self._site.go_to(f"{TASKS}?{request.query_string.decode('latin-1')}")
        asked = self._request(wanted, filters)
        try:
            with self._state.request_deadline():
                matching = await self._engine.preview_action(asked)
        except InvalidQuery as error:
            if error.field not in filters.values:
                raise
            return self._site.go_to(filters.url(TASKS))
        return await self._site.page(
            "confirm_action.html",
            at="tasks",
            label=ACTIONS[wanted].label,
            dangerous=ACTIONS[wanted].dangerous,
            to=f"{PAGES}actions/{wanted}",
            words=texts.ACTIONS[wanted],
            matching=matching,
            tasks=tasks_of(asked),
            members=filters.members(),
            back=filters.url(TASKS),
            idempotency_key=new_key(),
        )

    async def start(self, action: str) -> Response:
        """The form has an idempotency key of its own: pressed twice it starts one action."""
        wanted = _action(action)
        form = await self._site.form()
        filters = read_filters({name: values[0] for name, values in form.items()})
        for name, reason in filters.wrong.items():
            raise InvalidQuery(reason, field=name)
        with self._state.request_deadline():
            task = await self._begin(self._request(wanted, filters), one(form, "idempotency_key"))
        if task is None:
            return self._site.go_to(filters.url(TASKS), Notice(key="nothing-matches"))
        return self._site.go_to(f"{TASKS}/{task.id}", Notice(key="action-started"))

    async def undo(self) -> Response:
        """What an action has cancelled is retried. Its key is made of the action's id: who presses
        second is led to what the first one has begun."""
        form = await self._site.form()
        back = local_path(one(form, "back"), TASKS)
        undone = one(form, "id")
        if not is_task_id(undone):
            return self._site.go_to(back, Notice(key="nothing-chosen"))
        try:
            with self._state.request_deadline():
                action = await self._engine.get(undone)
                self._state.types.check_task(self._state.asker.principal, action)
                task = await self._begin(undo_of(action), f"undo-of-{undone}")
        except InvalidQuery:
            return self._site.go_to(back, Notice(key="no-undo"))
        if task is None:
            return self._site.go_to(back, Notice(key="nothing-matches"))
        return self._site.go_to(f"{TASKS}/{task.id}", Notice(key="undo-started"))

    async def redrive(self, tasks: Sequence[Task], form: Form, back: str) -> Response:
        """The dead letters of tasks that were selected."""
        principal, here = self._state.asker.principal, self._state.settings.queue
        elsewhere = 0
        if len(tasks) == 1:
            which = TaskFilter(id=tasks[0].id, queue=tasks[0].queue)
            asked = ActionRequest(action=TaskAction.REDRIVE, which=which)
        else:
            # Dead letters lie in their queue, and ids say none.
            own = tuple(task.id for task in tasks if task.queue == here)
            elsewhere = len(tasks) - len(own)
            asked = ActionRequest(
                action=TaskAction.REDRIVE, ids=own, types=self._state.types.names(principal)
            )
        said = {"elsewhere": elsewhere}
        key = one(form, "idempotency_key")
        if key:
            ids = ",".join(sorted(task.id for task in tasks))
            key += "-" + hashlib.sha256(ids.encode()).hexdigest()[:16]
        task = None
        with self._state.request_deadline():
            if asked.ids != ():
                task = await self._begin(asked, key)
            if task is not None:
                task = await self._engine.wait(task.id, timeout=_SHORT)
        if task is None:
            return self._site.go_to(back, Notice(key="no-dead-letter", numbers=said))
        if task.status is not TaskStatus.COMPLETED or not isinstance(task.result, dict):
            return self._site.go_to(f"{TASKS}/{task.id}", Notice(key="action-started"))
        done = int(task.result["done"])
        said |= {
            "redriven": done,
            "skipped": int(task.result["skipped"]),
            "refused": int(task.result["failed"]),
        }
        return self._site.go_to(back, Notice(key="redriven" if done else "nothing", numbers=said))

    def _request(self, action: TaskAction, filters: Filters) -> ActionRequest:
        """Raises ProblemError (403) for a key of some types that names none of them."""
        principal, types = self._state.asker.principal, self._state.types
        return ActionRequest(
            action=action,
            which=types.narrow(principal, filters.which),
            types=types.names(principal),
        )

    async def _begin(self, asked: ActionRequest, key: str) -> Task | None:
        """None: no task passes."""
        asker = self._state.asker
        if asker.change is not None:
            asker.change.action = f"{asked.action}-many"
            types = asked.types or filter(None, (asked.which.type,))
            asker.note(task_ids=asked.ids or (), task_types=types)
            matching = await self._engine.preview_action(asked)
            asker.note(matching=matching.matching, at_least=int(matching.at_least))
        while True:
            try:
                task = await self._engine.start_action(asked, idempotency_key=key or None)
            except IdempotencyKeyInFlight:
                # The same form, sent twice at once: the first one's answer is on its way.
                await trio.sleep(_AGAIN)
            else:
                break
        if task is not None:
            asker.note(task_ids=(task.id,))
        return task


def _action(name: str) -> TaskAction:
    """Raises ProblemError (404)."""
    try:
        return TaskAction(name)
    except ValueError:
        raise ProblemError("not-found", texts.NO_SUCH_PAGE) from None
