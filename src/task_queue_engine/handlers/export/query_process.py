"""Exports by query, each in a worker process of its own.

A query does not know how to stop: a single SQL function may work for hours without a look at
anything. So the engine kills the process, at a timeout, a cancel and its own end, and the system
ends it at its limit of CPU time. It is not used again: the next query finds nothing of this one.

These processes are not among `TQE_PROCESSES`; each of the engine's workers has one at most.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from task_queue_engine.clock import SystemClock
from task_queue_engine.config import Settings
from task_queue_engine.context import TaskContext
from task_queue_engine.errors import CpuTimeExceeded
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.handlers.export.file import ExportResult
from task_queue_engine.handlers.export.payload import ExportPayload
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.export.write_query import in_the_process
from task_queue_engine.handlers.files import part_name
from task_queue_engine.payloads import to_json_types
from task_queue_engine.retry import Discard
from task_queue_engine.task import Task, TaskStatus

# Seconds to remove what a killed process was writing.
_TIDY_UP = 5.0


async def export_query(payload: ExportPayload, context: TaskContext) -> ExportResult:
    """Run the query and write its rows to a file.

    Raises:
        Discard, Retry, ConfigurationError: as `open_query` and `write_export`; Discard also where
            the process needs more memory or CPU time than it may have.
        WorkerProcessDied: the process ended otherwise; retried.
    """
    now = SystemClock().now()
    task = Task(
        id=context.task_id,
        type="data-export",
        payload=to_json_types(payload),
        status=TaskStatus.PROCESSING,
        attempt=context.attempt,
        retry_count=context.retry_count,
        max_attempts=context.max_attempts,
        created_at=now,
        updated_at=now,
    )
    runner = HandlerRunner(threads=1, processes=1, max_result_bytes=Settings().max_result_bytes)
    definition = in_the_process.get("data-export")
    try:
        async with runner.open():
            result = await runner.run(definition, task, report_progress=context.progress)
    except CpuTimeExceeded as error:
        await _remove_part(context)
        raise Discard(
            "query: needs more CPU time than TQE_EXPORT_MAX_CPU_SECONDS "
            f"({ExportSettings().max_cpu_seconds:g}): narrow it"
        ) from error
    except BaseException:
        await _remove_part(context)
        raise
    return msgspec.convert(result, ExportResult)


async def _remove_part(context: TaskContext) -> None:
    """What a killed process was writing, which would stay until the task's next attempt."""

    def remove(part: Path) -> None:
        with suppress(OSError):
            part.unlink()

    part = ExportSettings().directory / part_name(context.task_id, context.attempt)
    with trio.move_on_after(_TIDY_UP, shield=True):
        # Not trio's own threads: others may have taken them all.
        await trio.to_thread.run_sync(
            remove, part, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
