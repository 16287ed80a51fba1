"""The HTTP front end: the engine's API on Quart-Trio, served by hypercorn's protocol."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from task_queue_engine.http.app import create_app
    from task_queue_engine.http.listeners import Bound, open_listeners
    from task_queue_engine.http.server import serve_http

# Loaded when they are asked for: what only binds the port needs no web framework.
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
