"""/metrics, /health, /ready."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
import pytest
import trio
from quart_trio.testing import TrioClient

from task_queue_engine.backends.base import (
    BackendUsage,
    OperationUsage,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.engine.api import Readiness
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus
from tests.http.fakes import FakeEngine
from tests.http.test_submit import problem_of
from tests.http.test_tasks import body_of


@pytest.fixture(autouse=True)
def some_tasks(engine: FakeEngine) -> None:
    for status in TaskStatus:
        engine.add(status=status)
    engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))


async def test_metrics_as_json(client: TrioClient) -> None:
    response = await client.get("/metrics")

    assert response.content_type == "application/json"
    metrics = await body_of(response)
    assert metrics["counters"] == {"attempts_started": 7, "lease_lost": 0}
    del metrics["counters"]
    assert metrics == {
        "queue": "",
        "waiting": 1,
        "delayed": 0,
        "total_tasks": 6,
        "pending_tasks": 1,
        "processing_tasks": 1,
        "completed_tasks": 1,
        "failed_tasks": 2,
        "cancelled_tasks": 1,
        "workers": 5,
        "active_workers": 1,
        "queue_depth": 1,
        "in_flight": 1,
        "dead_letters": 1,
        "uptime_seconds": 12.5,
        "abandoned_threads": 0,
    }


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        (PROMETHEUS, True),
        (PROMETHEUS_3, True),
        ("text/plain", True),
        ("TEXT/PLAIN; charset=utf-8", True),
        ("text/*", True),
        ("application/json;q=0.5, text/plain;q=0.6", True),
        ("text/plain;q=0.5, application/json", False),
        ("text/plain;q=0, */*", False),
        ("text/*;q=0.9, text/plain;q=0.1, application/json;q=0.5", False),
        ("text/plain; version=9.9", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
        ("image/png", False),
        (";;q=,=;,text/plain;q=x, */*;q*=utf-8''1", False),
    ],
)
async def test_metrics_by_preference(client: TrioClient, accept: str, text: bool) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})

    assert response.status_code == 200
    assert (response.content_type == "text/plain; version=0.0.4; charset=utf-8") is text
    assert response.headers["Vary"] == "Accept"


async def test_prometheus_text(client: TrioClient) -> None:
    response = await client.get("/metrics", headers={"Accept": PROMETHEUS})

    text = (await response.get_data()).decode()
    assert text.endswith("\n")
    described: dict[str, str] = {}
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"# TYPE (\w+) (gauge|counter)", line):
            described[match[1]] = match[2]
        elif not re.fullmatch(r"# HELP (\w+) [^\\]+", line):
            sample = re.fullmatch(r'(\w+)(\{\w+="\w*"(?:,\w+="\w+")*\})? ([0-9.]+)', line)
            assert sample is not None, line
            assert sample[1] in described, "TYPE comes before the samples"
            samples[sample[1] + (sample[2] or "")] = float(sample[3])
    assert all(name.startswith("tqe_") for name in described)
    assert samples['tqe_tasks{status="failed"}'] == 2
    assert samples["tqe_queue_depth"] == 1
    assert samples['tqe_queue_messages{queue="",state="waiting"}'] == 1
    assert samples['tqe_queue_messages{queue="",state="delayed"}'] == 0
    assert samples["tqe_attempts_started_total"] == 7
    assert described["tqe_attempts_started_total"] == "counter"
    assert described["tqe_tasks"] == "gauge"


USAGE = BackendUsage(
    operations=(
        OperationUsage(
            service="dynamodb",
            operation="BatchExecuteStatement",
            requests=4,
            retries=1,
            throttles=1,
            write_units=62.0,
        ),
        OperationUsage(service="sqs", operation="ReceiveMessage", requests=9),
    ),
    steps=(StepUsage(step="claim", requests=2, write_units=30.0),),
    task_types=(
        TaskTypeUsage(service="dynamodb", task_type="email", requests=0.5, write_units=20.0),
        TaskTypeUsage(service="sqs", task_type='a "b"\\\n', requests=0.3),
    ),
)


async def test_what_a_billed_backend_was_asked_for(client: TrioClient, engine: FakeEngine) -> None:
    engine.usage = USAGE

    metrics = await body_of(await client.get("/metrics"))

    assert metrics["usage"]["operations"][1] == {
        "service": "sqs",
        "operation": "ReceiveMessage",
        "requests": 9,
        "retries": 0,
        "throttles": 0,
        "failures": 0,
        "read_units": 0.0,
        "write_units": 0.0,
    }
    assert msgspec.convert(metrics["usage"], BackendUsage) == USAGE


async def test_what_a_billed_backend_was_asked_for_as_text(
    client: TrioClient, engine: FakeEngine
) -> None:
    engine.usage = USAGE

    response = await client.get("/metrics", headers={"Accept": PROMETHEUS})

    lines = (await response.get_data()).decode().splitlines()
    sent = 'service="dynamodb",operation="BatchExecuteStatement"'
    assert f"tqe_backend_requests_total{{{sent}}} 4" in lines
    assert f"tqe_backend_retries_total{{{sent}}} 1" in lines
    assert f"tqe_backend_throttles_total{{{sent}}} 1" in lines
    assert f"tqe_backend_write_units_total{{{sent}}} 62.0" in lines
    assert 'tqe_backend_requests_total{service="sqs",operation="ReceiveMessage"} 9' in lines
    assert 'tqe_store_write_units_total{step="claim"} 30.0' in lines
    assert 'tqe_task_type_write_units_total{service="dynamodb",task_type="email"} 20.0' in lines
    escaped = r'tqe_task_type_requests_total{service="sqs",task_type="a \"b\"\\\n"} 0.3'
    assert escaped in lines
    assert not any(line.startswith("tqe_backend_read_units") for line in lines), "there are none"
    assert not any("write_units" in line and 'service="sqs"' in line for line in lines)
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


async def test_usage_is_documented(client: TrioClient, engine: FakeEngine) -> None:
    document = await body_of(await client.get("/openapi.json"))

    schemas = document["components"]["schemas"]
    assert "usage" in schemas["MetricsView"]["properties"]
    assert "usage" not in schemas["MetricsView"]["required"]
    assert set(schemas["OperationUsage"]["properties"]) == set(OperationUsage.__annotations__)


async def test_health_asks_no_backend(client: TrioClient, engine: FakeEngine) -> None:
    engine.failure = BackendUnavailable("gone")

    response = await client.get("/health")

    assert response.status_code == 200
    health = await body_of(response)
    assert health["status"] == "healthy"
    assert datetime.fromisoformat(health["timestamp"]).tzinfo is not None


async def test_ready(client: TrioClient) -> None:
    response = await client.get("/ready")

    assert response.status_code == 200
    assert await body_of(response) == {"status": "ready", "abandoned_threads": 0}


async def test_not_ready(client: TrioClient, engine: FakeEngine) -> None:
    engine.not_ready = ("the store is locked", "no worker runs")

    problem = await problem_of(response := await client.get("/ready"), 503)

    assert problem["reasons"] == ["the store is locked", "no worker runs"]
    assert "Retry-After" in response.headers


async def test_an_engine_that_says_nothing_is_not_ready(
    autojump_clock: Any,
    client: TrioClient,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def say_nothing() -> Readiness:
        await trio.sleep_forever()

    monkeypatch.setattr(engine, "ready", say_nothing)

    problem = await problem_of(await client.get("/ready"), 503)

    assert "in time" in problem["reasons"][0]
    assert trio.current_time() < 10
