"""The HTTP API as a Python object, for programs that submit and ask but run no tasks.

It is installed by itself, too (`task-queue-engine-client`), with httpx and msgspec and without what
an engine takes: nothing in here, or imported from here, may need more.
"""

from task_queue_engine.client.async_client import AsyncClient
from task_queue_engine.client.client import Client
from task_queue_engine.client.handle import SyncTaskHandle
from task_queue_engine.engine.api import TaskHandle

__all__ = ["AsyncClient", "Client", "SyncTaskHandle", "TaskHandle"]
