"""dlq list, redrive, purge."""

from __future__ import annotations

import sys

import click

from task_queue_engine.backends.base import DeadLetter, DeadLetterPage
from task_queue_engine.cli.failures import NothingFound
from task_queue_engine.cli.options import operating
from task_queue_engine.cli.output import list_of_dead_letters
from task_queue_engine.cli.session import Session
from task_queue_engine.engine.api import RedriveReport, TaskApi
from task_queue_engine.engine.views import DeadLetterList, PurgeResult
from task_queue_engine.limits import DEFAULT_PAGE, MAX_PAGE


@click.group()
def dlq() -> None:
    """Dead letters: messages of tasks that were given up."""


@dlq.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=DEFAULT_PAGE,
    show_default=True,
    help="At most so many.",
)
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list ended.")
@operating
def list_(session: Session, limit: int, cursor: str | None) -> None:
    """List dead letters and why their tasks were given up."""
    page = session.run(lambda operations: _first_page(operations, limit, cursor))
    session.show(DeadLetterList.of(page), lambda: list_of_dead_letters(page.dead_letters))
    if page.next_cursor is not None:
        session.note(f"there are more: a higher --limit, or --cursor {page.next_cursor}")


async def _first_page(operations: TaskApi, limit: int, cursor: str | None) -> DeadLetterPage:
    """Up to `limit` dead letters, in as many of the API's pages as that takes."""
    found: list[DeadLetter] = []
    while True:
        left = limit - len(found)
        page = await operations.list_dead(limit=min(left, MAX_PAGE), cursor=cursor)
        found += page.dead_letters
        cursor = page.next_cursor
        if cursor is None or len(found) >= limit:
            return DeadLetterPage(dead_letters=tuple(found), next_cursor=cursor)


@dlq.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@operating
def redrive(session: Session, ids: tuple[str, ...], everything: bool) -> None:
    """Put dead letters back to work: their tasks start a new round.

    The ids are those of the dead letters, as `tqe dlq list` shows them.
    """
    if everything == bool(ids):
        raise click.UsageError("give the ids of dead letters, or --all")
    wanted = None if everything else tuple(dict.fromkeys(ids))
    report = session.run(lambda operations: operations.redrive(wanted))
    session.show(report, lambda: _said(report))
    missing = len(wanted) - report.redriven - report.skipped - report.refused if wanted else 0
    if missing > 0:
        raise NothingFound(f"{missing} of these dead letters do not exist")


def _said(report: RedriveReport) -> str:
    said = f"{report.redriven} redriven, {report.skipped} had nothing left to redrive"
    if report.refused:
        said += f", {report.refused} stay: the queue refuses their messages (tqe status says why)"
    return said


@dlq.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@operating
def purge(session: Session, yes: bool) -> None:
    """Delete all dead letters for good. Their tasks stay, FAILED."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: give --yes to delete them all")
        depth = session.run(lambda operations: operations.metrics()).depth
        if not click.confirm(f"Delete {depth.dead} dead letters for good?", err=True):
            return
    purged = session.run(lambda operations: operations.purge_dead())
    session.show(PurgeResult(purged=purged), lambda: f"{purged} dead letters deleted")
