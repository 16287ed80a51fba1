"""Task type `data-export`: rows to a CSV, JSON or JSON Lines file.

The handler is an `async def`, since the engine's store is async. A query, which a client has
written, runs in a worker process of its own; other rows are of known size, and are read and written
in a thread.
"""

from __future__ import annotations

import trio

from task_queue_engine.backends.base import ListQuery, TaskPage
from task_queue_engine.context import TaskContext
from task_queue_engine.errors import BackendRefused, ConfigurationError
from task_queue_engine.handlers.export.file import ExportAttempt, ExportResult, write_export
from task_queue_engine.handlers.export.payload import ExportPayload, TaskFilter
from task_queue_engine.handlers.export.query_process import export_query
from task_queue_engine.handlers.export.rows import payload_rows
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.export.task_rows import task_rows
from task_queue_engine.handlers.export.task_store import open_task_store
from task_queue_engine.registry import TaskRegistry

tasks = TaskRegistry()


@tasks.task(
    "data-export",
    max_attempts=3,
    timeout=3600,
    on_error={ConfigurationError: None, BackendRefused: None},
)
async def export_data(payload: ExportPayload, context: TaskContext) -> ExportResult:
    """Write the rows to a file below `TQE_EXPORT_DIR`.

    The file appears when it is complete and on disk. A cancelled, failed or killed attempt leaves
    nothing under its name.

    Raises:
        Discard: an error in the query, a name that is taken, too many rows or bytes, too much
            memory, CPU time or temporary space.
        Retry: a locked database, a full disk.
        WorkerProcessDied: the query's process was ended from outside; retried.
        BackendUnavailable: the engine's store is in trouble; retried.
        ConfigurationError: a wrong or missing `TQE_EXPORT_*` variable; not retried.
    """

    if payload.query is not None:
        return await export_query(payload, context)

    def report(rows: int) -> None:
        trio.from_thread.run(context.progress, {"rows": rows})

    attempt = ExportAttempt(
        task_id=context.task_id,
        number=context.attempt,
        check_cancelled=trio.from_thread.check_cancelled,
        report=report,
    )
    # Not abandoned when cancelled: the thread looks for that itself, and tidies up.
    if payload.tasks is not None:
        return await _export_tasks(payload, payload.tasks, attempt)
    return await trio.to_thread.run_sync(_export_rows, payload, attempt)


def _export_rows(payload: ExportPayload, attempt: ExportAttempt) -> ExportResult:
    return write_export(payload_rows(payload), payload, ExportSettings(), attempt)


async def _export_tasks(
    payload: ExportPayload, wanted: TaskFilter, attempt: ExportAttempt
) -> ExportResult:
    async with open_task_store() as store:

        def list_tasks(query: ListQuery) -> TaskPage:
            return trio.from_thread.run(store.list_tasks, query)

        def write() -> ExportResult:
            return write_export(task_rows(wanted, list_tasks), payload, ExportSettings(), attempt)

        return await trio.to_thread.run_sync(write)
