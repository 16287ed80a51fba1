"""The command line, `tqe`: composition root of the servers, and the operator's tool."""

from __future__ import annotations

import click

from task_queue_engine._version import __version__
from task_queue_engine.cli.commands.aws import doctor, provision
from task_queue_engine.cli.commands.dead_letters import dlq
from task_queue_engine.cli.commands.metrics import metrics
from task_queue_engine.cli.commands.services import api, serve, worker
from task_queue_engine.cli.commands.tasks import cancel, list_, retry, status, submit
from task_queue_engine.cli.failures import MEANINGS
from task_queue_engine.cli.group import Program

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:<4} {meaning}" for code, meaning in MEANINGS.items()
)
_COMPLETION = """\b
Completion of commands and options, for bash (zsh and fish alike):
  eval "$(_TQE_COMPLETE=bash_source tqe)"
"""


@click.command(
    "tqe",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{_EXIT_CODES}\n\n{_COMPLETION}",
)
@click.version_option(__version__, prog_name="tqe", message="%(prog)s %(version)s")
def main() -> None:
    """Task Queue Engine: run it, submit to it, look into it.

    Settings come from environment variables and a .env file in the current directory; where an
    option and a variable do the same, the option's help names the variable, and the option wins.

    Without --url the commands go straight to the backend (the SQLite file TQE_DATABASE): no server
    need run.
    """


for command in (
    serve,
    api,
    worker,
    submit,
    status,
    list_,
    cancel,
    retry,
    dlq,
    metrics,
    provision,
    doctor,
):
    main.add_command(command)

__all__ = ["main"]
