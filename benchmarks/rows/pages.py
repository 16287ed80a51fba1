"""Whether a page or a list takes longer the more tasks there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.pages import AWS, SQLITE, Place
from benchmarks.rows.base import Case, Column, Goal, Round, Row, Setup

_LONGEST_MS = 300.0


def _places(setup: Setup) -> dict[str, Place]:
    """By what the report calls them."""
    sizes = {
        SQLITE: [setup.size(1_000_000, 200_000, 3_000)],
        # A fourfold table makes the same requests.
        AWS: [setup.size(5_000, 1_000, 200), setup.size(20_000, 5_000, 400)],
    }
    return {
        f"{name} {count:,}": Place(name, count=count, folder=setup.folder, stack=setup.stack)
        for name, counts in sizes.items()
        for count in counts
    }


def _cases(setup: Setup) -> list[Case]:
    times = setup.size(20, 10, 2)
    return [
        Case(name=f"{where}: {name}", measure=partial(place.measure, name, times))
        for where, place in _places(setup).items()
        for name in place.names()
    ]


def _slowest(where: str) -> Callable[[Round], float | None]:
    """By the median of each page, since on a busy machine the slowest look is the machine's."""

    def number(round_: Round) -> float | None:
        found = [each["p50_ms"] for name, each in round_.items() if name.startswith(where)]
        return max(found, default=None)

    return number


PAGES = Row(
    name="pages",
    title="Pages and lists at a million tasks",
    how="A `tqe serve` is asked for each page and list over HTTP, one at a time: the API's lists,"
    " the dashboard's pages, and how many tasks an action would be for (`dry_run`). `deep`: five"
    " cursors on. A filter that hardly any task passes gets short pages: a look is bounded. CPU is"
    " that of the server's process. Requests are those to DynamoDB for the look, and to SQS beyond"
    " the polls. ElasticMQ and DynamoDB Local have fewer tasks, since filling them takes too long:"
    " at two sizes the requests are the same, and they decide the time on AWS.",
    columns={
        "p50_ms": Column(heading="p50 ms", digits=1),
        "p95_ms": Column(heading="p95 ms", digits=1),
        "worst_ms": Column(heading="slowest ms", digits=1),
        "cpu_ms": Column(heading="CPU ms", digits=1),
        "requests": Column(heading="requests", digits=1),
        "read_units": Column(heading="read units", digits=1),
    },
    cases=_cases,
    goals=[
        Goal(
            text=f"slowest page or list (median of its looks), {where}",
            number=_slowest(where),
            most=_LONGEST_MS,
            unit="ms",
        )
        for where in (SQLITE, AWS)
    ],
    rounds=(1, 1),
)
