"""Who this process is, for its tasks and for those who look at the workers."""

from __future__ import annotations

import os
import secrets
import socket

from task_queue_engine._version import __version__
from task_queue_engine.clock import Clock
from task_queue_engine.config import Settings
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.worker import MAX_TYPES, Worker


def new_worker_id() -> str:
    """Of one engine in this process: no two have the same."""
    return f"{host_name()}:{os.getpid()}:{secrets.token_hex(3)}"


def host_name() -> str:
    """As Unicode text, whatever bytes it is made of."""
    return os.fsencode(socket.gethostname()).decode(errors="replace")


def describe(
    worker_id: str, *, registry: TaskRegistry, settings: Settings, clock: Clock, runs_tasks: bool
) -> Worker:
    """What does not change while an engine runs."""
    now = clock.now()
    return Worker(
        id=worker_id,
        host=host_name(),
        pid=os.getpid(),
        version=__version__,
        queues=(settings.queue,),
        types=tuple(sorted(registry.runs_in())[:MAX_TYPES]) if runs_tasks else (),
        slots=settings.worker_count if runs_tasks else 0,
        threads=settings.threads if runs_tasks else 0,
        processes=settings.processes if runs_tasks else 0,
        started_at=now,
        last_seen=now,
    )
