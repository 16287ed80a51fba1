"""keys new."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

from task_queue_engine.cli.options import debug_option
from task_queue_engine.cli.output import emit
from task_queue_engine.config import Settings
from task_queue_engine.http.key_file import add_to_file, make_key
from task_queue_engine.http.principal import Role


@click.group()
def keys() -> None:
    """Named API keys with roles, for the server's TQE_KEYS_FILE."""


@keys.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    required=True,
    help="What it may do; may be given several times. operate: cancel, retry, redrive, delete; "
    "admin: everything.",
)
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help="Only tasks of this type; may be given several times.",
)
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="Refused from this day on (UTC), e.g. 2030-01-31.",
)
@click.option(
    "--file",
    "path",
    metavar="PATH",
    help="Where to add its entry, a new file if need be. [TQE_KEYS_FILE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print key and entry as JSON.")
@debug_option
def new(
    name: str,
    roles: tuple[str, ...],
    types: tuple[str, ...],
    expires: datetime | None,
    path: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Make a key and print it, this once.

    Its entry is added to the keys file, with the key's hash; the key is stored nowhere. A server
    that runs reads the file again by itself. Without a file the entry is printed too, on stderr. To
    take a key back delete its entry.
    """
    del debug
    made = make_key(
        name,
        roles=[Role(role) for role in dict.fromkeys(roles)],
        types=list(dict.fromkeys(types)),
        expires=None if expires is None else expires.date(),
    )
    path = path or Settings().keys_file
    if path is not None:
        add_to_file(path, name, made.entry)
    if as_json:
        emit(msgspec.json.encode({"name": name, "key": made.key, "entry": made.entry}))
        return
    emit(made.key)
    if path is not None:
        click.echo(f"tqe: added to {path}; the key is not shown again", err=True)
    else:
        click.echo("tqe: TQE_KEYS_FILE is not set; put this into the server's keys file:", err=True)
        click.echo(made.entry.rstrip(), err=True)
