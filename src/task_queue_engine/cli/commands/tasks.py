"""submit, status, logs, list, cancel, retry."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import click
import msgspec
import trio

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import ListQuery, TaskPage
from task_queue_engine.cli.filter_options import filtering
from task_queue_engine.cli.options import app_option, operating
from task_queue_engine.cli.output import (
    describe_task,
    emit,
    list_of_attempts,
    log_lines,
    table_of_tasks,
    task_rows,
)
from task_queue_engine.cli.payloads import read_payload
from task_queue_engine.cli.progress_bar import wait_for_end
from task_queue_engine.cli.session import Session
from task_queue_engine.engine.api import Submission, TaskApi
from task_queue_engine.errors import (
    ApiError,
    InvalidTask,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TaskQueueError,
)
from task_queue_engine.limits import DEFAULT_PAGE, MAX_PAGE
from task_queue_engine.retry import MAX_SECONDS
from task_queue_engine.task import Task, TaskStatus, is_task_id
from task_queue_engine.task_filter import TaskFilter
from task_queue_engine.worker import WorkerList, no_worker_knows

# Seconds: a command that has done its work does not wait longer for a hint.
_LOOK_FOR_WORKERS = 2.0

_AS_LONG_AS_IT_TAKES = "as long as it takes"


class _WithWait(click.Command):
    """Lets `--wait` stand before an argument: `--wait email ...` waits for as long as it takes,
    `--wait 10 email ...` ten seconds. click by itself would take "email" for the seconds."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spelled: list[str] = []
        for index, arg in enumerate(args):
            if arg == "--":
                spelled += args[index:]
                break
            value = args[index + 1] if index + 1 < len(args) else ""
            alone = arg == "--wait" and not _is_number(value)
            spelled.append(f"--wait={_AS_LONG_AS_IT_TAKES}" if alone else arg)
        return super().parse_args(ctx, spelled)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    if text == _AS_LONG_AS_IT_TAKES:
        return MAX_SECONDS
    if not _is_number(text) or not 0 <= float(text) <= MAX_SECONDS:
        raise click.BadParameter(f"{text!r} is not a number of seconds")
    return float(text)


