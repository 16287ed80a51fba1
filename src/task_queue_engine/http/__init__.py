"""The HTTP front end: the engine's API on Quart-Trio, served by hypercorn's protocol."""

from task_queue_engine.http.app import create_app
from task_queue_engine.http.listeners import Bound, open_listeners
from task_queue_engine.http.server import serve_http

__all__ = ["Bound", "create_app", "open_listeners", "serve_http"]
