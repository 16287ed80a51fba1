"""What busy processes leave in the counters beside the numbers: how far they have come.

A process's mark is three attributes of its counter item: the number of the last batch that it
added, so that none is added twice; the number up to which all its tokens are counted, and the age
of the oldest task that it may write next, so that others find out what is missing should it be
killed, and where to look. One that has nothing to flush takes its mark away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient

_PURPOSE = "counters"

_FLUSHED = "flushed_"
_UPTO = "upto_"
# Short, as all of them are paid for with every flush.
_AGE = "age_"

FOUND_UP_TO_AGE = timedelta(minutes=15)
"""How long after a task's creation `crash_recovery` finds what was done to it. Looking for it takes
half a read unit for each task created since."""

# Of the marks that older versions leave: a process that is alive flushes within seconds.
_FORGET_AFTER = timedelta(days=1)
# A few hundred names fit into one expression.
_MARKS_A_REQUEST = 100
# Above the number of any token.
_ALL = 2**53


@dataclass(frozen=True, slots=True)
class ProcessMark:
    item_id: str
    process: str
    flushed: int
    """The batch's number: milliseconds of its process's clock, and larger than the one before."""
    settled: int | None
    """All its tokens up to this are counted; None: of a version that does not say."""
    age: int | None = None
    """Seconds before `flushed` at which the oldest task was created that it wrote since then and
    did not count; None: of a version that does not say."""

    @property
    def oldest(self) -> datetime:
        """When that was."""
        age = FOUND_UP_TO_AGE if self.age is None else timedelta(seconds=self.age)
        return datetime.fromtimestamp(self.flushed / 1000, UTC) - age


def mark_names(process: str) -> tuple[str, str, str]:
    """The attributes that hold `flushed`, `settled` and `age`."""
    return f"{_FLUSHED}{process}", f"{_UPTO}{process}", f"{_AGE}{process}"


async def read_marks(table: TableClient) -> list[ProcessMark]:
    """Of the processes that are busy, or were when they died.

    Raises:
        BackendUnavailable
    """
    found = await table.get(_PURPOSE, schema.counter_ids(), consistent=False)
    marks: list[ProcessMark] = []
    for item_id, item in found.items():
        for name in item:
            if name.startswith(_FLUSHED):
                process = name.removeprefix(_FLUSHED)
                _, upto, age = mark_names(process)
                settled, seconds = (
                    number_of(item, each) if each in item else None for each in (upto, age)
                )
                flushed = number_of(item, name)
                marks.append(ProcessMark(item_id, process, flushed, settled, seconds))
    return marks


async def remove_marks(table: TableClient, item_id: str, processes: Sequence[str]) -> None:
    """
    Raises:
        BackendUnavailable
    """
    for start in range(0, len(processes), _MARKS_A_REQUEST):
        some = processes[start : start + _MARKS_A_REQUEST]
        attributes = [name for process in some for name in mark_names(process)]
        names = {f"#{n}": name for n, name in enumerate(attributes)}
        await table.update(_PURPOSE, item_id, "REMOVE " + ", ".join(names), names=names)


async def forget_old_marks(table: TableClient, now: datetime) -> None:
    """Of processes that have not flushed for a day: they were killed, and were of a version whose
    marks do not tell what is missing. And what such a version has left of the mark of a process
    that it counted for: it knows of no age.

    Raises:
        BackendUnavailable
    """
    oldest = milliseconds(now - _FORGET_AFTER)
    old: dict[str, list[str]] = {}
    for mark in await read_marks(table):
        if mark.flushed < oldest:
            old.setdefault(mark.item_id, []).append(mark.process)
    found = await table.get(_PURPOSE, schema.counter_ids(), consistent=False)
    for item_id, item in found.items():
        aged = {name.removeprefix(_AGE) for name in item if name.startswith(_AGE)}
        left = [process for process in aged if mark_names(process)[0] not in item]
        old.setdefault(item_id, []).extend(left)
    for item_id, processes in old.items():
        await remove_marks(table, item_id, processes)


async def count_for(table: TableClient, mark: ProcessMark, changes: Mapping[str, int]) -> bool:
    """Add what a dead process had not flushed, and remove its mark.

    Returns:
        False where another has done so, or the process is alive.

    Raises:
        BackendUnavailable: whether it was carried out is not known; a repetition counts nothing
            twice.
    """
    flushed, upto, age = mark_names(mark.process)
    changed = {name: change for name, change in changes.items() if change}
    added = ", ".join(f"#{name} :{name}" for name in changed)
    done = await table.update(
        _PURPOSE,
        mark.item_id,
        "REMOVE #mark, #upto, #age" + (f" ADD {added}" if added else ""),
        condition="#mark = :seen",
        names={"#mark": flushed, "#upto": upto, "#age": age}
        | {f"#{name}": name for name in changed},
        values={":seen": {"N": str(mark.flushed)}}
        | {f":{name}": {"N": str(change)} for name, change in changed.items()},
    )
    return done is not None


async def settle_mark(table: TableClient, mark: ProcessMark) -> None:
    """All that this process wrote is counted: a repair has looked.

    Raises:
        BackendUnavailable
    """
    flushed, upto, _ = mark_names(mark.process)
    await table.update(
        _PURPOSE,
        mark.item_id,
        "SET #upto = :all",
        condition="#mark = :seen",
        names={"#mark": flushed, "#upto": upto},
        values={":seen": {"N": str(mark.flushed)}, ":all": {"N": str(_ALL)}},
    )


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def number_of(item: Item, name: str) -> int:
    value = item.get(name)
    return 0 if value is None else int(value["N"])
