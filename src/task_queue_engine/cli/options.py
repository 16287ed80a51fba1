"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]

SERVICE = "task_queue_engine.service"
"""Set in a context's meta once a service has run: its process is ended by `leaving`."""
MEMBER = "task_queue_engine.member"
"""In a context's meta: the Membership of a process that has a supervisor, which tells the user what
is wrong."""
DEBUG = "task_queue_engine.debug"
"""In a context's `meta`: tracebacks are wanted."""


def _note_debug(context: click.Context, _: click.Parameter, value: bool) -> bool:
    if value:
        context.meta[DEBUG] = True
    return value


debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,  # so that a traceback is also shown of what the other options may raise
    callback=_note_debug,
    help="Log everything, show tracebacks. [TQE_LOG_LEVEL=DEBUG]",
)

app_option = click.option(
    "--app",
    metavar="MODULE:REGISTRY",
    help="Your own task types, e.g. shop.tasks:registry; without it those that come with this "
    "package. The current directory is importable. [TQE_APP]",
)


def operating(command: Command) -> Command:
    """A command that asks or changes something: it gets a Session in place of these options."""

    @click.option(
        "--url",
        metavar="URL",
        help="Ask the server there instead of the backend itself. [TQE_URL]",
    )
    @click.option(
        "--api-key",
        metavar="KEY",
        help="One of the server's keys. Other users of this machine can see it here, but not in "
        "the variable. [TQE_API_KEY]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON as the HTTP API has it.")
    @debug_option
    @functools.wraps(command)
    def with_session(
        *args: Any, url: str | None, api_key: str | None, as_json: bool, debug: bool, **options: Any
    ) -> Any:
        # Only here: `tqe --help` and the services have these options too, and no session.
        from task_queue_engine.cli.session import Session

        session = Session.open(url=url, api_key=api_key, as_json=as_json, debug=debug)
        return command(session, *args, **options)

    return with_session
