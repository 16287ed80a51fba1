"""POST /tasks/actions: the same to many tasks. And deleting one: it has a route of its own, since
DELETE of a task cancels it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace
from quart import Quart, Response, current_app, request
from quart_schema import (
    document_headers,
    document_request,
    document_response,
    tag,
)

from task_queue_engine.errors import InvalidQuery
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.bodies import decode_object
from task_queue_engine.http.requests import canonical_id, idempotency_key, read_json
from task_queue_engine.http.responses import respond
from task_queue_engine.http.schemas import SubmissionHeaders
from task_queue_engine.limits import MAX_BATCH
from task_queue_engine.task import Task, TaskStatus, is_task_id
from task_queue_engine.task_actions import ActionRequest, Matching, TaskAction, undo_of

TAG = "tasks"


class FilterBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks are meant: those that pass all that is given, as in GET /tasks."""

    status: TaskStatus | None = None
    type: str | None = None
    queue: str | None = None
    created_after: Annotated[datetime, Meta(tz=True)] | None = None
    created_before: Annotated[datetime, Meta(tz=True)] | None = None
    id: str | None = None
    error: str | None = None


class ActionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do to which tasks: an action with `filter` ({}: all) or `ids`; or `undo_of` alone."""

    action: TaskAction | None = None
    filter: FilterBody | None = None
    ids: Annotated[list[str], Meta(min_length=1, max_length=MAX_BATCH)] | None = None
    undo_of: Annotated[
        str | None, Meta(description="Retry exactly what this action has cancelled.")
    ] = None
    dry_run: Annotated[bool, Meta(description="Only say how many tasks it would be for.")] = False


class ActionRoutes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine = state.engine
        self._types = state.types

    def register(self, app: Quart) -> None:
        app.add_url_rule("/tasks/actions", "act_on_tasks", self.act_on_tasks, methods=["POST"])
        path = "/tasks/<task_id:task_id>/delete"
        app.add_url_rule(path, "delete_task", self.delete_task, methods=["POST"])

    @tag([TAG])
    @document_headers(SubmissionHeaders)
    @document_request(ActionBody)
    @document_response(Task, 202)
    @document_response(Matching)
    async def act_on_tasks(self) -> Response:
        """Cancel, retry, redrive or delete many tasks.

        202: with the action's own task, whose progress says how many are done; to cancel it stops
        the action. 200: nothing is done: with `dry_run`, or since no task passes the filter. The
        set is that of the tasks that pass when the request is answered; `{"undo_of": id}` retries
        exactly what an action has cancelled.
        """
        said = decode_object(await read_json(request))
        key = idempotency_key(request.headers)
        dry_run = said.pop("dry_run", False)
        if not isinstance(dry_run, bool):
            raise InvalidQuery("must be true or false", field="dry_run")
        asker = self._state.asker
        with self._state.request_deadline():
            wanted = await self._wanted(said)
            matching = None
            if asker.change is not None:
                asker.change.action = f"{wanted.action}-many"
                types = wanted.types or filter(None, (wanted.which.type,))
                asker.note(task_ids=wanted.ids or (), task_types=types, dry_run=int(dry_run))
                matching = await self._engine.preview_action(wanted)
                asker.note(matching=matching.matching, at_least=int(matching.at_least))
            task = None
            if not dry_run:
                task = await self._engine.start_action(wanted, idempotency_key=key)
            if task is None:
                return respond(matching or await self._engine.preview_action(wanted))
        asker.note(task_ids=(task.id,))
        return respond(task, 202, Location=f"/tasks/{task.id}")

    async def _wanted(self, said: dict[str, Any]) -> ActionRequest:
        principal = self._state.asker.principal
        undone = said.get("undo_of")
        if undone is not None:
            if len(said) > 1:
                raise InvalidQuery("stands alone, or with dry_run", field="undo_of")
            if not isinstance(undone, str) or not is_task_id(undone):
                raise InvalidQuery("must be the id of an action's task", field="undo_of")
            task = await self._engine.get(undone)
            self._types.check_task(principal, task)
            return undo_of(task)
        if "types" in said:
            raise InvalidQuery("is not known", field="types")
        wanted = ActionRequest.decode(said)
        if principal.types is None:
            return wanted
        if wanted.ids is None:
            wanted = replace(wanted, which=self._types.narrow(principal, wanted.which))
        return replace(wanted, types=self._types.names(principal))

    @tag([TAG])
    @document_response(None, 204)
    async def delete_task(self, task_id: str) -> Response:
        """Forget a task that has ended, for good.

        409: it has not ended; or its message may still be in the queue (SQS), and would become a
        dead letter. `DELETE /tasks/{task_id}` cancels.
        """
        wanted, asker = canonical_id(task_id), self._state.asker
        asker.note(task_ids=(wanted,))
        with self._state.request_deadline():
            if self._state.is_guarded and asker.principal.types is not None:
                self._types.check_task(asker.principal, await self._engine.get(wanted))
            await self._engine.delete(wanted)
        return current_app.response_class(b"", 204)
