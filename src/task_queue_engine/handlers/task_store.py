"""Read access to the engine's tasks for handlers, which hold no engine."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from task_queue_engine.backends.base import Backend, TaskStore
from task_queue_engine.clock import SystemClock
from task_queue_engine.config import Settings


@asynccontextmanager
async def open_task_store() -> AsyncIterator[TaskStore]:
    """The store of the backend that the environment names, opened beside the engine's own.

    What is raised inside comes out as it is.

    Raises BackendUnavailable, BackendRefused.
    """
    backend = _make_backend(Settings())
    failure: Exception | None = None
    async with backend.open():
        try:
            yield backend.store
        except Exception as error:  # noqa: BLE001 - raised again outside of the backend's nursery,
            failure = error  # which would wrap a handler's Retry or Discard in a group
    if failure is not None:
        raise failure


def _make_backend(settings: Settings) -> Backend:
    # Late, so that task types which never look at tasks load no backend.
    choice = importlib.import_module("task_queue_engine.engine.choice")
    backend: Backend = choice.create_backend(settings, SystemClock())
    return backend
