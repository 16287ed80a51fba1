"""workers."""

from __future__ import annotations

import click

from task_queue_engine.cli.options import operating
from task_queue_engine.cli.output import list_of_workers
from task_queue_engine.cli.session import Session


@click.command()
@operating
def workers(session: Session) -> None:
    """Show the processes that live, and what each runs.

    Of all hosts that share the backend, as each said within the last 15 seconds or so. One that
    only serves the API has no slots. Workers of older versions do not show.

    LAG is how late the event loop was at worst: a handler that blocks it holds up all others of its
    process. MEMORY is resident, without worker processes.
    """
    found = session.run(lambda operations: operations.workers())
    session.show(found, lambda: list_of_workers(found))
    if found.lost:
        plural = "worker has" if found.lost == 1 else "workers have"
        session.note(f"{found.lost} more {plural} died or fallen silent within the last hour")
