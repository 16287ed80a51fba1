"""top."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial

import click
import trio

from task_queue_engine.cli.options import operating
from task_queue_engine.cli.session import Session
from task_queue_engine.cli.top.top import Top, as_text
from task_queue_engine.engine.api import EngineApi, TaskApi

_now = partial(datetime.now, UTC)


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.5, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Print it once; it takes one interval.")
@operating
def top(session: Session, interval: float, once: bool) -> None:
    """Show queue, types, workers and failures, live.

    \b
    Keys:
      q         quit
      p         pause, and go on
      s         sort types by another column
      f         filter by a part of the type's name
      up, down  select a task; enter shows it, escape goes back
      c, r      cancel or retry that task, after a question

    Where stdout is no terminal, and with --once or --json, all of it is printed once, plainly.
    NO_COLOR=1 takes the colours.

    Numbers of types are those of the server that --url names where all workers are its own, else
    of a page of the newest tasks.
    """
    is_live = sys.stdin.isatty() and sys.stdout.isatty()
    if once or session.as_json or not is_live:
        seen = session.run(lambda operations: _top(operations, interval).once())
        session.show(seen, lambda: as_text(seen))
        return
    session.run(lambda operations: _show(_top(operations, interval)))


def _top(operations: TaskApi, interval: float) -> Top:
    if isinstance(operations, EngineApi):
        title = operations.backend_info.detail
    else:
        title = str(getattr(operations, "url", ""))  # a client's, without a password in it
    return Top(operations, title=title, interval=interval, now=_now)


async def _show(top: Top) -> None:
    try:
        # Only here: a Python may be built without it, and nothing else needs it.
        from task_queue_engine.cli.top.terminal import SIGNALS, full_screen
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"this Python has no module {error.name}; --once prints the same"
        ) from None
    await top.begin()
    with trio.open_signal_receiver(*SIGNALS) as signals, full_screen() as terminal:
        send_keys, keys = trio.open_memory_channel[str](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminal.read, send_keys, signals)
            with keys:
                await top.run(terminal, keys)
            nursery.cancel_scope.cancel()
