"""bulk: cancel, retry, redrive or delete many tasks; and delete, for one."""

from __future__ import annotations

import sys

import click
import msgspec

from task_queue_engine.cli.commands.tasks import canonical, check_end
from task_queue_engine.cli.filter_options import filtering
from task_queue_engine.cli.options import operating
from task_queue_engine.cli.output import action_in_words, printable
from task_queue_engine.cli.progress_bar import wait_for_end
from task_queue_engine.cli.session import Session
from task_queue_engine.retry import MAX_SECONDS
from task_queue_engine.task import Task
from task_queue_engine.task_actions import ActionProgress, ActionRequest, Matching, TaskAction
from task_queue_engine.task_filter import TaskFilter

UNDO = "undo"


@click.command()
@click.argument(
    "action", type=click.Choice([*(each.value for each in TaskAction), UNDO]), metavar="ACTION"
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filtering
@click.option("--all", "everything", is_flag=True, help="All tasks that the action applies to.")
@click.option("--dry-run", is_flag=True, help="Only say how many tasks it would be for.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Wait for its end, and say what it has done.")
@operating
def bulk(
    session: Session,
    action: str,
    ids: tuple[str, ...],
    which: TaskFilter,
    everything: bool,
    dry_run: bool,
    yes: bool,
    wait: bool,
) -> None:
    """Cancel, retry, redrive or delete many tasks.

    ACTION is cancel, retry, redrive (put their dead letters back to work) or delete (for good: what
    has ended). The tasks are those that pass the filter now, or those with the ids given. It is
    done by a worker, as a task whose id is printed: tqe status shows how far it is, tqe cancel
    stops it.

    \b
      tqe bulk retry --type email --status failed --error timeout
      tqe bulk delete --status completed --before 2030-01-01 --dry-run
      tqe bulk undo ID

    The last one retries exactly what the action with this id has cancelled, up to 1000 tasks.
    """
    if action == UNDO:
        if len(ids) != 1 or not which.is_empty or everything or dry_run:
            raise click.UsageError("undo takes the id of an action, and no filter")
        task = session.run(lambda operations: operations.undo_action(canonical(ids[0])))
        _show(session, task, wait)
        return
    if (bool(ids) + everything + (not which.is_empty)) != 1:
        raise click.UsageError("say which tasks: a filter, their ids, or --all")
    request = ActionRequest(
        action=TaskAction(action), which=which, ids=tuple(map(canonical, ids)) or None
    )
    if dry_run:
        matching = session.run(lambda operations: operations.preview_action(request))
        session.show(matching, lambda: f"{action} would be for {_number(matching)}")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: give --yes, or --dry-run")
        matching = session.run(lambda operations: operations.preview_action(request))
        for_good = " for good" if request.action is TaskAction.DELETE else ""
        asked = f"{action.capitalize()} {_number(matching)}{for_good}?"
        if matching.matching and not click.confirm(asked, err=True):
            return
    task = session.run(lambda operations: operations.start_action(request))
    _show(session, task, wait)


def _number(matching: Matching) -> str:
    plural = "" if matching.matching == 1 else "s"
    return f"{'at least ' * matching.at_least}{matching.matching} task{plural}"


def _show(session: Session, task: Task | None, wait: bool) -> None:
    if task is None:
        session.show(Matching(matching=0), lambda: "no task passes: nothing to do")
        return
    task_id = task.id
    if not wait:
        session.show(task, lambda: task_id)
        return
    session.note(f"started as {task_id}, waiting for its end")
    over = session.run(lambda operations: wait_for_end(operations, task_id, timeout=MAX_SECONDS))
    session.show(over, lambda: _said(over))
    check_end(over, MAX_SECONDS)


def _said(task: Task) -> str:
    said = msgspec.convert(task.result or task.progress or {}, ActionProgress)
    return "\n".join(map(printable, action_in_words(said).split("\n")))


@click.command()
@click.argument("task_id", metavar="ID")
@operating
def delete(session: Session, task_id: str) -> None:
    """Delete a task that has ended, for good.

    Its history and its dead letters go with it.
    """
    wanted = canonical(task_id)
    session.run(lambda operations: operations.delete(wanted))
    session.show({"deleted": wanted}, lambda: f"{wanted} is deleted")
