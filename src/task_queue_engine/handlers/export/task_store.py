"""Read access to the engine's tasks for handlers, which hold no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from task_queue_engine.backends.base import TaskStore
from task_queue_engine.clock import SystemClock
from task_queue_engine.config import Settings
from task_queue_engine.engine.backend_factory import create_backend


@asynccontextmanager
async def open_task_store() -> AsyncIterator[TaskStore]:
    """The store of the backend that the environment names, opened beside the engine's own.

    What is raised inside comes out as it is.

    Raises BackendUnavailable, BackendRefused.
    """
    backend = create_backend(Settings(), SystemClock())
    failure: Exception | None = None
    async with backend.open():
        try:
            yield backend.store
        except Exception as error:  # noqa: BLE001 - raised again below
            # Not here: a backend with a nursery would wrap a handler's Retry or Discard.
            failure = error
    if failure is not None:
        raise failure
