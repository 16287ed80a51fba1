"""What the process of one query does. Each query waits for what is imported here."""

from __future__ import annotations

from task_queue_engine.context import SyncTaskContext
from task_queue_engine.handlers.export.file import ExportAttempt, ExportResult, write_export
from task_queue_engine.handlers.export.payload import ExportPayload
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.process_limits import address_space_limit, cpu_time_limit
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Discard

in_the_process = TaskRegistry()


@in_the_process.task("data-export", process=True)
def write_query(payload: ExportPayload, context: SyncTaskContext) -> ExportResult:
    """Raises as `open_query` and `write_export`; also Discard, for want of memory within the
    limit."""
    # Only here: the process that runs the engine has no use for it.
    from task_queue_engine.handlers.export.query import open_query

    settings = ExportSettings()
    attempt = ExportAttempt(
        task_id=context.task_id,
        number=context.attempt,
        check_cancelled=context.check_cancelled,
        report=lambda rows: context.progress({"rows": rows}),
    )
    try:
        with (
            cpu_time_limit(settings.max_cpu_seconds),
            address_space_limit(settings.max_memory),
            open_query(
                settings.database,
                payload.query or "",
                payload.parameters,
                max_temp_bytes=settings.max_bytes,
            ) as source,
        ):
            return write_export(source, payload, settings, attempt)
    except MemoryError:
        raise Discard(
            "query: needs more memory than TQE_EXPORT_MAX_MEMORY_BYTES "
            f"({settings.max_memory}): narrow it"
        ) from None
