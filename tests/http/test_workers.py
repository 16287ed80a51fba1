"""GET /workers, and the port of a worker, which has no API."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.http import create_app
from task_queue_engine.worker import RunningTask, Worker, WorkerList
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.test_submit import problem_of
from tests.http.test_tasks import body_of

AT = datetime(2030, 1, 1, tzinfo=UTC)
KEY = "a-key-of-sixteen-characters"


@pytest.fixture
def worker_port(engine: FakeEngine) -> TrioClient:
    app = create_app(engine, make_settings(), only_monitoring=True)
    return app.test_client()  # type: ignore[return-value] # it is Quart-Trio's


async def test_who_runs_and_what(client: TrioClient, engine: FakeEngine) -> None:
    run = RunningTask(task_id="a", type="email", attempt=2, since=AT)
    worker = Worker(
        id="host:1:abcdef",
        host="host",
        pid=1,
        version="1.2.3",
        queues=("default",),
        types=("email",),
        slots=5,
        threads=40,
        processes=2,
        busy=1,
        running=(run,),
        loop_lag_seconds=0.001,
        memory_bytes=1024,
        started_at=AT,
        last_seen=AT,
    )
    engine.worker_list = WorkerList(workers=(worker,), lost=3)
    assert await body_of(await client.get("/workers")) == {
        "workers": [
            {
                "id": "host:1:abcdef",
                "host": "host",
                "pid": 1,
                "version": "1.2.3",
                "state": "ready",
                "queues": ["default"],
                "types": ["email"],
                "slots": 5,
                "threads": 40,
                "processes": 2,
                "busy": 1,
                "running": [
                    {
                        "task_id": "a",
                        "type": "email",
                        "attempt": 2,
                        "since": "2030-01-01T00:00:00Z",
                    }
                ],
                "loop_lag_seconds": 0.001,
                "memory_bytes": 1024,
                "started_at": "2030-01-01T00:00:00Z",
                "last_seen": "2030-01-01T00:00:00Z",
            }
        ],
        "lost": 3,
    }


async def test_it_takes_no_parameters(client: TrioClient) -> None:
    problem = await problem_of(await client.get("/workers?queue=x"), 400)
    assert problem["field"] == "queue"


async def test_it_is_behind_the_key(engine: FakeEngine) -> None:
    client = create_app(engine, make_settings(api_keys=(KEY,))).test_client()
    await problem_of(await client.get("/workers"), 401)


async def test_a_worker_s_port_has_what_monitoring_needs(worker_port: TrioClient) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert (await worker_port.get(path)).status_code == 200, path
    metrics = await worker_port.get("/metrics", headers={"Accept": "text/plain"})
    assert "tqe_workers" in await metrics.get_data(as_text=True)


@pytest.mark.parametrize(
    "path", ["/", "/tasks", "/tasks/batch", "/dead-letters", "/workers", "/docs", "/openapi.json"]
)
async def test_and_nothing_else(worker_port: TrioClient, engine: FakeEngine, path: str) -> None:
    for answer in (
        await worker_port.get(path),
        await worker_port.post(path, json={"type": "email", "payload": "x"}),
        await worker_port.delete(path),
    ):
        problem = await problem_of(answer, 404)
        assert "this is the port of a worker" in problem["detail"]
    assert engine.rows == {}
