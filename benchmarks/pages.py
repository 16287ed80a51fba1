"""How long pages and lists take at a million tasks, and how many requests they make on AWS.

    python -m benchmarks.pages                               both, as a table
    python -m benchmarks.pages --file /tmp/million.db        keeps the filled file, or uses it again
    python -m benchmarks.pages --places SQLite --looks 20

A `tqe serve` of its own is asked over HTTP: each page or list several times, from one connection.
CPU is that of the server's process, which a busy machine changes less than the time; its actors
are in it. `make bench ARGS="--rows pages"` writes the same into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from benchmarks import weeks
from benchmarks.aws import weeks as weeks_on_aws
from benchmarks.engine import HERE, Build
from benchmarks.load import ask_all, request
from benchmarks.processes import Failed, Process, cpu_seconds, emptied
from benchmarks.scenes import free_port, is_ready
from benchmarks.tables import table
from task_queue_engine import TaskRegistry

SQLITE, AWS = "SQLite", "local AWS"
_READY = 60
# Dead letters on SQS, where a list looks at a thousand at most.
_DEAD = 100
# Pages that a cursor goes on to before one is measured.
_DEEP = 5
# Seconds in which it is looked what a server asks of SQS while no one asks it.
_IDLE = 5.0
# Of the store's steps those that pages and lists take; housekeeping has others.
_LOOKS = frozenset({"list_tasks", "get", "history", "counts", "workers"})

tasks = TaskRegistry()


def _register(name: str) -> None:
    @tasks.task(name)
    async def nothing(payload: dict[str, Any]) -> None: ...


for _name in weeks.TYPES:
    _register(_name)


@tasks.task("fails", max_attempts=1)
async def fails(payload: Any) -> None:
    raise ConnectionError("no route to host")


# --- what is asked for ----------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A page or a list."""

    name: str
    path: str
    query: Mapping[str, str] | None = None
    deep: bool = False
    """Some cursors on from the first one."""
    body: Mapping[str, Any] | None = None
    """POSTed as JSON."""


def filters(count: int, first: datetime, some_id: str) -> dict[str, dict[str, str]]:
    """What lists are narrowed by: each alone, and what no index helps with."""
    middle = first + weeks.SPAN / 2
    a_bit = middle + timedelta(microseconds=weeks.step_us(count) * 100)
    return {
        "all": {},
        "status FAILED": {"status": "FAILED"},
        "status PENDING": {"status": "PENDING"},
        "a type": {"type": "report.build"},
        "a type that no task has": {"type": "nothing"},
        "type and status": {"type": "report.build", "status": "FAILED"},
        "a queue": {"queue": weeks.OTHER},
        "a queue with one task, the oldest": {"queue": weeks.RARE},
        "queue and status": {"queue": weeks.OTHER, "status": "FAILED"},
        "created before": {"created_before": middle.isoformat()},
        "created between": {
            "created_after": middle.isoformat(),
            "created_before": a_bit.isoformat(),
        },
        "an id": {"id": some_id},
        "an error": {"error": "no route"},
        "an error that one task has, the oldest": {"error": "HOST RARE"},
        "an error that no task has": {"error": "no such thing"},
        "all of them, for nothing": {
            "status": "FAILED",
            "type": "report.build",
            "queue": weeks.RARE,
            "error": "no such thing",
            "created_before": middle.isoformat(),
        },
    }