def _time(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time like 2030-01-01T12:00:00Z") from None


_wait = click.option(
    "--wait",
    callback=_seconds,
    metavar="[SECONDS]",
    help="Wait for the end, for so many seconds at most; without a number as long as it takes.",
)


@click.command(cls=_WithWait)
@click.argument("task_type", metavar="TYPE")
@click.argument("payload", required=False)
@_wait
@click.option("--delay", type=float, metavar="SECONDS", help="Do not start before so long.")
@click.option(
    "--run-at", callback=_time, metavar="TIME", help="Not before; e.g. 2030-01-01T12:00Z."
)
@click.option("--max-attempts", type=int, metavar="N", help="Attempts in all; else the type's own.")
@click.option("--timeout", type=float, metavar="SECONDS", help="For one attempt; else the type's.")
@click.option("--idempotency-key", metavar="KEY", help="The same key again gives the same task.")
@app_option
@operating
def submit(
    session: Session,
    task_type: str,
    payload: str | None,
    wait: float | None,
    delay: float | None,
    run_at: datetime | None,
    max_attempts: int | None,
    timeout: float | None,
    idempotency_key: str | None,
    app: str | None,
) -> None:
    """Submit a task and print its id.

    With --wait it prints the task at its end.

    PAYLOAD is JSON, @FILE with JSON, or - for JSON from stdin. A word that is not JSON is taken as
    a string: these two are the same.

    \b
      tqe submit email user@example.com
      tqe submit email '"user@example.com"'

    Without PAYLOAD it is {}: for tasks that need none.

    With --wait the exit code is 0 for COMPLETED, 1 for FAILED and CANCELLED, 4 when the time is
    over. In a terminal a line on stderr shows how far it is, with a bar where the handler's
    progress is a number from 0 to 1, {"done": 9, "of": 20} or {"percent": 45}.
    """
    value = {} if payload is None else read_payload(payload, sys.stdin.buffer)
    if value is None or value == "":
        # As the HTTP API has it, so that a script behaves the same with and without --url.
        raise InvalidTask("must not be empty or null", field="payload")
    submission = Submission(
        task=task_type,
        payload=value,
        delay=delay,
        run_at=run_at,
        max_attempts=max_attempts,
        timeout=timeout,
        idempotency_key=idempotency_key,
    )

    async def work(operations: TaskApi) -> Task:
        try:
            accepted = await operations.submit_task(submission)
        except InvalidTask as error:
            if error.field == "payload" and value == payload:
                note = f"{error.reason}; {payload!r} is not JSON, and was taken as a string"
                raise InvalidTask(note, field="payload") from error
            raise
        task = accepted.task
        if not accepted.created:
            session.note(f"task {task.id} had been submitted with this idempotency key before")
        await _warn_of_missing_worker(session, operations, task)
        if wait is None:
            return task
        session.note(f"submitted {task.id}, waiting for its end")
        return await wait_for_end(operations, task.id, timeout=wait)

    task = session.run(work, app=app, submits=task_type)
    if wait is None:
        session.show(task, lambda: task.id)
    else:
        _show_end(session, task, wait)


async def _warn_of_missing_worker(session: Session, operations: TaskApi, task: Task) -> None:
    """Where nothing would run it for now. What cannot be found out in time is not said: the task
    is stored in any case."""
    if task.status.is_terminal:
        return
    with trio.move_on_after(_LOOK_FOR_WORKERS), suppress(TaskQueueError):
        found = await operations.workers()
        for note in no_worker_knows(found, (task.type,)):
            if not await _runs_unseen(operations, task.type, found):
                session.note(note)


async def _runs_unseen(operations: TaskApi, task_type: str, found: WorkerList) -> bool:
    """Whether a worker of an older version, which does not show itself, is at work on this type."""
    query = ListQuery(type=task_type, status=TaskStatus.PROCESSING, limit=10)
    running = (await operations.list_tasks(query)).tasks
    seen = {worker.id for worker in found.workers}
    return any(task.worker not in seen for task in running)


@click.command(cls=_WithWait)
@click.argument("task_id", metavar="ID")
@_wait
@operating
def status(session: Session, task_id: str, wait: float | None) -> None:
    """Show everything about one task.

    With --wait the exit codes are those of `submit --wait`.
    """
    wanted = canonical(task_id)

    async def work(operations: TaskApi) -> tuple[Task, AttemptHistory]:
        if wait is None:
            task = await operations.get(wanted)
        else:
            task = await wait_for_end(operations, wanted, timeout=wait)
        return task, await _history(operations, wanted)

    task, history = session.run(work)
    members = msgspec.structs.asdict(task).items()
    whole = {name: value for name, value in members if value is not msgspec.UNSET} | {
        "attempts": history.attempts,
        "attempts_omitted": history.omitted,
    }
    session.show(whole, lambda: f"{describe_task(task)}\n{list_of_attempts(history)}".rstrip())
    if wait is not None:
        check_end(task, wait)


async def _history(operations: TaskApi, task_id: str) -> AttemptHistory:
    try:
        return await operations.history(task_id)
    except ApiError as error:
        if error.status != 404:  # a server that knows of no attempts
            raise
        return AttemptHistory(attempts=())


@click.command()
@click.argument("task_id", metavar="ID")
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of this attempt only.",
)
@operating
def logs(session: Session, task_id: str, attempt: int | None) -> None:
    """Show what the handler of a task has logged.

    Of each attempt that is over the last lines are kept (TQE_TASK_LOG_LINES); of one that crashed
    none are.
    """
    wanted = canonical(task_id)
    history = session.run(lambda operations: operations.history(wanted))
    records = [one for one in history.attempts if attempt in (None, one.number)]
    lines = [
        msgspec.structs.asdict(line) | {"attempt": record.number}
        for record in records
        for line in record.logs
    ]
    if not lines:
        session.note(
            "no log lines are kept: its handler has logged none, or its attempt runs "
            "(tqe tail follows it)"
        )
    if lines or session.as_json:
        session.show(lines, lambda: log_lines(records))


