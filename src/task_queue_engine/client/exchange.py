"""Between a call's values and what goes over the wire."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from task_queue_engine.errors import ApiError, TaskNotFound
from task_queue_engine.task import is_task_id

T = TypeVar("T")


def in_path(task_id: str) -> str:
    """Raises TaskNotFound for what cannot be an id, as the server does."""
    canonical = task_id.lower()
    if not is_task_id(canonical):
        raise TaskNotFound(task_id)
    return quote(canonical, safe="")


def decode(response: httpx.Response, what: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=what)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        url = response.url.copy_with(userinfo=b"")
        raise ApiError(
            f"{url} did not answer as a Task Queue Engine server does: {error}",
            status=response.status_code,
        ) from None
