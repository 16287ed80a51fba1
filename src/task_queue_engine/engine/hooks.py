"""Calls the host's hooks, and keeps a broken one from hurting the line."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from task_queue_engine.events import Event, Hook

logger = logging.getLogger("task_queue_engine.hooks")


class Hooks:
    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = list(hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def publish(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:
                # It is the host's code: what it does wrong must not cost anybody a task.
                logger.exception("hook %r failed and is not called again", hook)
                self._hooks.remove(hook)