def _show_end(session: Session, task: Task, waited: float) -> None:
    session.show(task, lambda: describe_task(task))
    check_end(task, waited)


def check_end(task: Task, waited: float) -> None:
    """Raises TaskFailed, TaskCancelled, ResultTimeout."""
    match task.status:
        case TaskStatus.COMPLETED:
            return
        case TaskStatus.FAILED:
            raise TaskFailed(task)
        case TaskStatus.CANCELLED:
            raise TaskCancelled(task)
        case _:
            raise ResultTimeout(task.id, waited)


@click.command("list")
@filtering
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=DEFAULT_PAGE,
    show_default=True,
    help="At most so many.",
)
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list ended.")
@click.option("--all", "everything", is_flag=True, help="No limit; --json prints a task a line.")
@operating
def list_(
    session: Session, which: TaskFilter, limit: int, cursor: str | None, everything: bool
) -> None:
    """List tasks, newest first.

    DUE says when one that waits for its time, delayed or to be tried again, may start. With --json
    that is its run_at.
    """
    query = ListQuery(
        **which.members(),
        limit=MAX_PAGE if everything else limit,
        cursor=cursor,
    )
    if everything:
        session.run(lambda operations: _print_all(session, operations, query))
        return
    page = session.run(lambda operations: _first_tasks(operations, query))
    session.show(page, lambda: table_of_tasks().text(task_rows(page.tasks, datetime.now(UTC))))
    if page.next_cursor is not None:
        session.note(f"there are more: --all, a higher --limit, or --cursor {page.next_cursor}")


async def _first_tasks(operations: TaskApi, query: ListQuery) -> TaskPage:
    """Up to `query.limit` tasks, in as many pages as that takes."""
    tasks: list[Task] = []
    cursor = query.cursor
    while True:
        left = query.limit - len(tasks)
        page = await operations.list_tasks(replace(query, limit=min(left, MAX_PAGE), cursor=cursor))
        tasks += page.tasks
        cursor = page.next_cursor
        if cursor is None or len(tasks) >= query.limit:
            return TaskPage(tasks=tuple(tasks), next_cursor=cursor)


async def _print_all(session: Session, operations: TaskApi, query: ListQuery) -> None:
    table = table_of_tasks()
    cursor = query.cursor
    while True:
        page = await operations.list_tasks(replace(query, cursor=cursor))
        if session.as_json:
            for task in page.tasks:
                emit(msgspec.json.encode(task))
        elif page.tasks:
            emit(table.text(task_rows(page.tasks, datetime.now(UTC))))
        cursor = page.next_cursor
        if cursor is None:
            return


@click.command()
@click.argument("task_id", metavar="ID")
@operating
def cancel(session: Session, task_id: str) -> None:
    """Cancel a task, whether it waits or runs.

    One that waits never starts, a running one is stopped.
    """
    wanted = canonical(task_id)
    task = session.run(lambda operations: operations.cancel(wanted))
    done = task.status is TaskStatus.CANCELLED
    session.show(task, lambda: f"{task.id} {'is cancelled' if done else 'is being cancelled'}")


@click.command()
@click.argument("task_id", metavar="ID")
@operating
def retry(session: Session, task_id: str) -> None:
    """Run a FAILED or CANCELLED task again, as a new round."""
    wanted = canonical(task_id)
    task = session.run(lambda operations: operations.retry(wanted))
    session.show(task, lambda: f"{task.id} is {task.status} again")


def canonical(task_id: str) -> str:
    """Raises TaskNotFound for what cannot be an id, as the HTTP API does."""
    canonical = task_id.lower()
    if not is_task_id(canonical):
        raise TaskNotFound(task_id)
    return canonical
