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

    Workers, uptime and counters are known of a server that is asked with --url. Without one --json
    has them too, but of this command itself: no workers, and nothing counted.
    """
    view = MetricsView.of(session.run(lambda operations: operations.metrics()))
    session.show(view, lambda: describe_metrics(view, of_server=session.url is not None))
