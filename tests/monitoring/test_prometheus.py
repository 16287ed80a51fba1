"""A real Prometheus scrapes a real engine: it takes all it is told, and every query of the
dashboard and of the alert rules finds something."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from task_queue_engine import Backoff, Engine, TaskRegistry
from task_queue_engine.backends.base import NewTask
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.http import serve_http
from task_queue_engine.task import Task, new_task_id
from tests.engine.engines import settings
from tests.monitoring.test_alerts import ALERTS, ROOT, promtool, rules

DASHBOARD = ROOT / "deploy" / "grafana" / "task-queue-engine.json"
HOSTILE = 'a"b\\c\n{d="e"} 1 # é'


def registry() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("good")
    async def good(payload: Any) -> None: ...

    @tasks.task("bad", max_attempts=2, backoff=Backoff(base=0.01, jitter=False))
    async def bad(payload: Any) -> None:
        raise ValueError

    @tasks.task("in-thread")
    def in_thread(payload: Any) -> None: ...

    return tasks


@asynccontextmanager
async def busy_server(folder: Path) -> AsyncIterator[str]:
    """The URL of an engine that has work all the time."""
    backend = SqliteBackend(folder / "tasks.db")
    values = settings(host="127.0.0.1", port=0, api_keys=(), metrics_interval=1)
    shutdown = trio.Event()

    async def submit(engine: Engine) -> None:
        while True:
            for name in ("good", "bad", "in-thread"):
                await engine.submit(name, 1)
            await trio.sleep(0.2)  # two rounds and more between two scrapes

    async with backend.open(), trio.open_nursery() as nursery:
        now = datetime.now(UTC)
        stranger = Task(id=new_task_id(), type=HOSTILE, payload=1, created_at=now, updated_at=now)
        await backend.submit([NewTask(task=stranger)])
        engine = await nursery.start(Engine(registry(), values, backend=backend).run)
        serve = partial(serve_http, engine, values, shutdown=shutdown, grace=1)
        bound = await nursery.start(serve)
        nursery.start_soon(submit, engine)
        yield bound.url
        shutdown.set()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def prometheus(programs: Path, folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its API, once it is up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "tqe", "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        programs / "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with (
        trio.open_nursery() as nursery,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=30
        ) as client,
    ):
        nursery.start_soon(trio.run_process, command)  # what it logs is shown with a failure
        yield client
        nursery.cancel_scope.cancel()


async def ask(client: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    answer = await client.get(path, params=parameters)
    assert answer.status_code == 200, f"{parameters}: {answer.text}"
    return answer.json()["data"]


async def query(client: httpx.AsyncClient, expression: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ask(client, "/query", query=expression))["result"]
    return found


async def found(client: httpx.AsyncClient, expression: str) -> list[dict[str, Any]]:
    """Waited for: a scrape that is late on a busy machine leaves gaps."""
    with trio.move_on_after(60):
        while not (what := await query(client, expression)):  # noqa: ASYNC110  # another program's
            await trio.sleep(0.2)
        return what
    raise AssertionError(f"no data: {expression}")


async def until_scraped(client: httpx.AsyncClient) -> None:
    """Often enough for rates, with tasks of each kind at their end."""
    with trio.fail_after(60):
        while True:
            try:
                enough = "rate(tqe_attempts_total{outcome='failed',task_type='bad'}[30s]) > 0"
                if await query(client, enough) and await query(client, "tqe_given_back_total"):
                    return
            except (httpx.TransportError, AssertionError):
                pass  # it starts
            await trio.sleep(0.2)


def expressions_of_dashboard() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "30s").replace("$queue", ".*")


async def test_prometheus_takes_it_and_every_query_finds_something(
    programs: Path, tmp_path: Path
) -> None:
    async with (
        busy_server(tmp_path) as url,
        prometheus(programs, tmp_path, url) as client,
    ):
        await until_scraped(client)

        await found(client, "up == 1")
        for expression in expressions_of_dashboard():
            await found(client, expression)
        for rule in rules():
            await query(client, rule["expr"])
            for name in re.findall(r"tqe_\w+", rule["expr"]):
                await found(client, name)
        groups = (await ask(client, "/rules"))["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
        (given_back,) = await found(client, "tqe_given_back_total")
        assert given_back["metric"]["task_type"] == "other", "what a client makes up is no label"
        (wait, *_) = await ask(client, "/targets/metadata", metric="tqe_task_wait_seconds")
        assert wait["type"] == "histogram"

        async with httpx.AsyncClient(trust_env=False) as scraper:
            answer = await scraper.get(f"{url}/metrics", headers={"Accept": "text/plain"})
            scale = (await scraper.get(f"{url}/scale")).json()
        await trio.to_thread.run_sync(
            partial(promtool, programs, "check", "metrics", stdin=answer.text)
        )
        assert scale["service_rate"] > 0
        assert scale["seconds_per_task"] < 1