def looks(count: int, first: datetime, ids: Mapping[str, str]) -> list[Look]:
    narrowed = filters(count, first, ids["ended"])
    found = [
        Look("page: overview", "/"),
        *(
            Look(f"page: tasks, {name}", "/dashboard/tasks", each)
            for name, each in narrowed.items()
        ),
        Look("page: tasks, all, deep", "/dashboard/tasks", {}, deep=True),
        Look("page: a task", f"/dashboard/tasks/{ids['ended']}"),
        Look("page: a task with all its history", f"/dashboard/tasks/{ids['history']}"),
        Look("page: workers", "/dashboard/workers"),
        Look("page: dead letters", "/dashboard/dead-letters"),
        Look("page: dead letters, deep", "/dashboard/dead-letters", {}, deep=True),
        Look("page: submit", "/dashboard/submit", {"type": weeks.TYPES[0]}),
        *(Look(f"list: {name}", "/tasks", each) for name, each in narrowed.items()),
        *(
            Look(f"list: {name}, deep", "/tasks", narrowed[name], deep=True)
            for name in ("all", "a type", "a queue", "created before")
        ),
        Look("list: dead letters", "/dead-letters"),
        Look("list: dead letters, deep", "/dead-letters", {}, deep=True),
        Look("list: workers", "/workers"),
        Look("list: attempts", f"/tasks/{ids['history']}/attempts"),
        Look("metrics", "/metrics"),
        Look("scale", "/scale"),
        *(
            Look(
                f"how many, {name}",
                "/tasks/actions",
                body={"action": "delete", "filter": each, "dry_run": True},
            )
            for name, each in narrowed.items()
            if each
        ),
    ]
    return [each for each in found if is_known(each)]


def is_known(look: Look) -> bool:
    """The pages' own filter may have fewer fields than the API."""
    if not look.name.startswith("page: tasks") or not look.query:
        return True
    from task_queue_engine.http.dashboard.listing import FIELDS

    return look.query.keys() <= {field.name for field in FIELDS}


# --- a server -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    requests: float
    """To DynamoDB, for looks."""
    read_units: float
    sqs: float
    """Requests to SQS, polls included."""


