"""provision, doctor."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import click
import msgspec
import trio

from task_queue_engine.cli.environment import warn_of_unknown_variables
from task_queue_engine.cli.failures import ExitCode
from task_queue_engine.cli.options import debug_option
from task_queue_engine.cli.output import Table, fields
from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError


def _needs_aws() -> None:
    """Its libraries are an extra."""
    try:
        import task_queue_engine.backends.aws.provisioning.session  # noqa: F401  # only whether it is there
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"this needs {error.name}: install this package with its extra 'aws'"
        ) from error


@click.command()
@click.option(
    "--name",
    metavar="NAME",
    help="Of queue and table; the dead-letter queue is NAME-dlq. [as in SQS_QUEUE_URL, "
    "SQS_DLQ_URL and DYNAMODB_TABLE, else: tasks]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--delete", "deletes", is_flag=True, help="Delete them, with everything in them.")
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@click.option(
    "--format",
    "template",
    type=click.Choice(["cloudformation", "terraform"]),
    help="Write a template that makes the same, and touch nothing.",
)
@debug_option
def provision(
    name: str | None,
    dry_run: bool,
    deletes: bool,
    yes: bool,
    template: str | None,
    debug: bool,
) -> None:
    """Create queues and table on AWS, or mend them.

    Doing it again changes nothing. Prints the lines for .env.
    """
    _needs_aws()
    from task_queue_engine.backends.aws.provisioning import provision as provisioning
    from task_queue_engine.backends.aws.provisioning import templates
    from task_queue_engine.backends.aws.provisioning.resources import Names
    from task_queue_engine.backends.aws.provisioning.session import AdminSession
    from task_queue_engine.backends.aws.settings import adopt_env_file

    settings = Settings()
    warn_of_unknown_variables()
    names = Names.chosen(name, settings)
    if template is not None:
        make = templates.cloudformation if template == "cloudformation" else templates.terraform
        click.echo(make(names), nl=False)
        return
    adopt_env_file()
    find_region = partial(provisioning.preflight, names, settings, named=name is not None)
    session = AdminSession(trio.run(find_region))
    if deletes:
        if not (yes or dry_run):
            _ask(f"Delete {names.queue}, {names.dead} and {names.table} in {session.region}?")
        _show_steps(provisioning.delete(session, names, dry_run=dry_run), dry_run=dry_run)
        return
    done = provisioning.provision(session, names, dry_run=dry_run)
    _show_steps(done.steps, dry_run=dry_run)
    for variable, value in done.environment.items():
        click.echo(f"{variable}={value}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--yes is needed where there is no terminal to ask on")
    click.confirm(question, abort=True)


def _show_steps(steps: list[Any], *, dry_run: bool) -> None:
    """On stderr, so that the lines for .env can be sent to a file."""
    rows = [[step.resource, step.action, step.detail] for step in steps]
    header = ["RESOURCE", "WOULD BE" if dry_run else "IS", "DETAIL"]
    click.echo(Table(header).text(rows), err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--policy", "only_policy", is_flag=True, help="Print the IAM policy alone.")
@debug_option
@click.pass_context
def doctor(context: click.Context, as_json: bool, only_policy: bool, debug: bool) -> None:
    """Check AWS credentials, permissions, queues and table.

    It prints the least IAM policy that is needed, and changes nothing. Exit code 2 where something
    has to be mended.
    """
    _needs_aws()
    from task_queue_engine.backends.aws.provisioning.doctor import Doctor
    from task_queue_engine.backends.aws.settings import adopt_env_file

    adopt_env_file()
    settings = Settings()
    warn_of_unknown_variables()
    found = trio.run(Doctor(settings).examine)
    policy = json.dumps(found.policy, indent=2)
    if only_policy:
        click.echo(policy)
    elif as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        # Not as a table: its cells are cut, and the end of a sentence says what to do.
        lines = [(one.health.value, f"{one.what}: {one.detail}") for one in found.findings]
        click.echo(fields(lines))
        click.echo(f"\nThe least IAM policy:\n{policy}")
    context.exit(ExitCode.OK if found.healthy else ExitCode.USAGE)
