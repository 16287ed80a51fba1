"""What a client can ask that deletes tasks or acts on many, as steps; a part of `Calls`."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from task_queue_engine.client.exchange import decode, in_path
from task_queue_engine.client.requests import check_key, key_header, new_key
from task_queue_engine.client.steps import Steps
from task_queue_engine.errors import TaskNotFound
from task_queue_engine.task import Task
from task_queue_engine.task_actions import ActionRequest, Matching


class ActionCalls:
    """See `Calls`."""

    def delete(self, task_id: str) -> Steps[None]:
        path = f"/tasks/{in_path(task_id)}/delete"
        try:
            yield from self._ask("POST", path)
        except TaskNotFound as error:
            if error.__cause__ is None:
                raise
            # An earlier send has deleted it, and its answer was lost.

    # --- changing many ----------------------------------------------------------------------

    def preview_action(self, request: ActionRequest) -> Steps[Matching]:
        body = {**_said(request), "dry_run": True}
        content = msgspec.json.encode(body)
        return decode((yield from self._ask("POST", "/tasks/actions", content=content)), Matching)

    def start_action(self, request: ActionRequest, key: str | None) -> Steps[Task | None]:
        return (yield from self._act(_said(request), key))

    def undo_action(self, task_id: str, key: str | None) -> Steps[Task | None]:
        return (yield from self._act({"undo_of": task_id}, key))

    def _act(self, body: dict[str, Any], key: str | None) -> Steps[Task | None]:
        if key is None:
            key = new_key()
        check_key(key)
        response = yield from self._ask(
            "POST",
            "/tasks/actions",
            content=msgspec.json.encode(body),
            headers={"Idempotency-Key": key_header(key)},
        )
        return decode(response, Task) if response.status_code == 202 else None

    def _ask(self, method: str, path: str, **parts: Any) -> Steps[httpx.Response]:
        raise NotImplementedError


def _said(request: ActionRequest) -> dict[str, Any]:
    """As the API takes it. Raises InvalidQuery."""
    request.check()
    said = request.encode()
    said.pop("types", None)  # the server's own, by the key
    return said
