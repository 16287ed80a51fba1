"""The command line, `tqe`: composition root of the servers, and the operator's tool."""

from __future__ import annotations

import click

from task_queue_engine._version import __version__
from task_queue_engine.cli.failures import MEANINGS
from task_queue_engine.cli.group import Lazy, Program

# In the order of the help. A command is imported when it is called: what the others need takes ten
# times as long as to print this.
_COMMANDS = {
    "serve": Lazy("services:serve", "Run the HTTP API and the workers."),
    "api": Lazy("services:api", "Run the HTTP API alone; `tqe worker` elsewhere does the work."),
    "worker": Lazy("services:worker", "Run workers without the HTTP API."),
    "submit": Lazy("tasks:submit", "Submit a task and print its id."),
    "status": Lazy("tasks:status", "Show everything about one task."),
    "logs": Lazy("tasks:logs", "Show what the handler of a task has logged."),
    "tail": Lazy("tail:tail", "Follow a task's states, log lines and progress."),
    "list": Lazy("tasks:list_", "List tasks, newest first."),
    "cancel": Lazy("tasks:cancel", "Cancel a task, whether it waits or runs."),
    "retry": Lazy("tasks:retry", "Run a FAILED or CANCELLED task again, as a new round."),
    "delete": Lazy("bulk:delete", "Delete a task that has ended, for good."),
    "bulk": Lazy("bulk:bulk", "Cancel, retry, redrive or delete many tasks."),
    "dlq": Lazy("dead_letters:dlq", "Dead letters: messages of tasks that were given up."),
    "metrics": Lazy("metrics:metrics", "Show counts of tasks and messages."),
    "workers": Lazy("workers:workers", "Show the processes that live, and what each runs."),
    "top": Lazy("top:top", "Show queue, types, workers and failures, live."),
    "keys": Lazy("keys:keys", "Named API keys with roles, for the server's TQE_KEYS_FILE."),
    "provision": Lazy("aws:provision", "Create queues and table on AWS, or mend them."),
    "doctor": Lazy("aws:doctor", "Check AWS credentials, permissions, queues and table."),
}
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
    lazy=_COMMANDS,
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


__all__ = ["main"]
