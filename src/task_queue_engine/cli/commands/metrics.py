"""metrics."""

from __future__ import annotations

import click

from task_queue_engine.cli.options import operating
from task_queue_engine.cli.output import describe_metrics
from task_queue_engine.cli.session import Session
from task_queue_engine.engine.views import MetricsView


@click.command()
@operating
def metrics(session: Session) -> None:
    """Show counts of tasks and messages.

    Tasks are those of all queues, messages those of one: TQE_QUEUE, or the server's with --url.
    A task that waits more than 15 minutes is pending and has no message yet.

    Workers, uptime and counters are those of the one process that answers --url: a server that
    only takes tasks (tqe api) has 0 workers whatever runs beside it. Without --url, --json has
    them too, but of this command itself: no workers, and nothing counted.
    """
    view = MetricsView.of(session.run(lambda operations: operations.metrics()))
    session.show(view, lambda: describe_metrics(view, of_server=session.url is not None))
