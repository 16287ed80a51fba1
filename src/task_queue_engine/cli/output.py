"""Plain text for the operator: aligned, without colours or boxes, the same in a terminal and in a
file.

What tasks carry comes from clients. Control characters in it are shown, not sent: a terminal
would obey them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from task_queue_engine.attempt_record import AttemptHistory, AttemptRecord, LogLine
from task_queue_engine.backends.base import DeadLetter
from task_queue_engine.engine.views import MetricsView
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.task_actions import ACTION_TYPE, ActionProgress
from task_queue_engine.task_events import (
    GapEvent,
    LogEvent,
    ProgressEvent,
    StateEvent,
    TaskEvent,
)
from task_queue_engine.worker import Worker, WorkerList

# Characters: a traceback or a payload must not push the other columns off the screen.
_LONGEST_CELL = 80
# Of a progress in a log that is followed: a few lines of a terminal. `tqe status` has all of it.
_LONGEST_LINE = 400
# What JSON need not escape and a terminal may obey, in UTF-8: DEL, the controls from U+0080 to
# U+009F, and marks that turn the direction of writing.
_OBEYED = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]"
)
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def emit(result: str | bytes) -> None:
    """Write a result to stdout, whole and with a newline: text that is `printable`, or JSON in
    UTF-8. Raises BrokenPipeError.

    Not by `print`: unbuffered (PYTHONUNBUFFERED) its stream may write a part and say nothing, and
    a terminal's encoding may not have every character of a payload.
    """
    if isinstance(result, str):
        result = result.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    else:
        result = _OBEYED.sub(_as_json_escape, result)
    sys.stdout.flush()
    left = memoryview(result + b"\n")
    while left:
        left = left[sys.stdout.buffer.write(left) or 0 :]
    sys.stdout.buffer.flush()


class Table:
    """Rows under a header, in columns as wide as they have to be. Rows may come in portions: a
    column that has grown stays so."""

    def __init__(self, header: Sequence[str]) -> None:
        self._widths = [len(title) for title in header]
        self._to_come: list[Sequence[str]] = [header]

    def text(self, rows: Sequence[Sequence[str]]) -> str:
        """The lines for these rows; the first time with the header above them."""
        lines = [*self._to_come, *([_cell(text) for text in row] for row in rows)]
        self._to_come = []
        self._widths = [
            max(widths) for widths in zip(self._widths, *map(_lengths, lines), strict=True)
        ]
        return "\n".join(self._line(line) for line in lines)

    def _line(self, line: Sequence[str]) -> str:
        padded = (text.ljust(width) for text, width in zip(line, self._widths, strict=True))
        return "  ".join(padded).rstrip()


def _lengths(line: Sequence[str]) -> list[int]:
    return [len(text) for text in line]


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """One `name  value` a line; further lines of a value are indented below its first."""
    width = max(len(name) for name, _ in pairs)
    gap = "\n" + " " * (width + 2)
    return "\n".join(f"{name.ljust(width)}  {gap.join(_lines(text))}" for name, text in pairs)


def printable(text: str) -> str:
    """Without anything a terminal would take for more than text."""
    if text.isprintable():  # nearly always, and many times faster than a look at each character
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def describe_task(task: Task) -> str:
    """Everything about one task that is set."""
    pairs = [
        ("id", task.id),
        ("type", task.type),
        ("status", _status(task)),
        ("queue", task.queue),
        ("attempts", f"{task.retry_count} failed of at most {task.max_attempts}"),
        ("created", _time(task.created_at)),
    ]
    if task.run_at is not None and not task.status.is_terminal:
        pairs.append(("due", _time(task.run_at)))
    if task.started_at is not None:
        pairs.append(("started", f"{_time(task.started_at)} by {task.worker or '?'}"))
    if task.finished_at is not None:
        pairs.append(("finished", _time(task.finished_at)))
    if task.timeout_seconds is not None:
        pairs.append(("timeout", f"{task.timeout_seconds:g} s"))
    if task.trace_id is not None:
        pairs.append(("trace id", task.trace_id))
    pairs.append(("payload", _json(task.payload)))
    if task.progress is not None:
        pairs.append(("progress", in_words(task.type, task.progress)))
    if task.result is not None:
        pairs.append(("result", in_words(task.type, task.result)))
    if task.error is not None:
        pairs.append(("error", _error(task.error)))
        if task.error.traceback:
            pairs.append(("traceback", task.error.traceback.rstrip()))
    return fields(pairs)


def in_words(task_type: str, value: Any) -> str:
    """The progress or the result of a task: JSON; but of an action on many tasks what it has done,
    without their ids."""
    if task_type == ACTION_TYPE:
        with suppress(msgspec.ValidationError):  # of a version that knows it otherwise
            return action_in_words(msgspec.convert(value, ActionProgress))
    return _json(value)


def action_in_words(said: ActionProgress) -> str:
    """How many, and a line for each refusal that is kept."""
    first = f"{said.done} done, {said.failed} failed, {said.skipped} skipped, of {said.of}"
    return "\n".join([first, *(f"  {each.task_id}: {each.reason}" for each in said.refusals)])


def table_of_tasks() -> Table:
    return Table(("ID", "TYPE", "STATUS", "FAILED ATTEMPTS", "CREATED", "UPDATED", "DUE", "ERROR"))


def task_rows(tasks: Sequence[Task], now: datetime) -> list[tuple[str, ...]]:
    """`now`: what "in 3 min" is counted from."""
    return [
        (
            task.id,
            task.type,
            _status(task),
            str(task.retry_count),
            _time(task.created_at),
            _time(task.updated_at),
            due_in_words(task, now),
            _error(task.error),
        )
        for task in tasks
    ]


def due_in_words(task: Task, now: datetime) -> str:
    """ "in 3 min" of a task that waits for its time, delayed or to be tried again; else nothing."""
    if task.status is not TaskStatus.PENDING or task.run_at is None or task.run_at <= now:
        return ""
    return f"in {seconds_in_words((task.run_at - now).total_seconds())}"


def seconds_in_words(seconds: float) -> str:
    """In the largest unit of which there are two, whole: "90 s", "3 min", "47 h", "12 d"."""
    name, size = next((unit for unit in _UNITS if seconds >= 2 * unit[1]), _UNITS[-1])
    return f"{seconds / size:.0f} {name}"


def list_of_attempts(history: AttemptHistory) -> str:
    """A line for each; nothing where there was none."""
    if not history.attempts:
        return ""
    table = Table(("ATTEMPT", "OUTCOME", "STARTED", "TOOK", "WORKER", "VERSION", "LOGGED", "ERROR"))
    rows: list[tuple[str, ...]] = []
    before = 0
    for record in history.attempts:
        if record.number > before + 1:
            rows.append((f"({record.number - before - 1} more)", *[""] * 7))
        before = record.number
        logged = len(record.logs) + record.logs_omitted
        took = None if record.ended_at is None else record.ended_at - record.started_at
        rows.append(
            (
                str(record.number),
                record.outcome.replace("_", " "),
                _time(record.started_at),
                "" if took is None else f"{took.total_seconds():.3g} s",
                record.worker or "?",
                record.version or "?",
                f"{logged} line{'s' if logged > 1 else ''}" if logged else "",
                _error(record.error),
            )
        )
    return table.text(rows)


def log_lines(attempts: Sequence[AttemptRecord]) -> str:
    """What handlers logged, a line each, further lines of a message indented."""
    lines: list[str] = []
    for record in attempts:
        if record.logs_omitted:
            lines.append(f"({record.logs_omitted} earlier lines of attempt {record.number})")
        lines += [_log_line(record.number, line) for line in record.logs]
    return "\n".join(lines)


def _log_line(attempt: int, line: LogLine) -> str:
    first, *rest = _lines(line.message)
    begin = f"{_moment(line.time)} {attempt} {printable(line.level):7}"
    return "\n".join(
        [f"{begin} {printable(line.logger)}: {first}", *(f"  {more}" for more in rest)]
    )


def line_of_event(event: TaskEvent) -> str | None:
    """Of a task that is followed, in lines like those of its log; None: nothing to say."""
    match event:
        case StateEvent():
            more = [
                "being cancelled" if event.cancel_requested else "",
                event.outcome or "",
                "" if event.worker is None else f"by {event.worker}",
                "" if event.run_at is None else f"not before {_time(event.run_at)}",
            ]
            said = ", ".join(printable(text) for text in more if text)
            status = f"{event.status} ({said})" if said else event.status
            return f"{_moment(event.at)} {event.attempt} {status}"
        case ProgressEvent():
            shown = printable(in_words(event.type, event.progress).partition("\n")[0])
            cut = shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]}..."
            return f"{_moment(event.at)} {event.attempt} progress {cut}"
        case LogEvent():
            return _log_line(event.attempt, event.line)
        case GapEvent():
            missed = "" if event.missed is None else f": {event.missed} events"
            return f"({printable(event.reason)}{missed})"
        case _:
            return None


def list_of_dead_letters(dead_letters: Sequence[DeadLetter]) -> str:
    if not dead_letters:
        return "no dead letters"
    table = Table(("ID", "TASK", "TYPE", "ATTEMPTS", "AT", "REASON", "ERROR"))
    return table.text(
        [
            (
                dead_letter.id,
                dead_letter.task_id,
                dead_letter.task_type or "?",
                str(dead_letter.attempts),
                _time(dead_letter.at),
                dead_letter.reason,
                _error(dead_letter.error),
            )
            for dead_letter in dead_letters
        ]
    )


def list_of_workers(found: WorkerList) -> str:
    """A line for each process, and below them one for each task that runs."""
    if not found.workers:
        return "no workers"
    processes = Table(
        ("WORKER", "STATE", "VERSION", "QUEUE", "BUSY", "LAG", "MEMORY", "STARTED", "SEEN", "TYPES")
    )
    text = processes.text([_worker_row(worker) for worker in found.workers])
    running = [(worker, task) for worker in found.workers for task in worker.running]
    if running:
        tasks = Table(("RUNNING", "TYPE", "ATTEMPT", "SINCE", "FOR", "WORKER"))
        rows = [
            (
                task.task_id,
                task.type,
                str(task.attempt),
                _time(task.since),
                f"{max(0, (worker.last_seen - task.since).total_seconds()):.0f} s",
                worker.id,
            )
            for worker, task in running
        ]
        text += "\n\n" + tasks.text(rows)
    more = sum(worker.busy for worker in found.workers) - len(running)
    return text + (f"\nand {more} more" if more > 0 else "")


def _worker_row(worker: Worker) -> tuple[str, ...]:
    return (
        worker.id,
        worker.state,
        worker.version,
        " ".join(worker.queues),
        f"{worker.busy}/{worker.slots}" if worker.slots else "-",
        f"{worker.loop_lag_seconds * 1000:.0f} ms",
        f"{worker.memory_bytes / 2**20:.0f} MiB",
        _time(worker.started_at),
        _time(worker.last_seen),
        " ".join(worker.types) if worker.slots else "- (API only)",
    )


def describe_metrics(view: MetricsView, *, of_server: bool) -> str:
    """`of_server`: the process asked runs workers and counts; else the backend's counts only."""
    age = view.oldest_age_seconds
    pairs = [
        ("tasks", f"{view.total_tasks} (of all queues)"),
        ("  pending", str(view.pending_tasks)),
        ("  processing", str(view.processing_tasks)),
        ("  completed", str(view.completed_tasks)),
        ("  failed", str(view.failed_tasks)),
        ("  cancelled", str(view.cancelled_tasks)),
        (f"queue {printable(view.queue)}".rstrip(), f"{view.queue_depth} messages wait"),
        ("  waiting", f"{view.waiting} (due now)"),
        *([] if age is None or not view.waiting else [("  oldest", f"due for {age:.0f} s")]),
        ("  delayed", str(view.delayed)),
        ("  in flight", str(view.in_flight)),
        ("  dead letters", str(view.dead_letters)),
    ]
    if of_server:
        pairs += [
            (
                "workers",
                f"{view.workers} ({view.active_workers} busy), of the process that answered",
            ),
            ("uptime", f"{view.uptime_seconds:.0f} s"),
            *((name.replace("_", " "), str(count)) for name, count in view.counters.items()),
        ]
    return fields(pairs)


def _status(task: Task) -> str:
    asked = task.cancel_requested and not task.status.is_terminal
    return f"{task.status} (being cancelled)" if asked else task.status


def _error(error: TaskError | None) -> str:
    return "" if error is None else error.in_words


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _cell(text: str) -> str:
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= _LONGEST_CELL else f"{shown[: _LONGEST_CELL - 1]}…"


def _lines(text: str) -> list[str]:
    return [printable(line) for line in text.splitlines()] or [""]


def _as_json_escape(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
