"""The HTTP front end's CPU for one request."""

from __future__ import annotations

import itertools
import json

from benchmarks.engine import Build
from benchmarks.load import ask_all, request
from benchmarks.processes import cpu_seconds, emptied
from benchmarks.rows.base import (
    BEFORE,
    NEEDS_AGAINST,
    OURS,
    Case,
    Column,
    Figures,
    Goal,
    Ratio,
    Row,
    Setup,
)
from benchmarks.scenes import server

CONNECTIONS = 16
POST = request("POST", "/tasks", b'{"type":"noop","payload":1}')
CREATED = (200, 201, 202)

_WARM_UP = 200


def _measure(setup: Setup, build: Build) -> Figures:
    count = setup.size(4000, 2000, 40)
    with emptied(setup.folder / "http") as folder, server(build, folder, "api") as (process, port):

        def take(requests: list[bytes]) -> tuple[float, float, list[bytes]]:
            cpu = cpu_seconds(process.pid)
            found = ask_all(port, iter(requests), connections=CONNECTIONS, expected=CREATED)
            used = cpu_seconds(process.pid) - cpu
            return used / len(requests) * 1e6, len(requests) / found.seconds, found.bodies

        take([POST] * min(count, _WARM_UP))
        post_cpu, post_rate, bodies = take([POST] * count)
        ids = [json.loads(body)["id"] for body in bodies]
        looks = [request("GET", f"/tasks/{id_}") for id_ in itertools.islice(ids, count)]
        get_cpu, get_rate, _ = take(looks)
    return {
        "post_cpu_us": post_cpu,
        "posts_a_core": 1e6 / post_cpu,
        "posts_per_second": post_rate,
        "get_cpu_us": get_cpu,
        "gets_a_core": 1e6 / get_cpu,
        "gets_per_second": get_rate,
    }


def _cases(setup: Setup) -> list[Case]:
    def case(name: str, build: Build) -> Case:
        return Case(
            name=name,
            measure=lambda: _measure(setup, build),
            about=f"`tqe api`, SQLite, synchronous FULL; commit {build.commit}",
        )

    return [case(name, build) for name, build in setup.builds().items()]


HTTP = Row(
    name="http",
    title="One request over HTTP",
    how="A client of raw sockets keeps 16 connections busy: `POST /tasks` until the row is"
    " durable, then `GET /tasks/{id}` of each. CPU is that of the server's process.",
    columns={
        "post_cpu_us": Column(heading="POST: CPU us", plotted=True),
        "posts_a_core": Column(heading="a core could/s"),
        "posts_per_second": Column(heading="here/s"),
        "get_cpu_us": Column(heading="GET: CPU us", plotted=True),
        "gets_a_core": Column(heading="a core could/s"),
        "gets_per_second": Column(heading="here/s"),
    },
    cases=_cases,
    goals=[
        Goal(
            text="`POST /tasks` a core, times before",
            number=Ratio(OURS, BEFORE, "posts_a_core"),
            least=2.0,
            needs=NEEDS_AGAINST,
        ),
        Goal(
            text="`GET /tasks/{id}` a core, times before",
            number=Ratio(OURS, BEFORE, "gets_a_core"),
            least=2.0,
            needs=NEEDS_AGAINST,
        ),
    ],
    rounds=(3, 2),
)
