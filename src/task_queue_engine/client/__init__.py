"""The HTTP API as a Python object, for programs that submit and ask but run no tasks."""

from task_queue_engine.client.client import Client

__all__ = ["Client"]
