"""The HTTP front end: the engine's API on Quart-Trio, served by hypercorn's protocol.

The names below are imported when they are first used: a worker looks at its open files here, and
should not pay for a web framework it does not run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from task_queue_engine.http.app import create_app
    from task_queue_engine.http.listeners import Bound, open_listeners
    from task_queue_engine.http.server import serve_http

_WHERE = {
    "Bound": "listeners",
    "create_app": "app",
    "open_listeners": "listeners",
    "serve_http": "server",
}

__all__ = ["Bound", "create_app", "open_listeners", "serve_http"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
