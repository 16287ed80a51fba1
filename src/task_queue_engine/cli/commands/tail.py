"""tail: what happens to a task, as it happens."""

from __future__ import annotations

from contextlib import aclosing

import click
import msgspec

from task_queue_engine.cli.commands.tasks import canonical, check_end
from task_queue_engine.cli.options import operating
from task_queue_engine.cli.output import emit, line_of_event
from task_queue_engine.cli.session import Session
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.retry import MAX_SECONDS
from task_queue_engine.task import Task


@click.command()
@click.argument("task_id", metavar="ID")
@operating
def tail(session: Session, task_id: str) -> None:
    """Follow a task's states, log lines and progress.

    To its end. It begins with the present state and what is kept of earlier attempts; --json prints
    an event a line. The exit codes are those of `submit --wait`: 0 for COMPLETED, 1 for FAILED and
    CANCELLED.
    """
    wanted = canonical(task_id)

    async def work(operations: TaskApi) -> Task:
        async with aclosing(operations.events(wanted)) as events:
            async for event in events:
                if session.as_json:
                    emit(msgspec.json.encode(event))
                elif (line := line_of_event(event)) is not None:
                    emit(line)
        return await operations.get(wanted)

    check_end(session.run(work), MAX_SECONDS)