class Server:
    """One that is asked."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self._port = port
        self._background = 0.0
        """Requests a second to SQS while no one asks: polls."""

    def ask(self, raw: bytes, times: int = 1) -> tuple[list[float], list[bytes]]:
        raws = iter([raw] * times)
        answers = ask_all(self._port, raws, connections=1, expected=(200, 201, 207, 422))
        return answers.waits, answers.bodies

    def json(self, path: str) -> Any:
        return json.loads(self.ask(request("GET", path))[1][0])

    def make_dead_letters(self, count: int) -> None:
        """By tasks that fail. A local server may be too busy for some of them."""
        body = {"tasks": [{"type": "fails", "payload": n} for n in range(count // 5)]}
        end = time.monotonic() + _READY
        while self.json("/metrics")["dead_letters"] < count:
            if time.monotonic() > end:
                raise Failed(f"{count} tasks have not failed within {_READY} s")
            self.ask(request("POST", "/tasks/batch", json.dumps(body).encode()))
            time.sleep(2)  # about what so many failures take: more at once would only wait

    def look_at_background(self) -> None:
        before = self._usage().sqs
        time.sleep(_IDLE)
        self._background = (self._usage().sqs - before) / _IDLE

    def _usage(self) -> Usage:
        """So far; nothing where nothing is billed."""
        usage = self.json("/metrics").get("usage") or {}
        sqs = [each for each in usage.get("operations", ()) if each["service"] == "sqs"]
        looked = [each for each in usage.get("steps", ()) if each["step"] in _LOOKS]
        return Usage(
            requests=sum(each["requests"] for each in looked),
            read_units=sum(each["read_units"] for each in looked),
            sqs=sum(each["requests"] for each in sqs),
        )

    def measure(self, look: Look, times: int) -> dict[str, float]:
        """Milliseconds of an answer and of CPU, and requests to AWS and their read units."""
        raw = self._request(look)
        self.ask(raw)  # connections and caches are warm
        usage, began = self._usage(), time.perf_counter()
        cpu = cpu_seconds(self._process.pid)
        waits, _ = self.ask(raw, times)
        cpu = cpu_seconds(self._process.pid) - cpu
        seconds, after = time.perf_counter() - began, self._usage()
        sqs = max(0.0, after.sqs - usage.sqs - self._background * seconds)
        ranked = sorted(each * 1e3 for each in waits)
        return {
            "p50_ms": statistics.median(ranked),
            "p95_ms": ranked[min(len(ranked) - 1, round(0.95 * len(ranked)))],
            "worst_ms": ranked[-1],
            "cpu_ms": cpu / times * 1e3,
            "requests": (after.requests - usage.requests + round(sqs)) / times,
            "read_units": (after.read_units - usage.read_units) / times,
        }

    def _request(self, look: Look) -> bytes:
        if look.body is not None:
            return request("POST", look.path, json.dumps(look.body).encode())
        query = dict(look.query or {})
        if look.deep:
            path = look.path.replace("/dashboard", "")
            for _ in range(_DEEP):
                page = self.json(_url(path, query))
                if page.get("next_cursor") is None:
                    break
                query["cursor"] = page["next_cursor"]
        asked = request("GET", _url(look.path, query))
        # JSON at / otherwise, as programs get it.
        return asked[:-2] + b"Accept: text/html\r\n\r\n" if "page: " in look.name else asked


def _url(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query, quote_via=quote)}" if query else path


@contextmanager
def serving(build: Build, folder: Path, **settings: str) -> Iterator[Server]:
    port = free_port()
    environment = build.environment(TQE_REQUEST_TIMEOUT="60", **settings)
    command = build.command("serve", "--app", "benchmarks.pages:tasks", "--port", str(port))
    with Process(command, environment, folder) as process:
        process.wait_for(lambda: is_ready(port), "ready", seconds=_READY)
        process.settle()
        yield Server(process, port)


class Place:
    """Where so many tasks are, filled for the first look; with a server at it."""

    def __init__(
        self, name: str, *, count: int, folder: Path, stack: ExitStack, file: Path | None = None
    ) -> None:
        self.name, self.count = name, count
        self._folder, self._stack, self._file = folder, stack, file
        self._server: Server | None = None
        self._looks: dict[str, Look] = {}

    def names(self) -> list[str]:
        """Of all that can be looked at here."""
        nowhere = dict.fromkeys(("ended", "history"), "")
        found = looks(self.count, datetime.now().astimezone(), nowhere)
        return [each.name for each in found]

    def measure(self, name: str, times: int) -> dict[str, float]:
        if self._server is None:
            self._server = self._filled_and_served()
        return self._server.measure(self._looks[name], times)

    def _filled_and_served(self) -> Server:
        folder = self._stack.enter_context(emptied(self._folder / f"pages-{self.count}"))
        if self.name == SQLITE:
            path = self._file or folder / "tasks.db"
            if not path.exists():
                weeks.fill(path, self.count)
            settings = {"TQE_DATABASE": str(path)}
            first, ids, self.count = weeks.found_in(path)
        else:
            settings, first, ids = weeks_on_aws.filled(self.count)
        self._looks = {each.name: each for each in looks(self.count, first, ids)}
        server = self._stack.enter_context(serving(HERE, folder, **settings))
        if self.name == AWS:
            server.make_dead_letters(_DEAD)
        server.look_at_background()
        return server


HEADER = ("", "p50 ms", "p95", "slowest", "CPU ms", "requests", "read units")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--places", nargs="+", choices=(SQLITE, AWS), default=(SQLITE, AWS))
    parser.add_argument("--count", type=int, default=1_000_000, help="on SQLite (1000000)")
    parser.add_argument("--aws-count", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--file", type=Path, help="filled already, or to be filled and kept")
    parser.add_argument("--looks", type=int, default=10, help="at each page (10)")
    parser.add_argument("--only", default="", help="names with this in them")
    given = parser.parse_args(arguments)
    for where in given.places:
        for count in [given.count] if where == SQLITE else given.aws_count:
            rows = []
            with tempfile.TemporaryDirectory(prefix="tqe-bench-") as folder, ExitStack() as stack:
                place = Place(where, count=count, folder=Path(folder), stack=stack, file=given.file)
                for name in place.names():
                    if given.only not in name:
                        continue
                    try:
                        found = place.measure(name, given.looks)
                    except Failed as reason:
                        print(f"{name}: {reason}", flush=True)
                        continue
                    rows.append((name, *(f"{number:,.1f}" for number in found.values())))
                    print(*rows[-1], sep="  ", flush=True)
            print(table(f"{where}, {count:,} tasks", HEADER, rows), flush=True)


if __name__ == "__main__":
    main()
