"""How values are written on pages: filters of the templates. What they return is escaped there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.dashboard.action_view import progress_of, view_of
from task_queue_engine.progress import fraction_of, says_more, steps_of
from task_queue_engine.task import Task, TaskStatus, is_task_id

NONE = "\N{EN DASH}"
MOST_SHOWN = 20_000
"""Characters of a payload or a text: more is a link to the API's JSON."""

_UNITS = ((60.0, 1.0, "s"), (3600.0, 60.0, "min"), (172_800.0, 3600.0, "h"), (1e300, 86_400.0, "d"))


def seconds(value: float | None) -> str:
    """A duration: "85 ms", "3.2 s", "12 min"."""
    if value is None:
        return NONE
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    for limit, size, unit in _UNITS:
        if value < limit:
            number = value / size
            is_short = number < 9.95 and size == 1 and number != int(number)
            return f"{number:.1f} {unit}" if is_short else f"{number:.0f} {unit}"
    return f"{value:.0f} s"


def ago(moment: datetime | None) -> str:
    """ "12 s ago", "in 3 min"."""
    if moment is None:
        return NONE
    age = (datetime.now(UTC) - moment).total_seconds()
    if abs(age) < 1:
        return "now"
    return f"{seconds(float(int(age)))} ago" if age > 0 else f"in {seconds(float(int(-age)))}"


def is_ahead(moment: datetime | None) -> bool:
    return moment is not None and moment > datetime.now(UTC)


def clock(moment: datetime | None) -> str:
    """The whole time, in UTC."""
    return NONE if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def size(value: int) -> str:
    """Bytes."""
    return f"{value / 2**20:,.0f} MB" if value < 2**30 else f"{value / 2**30:,.1f} GB"


def json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def brief(value: Any) -> str:
    """A payload in a table's cell."""
    return cut(value if isinstance(value, str) else msgspec.json.encode(value).decode(), 120)


def cut(text: str, longest: int = MOST_SHOWN) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def tries(task: Task) -> int:
    """Attempts that count, the one that runs or has succeeded among them."""
    is_one_more = task.status in (TaskStatus.PROCESSING, TaskStatus.COMPLETED)
    return task.retry_count + is_one_more


def counted(number: int, singular: str = "task") -> str:
    """ "1 task", "12,431 tasks"."""
    return f"{number:,} {singular}{'' if number == 1 else 's'}"


def status_name(status: str) -> str:
    """Also of what a newer version knows besides."""
    return texts.STATUSES.get(status, status)


def outcome_name(outcome: str) -> str:
    return texts.OUTCOMES.get(outcome, outcome)


FILTERS: dict[str, Callable[..., Any]] = {
    "seconds": seconds,
    "ago": ago,
    "clock": clock,
    "iso": iso,
    "number": number,
    "size": size,
    "json": json,
    "brief": brief,
    "cut": cut,
    "fraction": fraction_of,
    "says_more": says_more,
    "steps": steps_of,
    "is_ahead": is_ahead,
    "tries": tries,
    "action": view_of,
    "action_progress": progress_of,
    "counted": counted,
    "capitalize_first": lambda text: text[:1].upper() + text[1:],
    "is_task_id": is_task_id,
    "status_name": status_name,
    "outcome_name": outcome_name,
}
