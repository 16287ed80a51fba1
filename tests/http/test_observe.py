"""/metrics, /scale, /health, /ready."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest
import trio
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from quart_trio.testing import TrioClient

from task_queue_engine.backends.base import (
    BackendUsage,
    OperationUsage,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.engine.api import Readiness
from task_queue_engine.engine.metrics import Slots
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.measures import Distribution, LabelledCount
from task_queue_engine.task import TaskStatus
from tests.http.fakes import FakeEngine
from tests.http.test_submit import problem_of
from tests.http.test_tasks import body_of


def parsed(text: str) -> dict[str, Metric]:
    """By name, by a reader that refuses what is not well-formed."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def values(families: dict[str, Metric]) -> dict[tuple[Any, ...], float]:
    """By name of the sample and its labels in their order."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }


@pytest.fixture(autouse=True)
def some_tasks(engine: FakeEngine) -> None:
    engine.measured = {
        "slots": (Slots(kind="worker", busy=2, total=5),),
        "labelled_counters": (
            LabelledCount(
                name="attempts",
                labels={"queue": "default", "task_type": "email", "outcome": "failed"},
                count=4,
            ),
        ),
        "histograms": (
            Distribution(
                name="task_wait_seconds",
                labels={"queue": "default", "task_type": "email"},
                bounds=(0.1, 1.0),
                counts=(2, 0, 1),
                sum=7.5,
            ),
        ),
    }
    for status in TaskStatus:
        engine.add(status=status)
    engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))


async def test_metrics_as_json(client: TrioClient) -> None:
    response = await client.get("/metrics")

    assert response.content_type == "application/json"
    metrics = await body_of(response)
    assert metrics["counters"] == {"attempts_started": 7, "lease_lost": 0}
    assert metrics["histograms"][0] == {
        "name": "task_wait_seconds",
        "labels": {"queue": "default", "task_type": "email"},
        "bounds": [0.1, 1.0],
        "counts": [2, 0, 1],
        "sum": 7.5,
    }
    for name in ("counters", "histograms", "labelled_counters", "slots"):
        del metrics[name]
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
        "oldest_age_seconds": None,
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
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
JSON_TYPE = "application/json"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS, OPENMETRICS),
        (PROMETHEUS_3, TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text; version=2.0.0, text/plain;q=0.1", TEXT),
        ("text/plain", TEXT),
        ("TEXT/PLAIN; charset=utf-8", TEXT),
        ("text/*", TEXT),
        ("application/json;q=0.5, text/plain;q=0.6", TEXT),
        ("text/plain;q=0.5, application/json", JSON_TYPE),
        ("text/plain;q=0, */*", JSON_TYPE),
        ("text/*;q=0.9, text/plain;q=0.1, application/json;q=0.5", JSON_TYPE),
        ("text/plain; version=9.9", JSON_TYPE),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON_TYPE),
        ("*/*", JSON_TYPE),
        ("", JSON_TYPE),
        ("image/png", JSON_TYPE),
        (";;q=,=;,text/plain;q=x, */*;q*=utf-8''1", JSON_TYPE),
    ],
)
async def test_metrics_by_preference(client: TrioClient, accept: str, content_type: str) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})

    assert response.status_code == 200
    assert response.content_type == content_type
    body = (await response.get_data()).decode()
    if content_type == OPENMETRICS:
        assert list(openmetrics.text_string_to_metric_families(body))
    else:
        assert "# EOF" not in body
    assert response.headers["Vary"] == "Accept"


async def test_prometheus_text(client: TrioClient) -> None:
    response = await client.get("/metrics", headers={"Accept": "text/plain"})

    families = parsed((await response.get_data()).decode())
    assert all(name.startswith("tqe_") for name in families)
    samples = values(families)
    assert samples["tqe_tasks", ("status", "failed")] == 2
    assert samples["tqe_queue_depth",] == 1
    assert samples["tqe_queue_messages", ("queue", ""), ("state", "waiting")] == 1
    assert samples["tqe_queue_messages", ("queue", ""), ("state", "delayed")] == 0
    assert samples["tqe_attempts_started_total",] == 7
    assert families["tqe_attempts_started"].type == "counter"
    assert families["tqe_tasks"].type == "gauge"


async def test_histograms_are_cumulative_and_say_their_sum(client: TrioClient) -> None:
    response = await client.get("/metrics", headers={"Accept": "text/plain"})

    families = parsed((await response.get_data()).decode())
    assert families["tqe_task_wait_seconds"].type == "histogram"
    samples = values(families)
    labels = (("queue", "default"), ("task_type", "email"))
    buckets = [
        samples["tqe_task_wait_seconds_bucket", ("le", bound), *labels]
        for bound in ("0.1", "1.0", "+Inf")
    ]
    assert buckets == [2, 2, 3]
    assert samples["tqe_task_wait_seconds_count", *labels] == 3
    assert samples["tqe_task_wait_seconds_sum", *labels] == 7.5
    what = (("outcome", "failed"), ("queue", "default"), ("task_type", "email"))
    assert samples["tqe_attempts_total", *what] == 4
    assert samples["tqe_slots", ("kind", "worker"), ("state", "busy")] == 2
    assert samples["tqe_slots", ("kind", "worker"), ("state", "free")] == 3


async def test_what_is_of_all_servers_says_not_to_add_it_up(client: TrioClient) -> None:
    response = await client.get("/metrics", headers={"Accept": "text/plain"})

    families = parsed((await response.get_data()).decode())
    shared = {name for name, family in families.items() if "use max()" in family.documentation}
    assert shared == {
        *("tqe_tasks", "tqe_queue_messages", "tqe_queue_depth", "tqe_queue_in_flight"),
        "tqe_dead_letters",
    }


async def test_how_many_slots_are_wanted(client: TrioClient) -> None:
    response = await client.get("/scale")

    assert await body_of(response) == {
        "queue": "default",
        "backlog": 1,
        "in_flight": 1,
        "oldest_age_seconds": None,
        "arrival_rate": 1.0,
        "service_rate": 0.5,
        "seconds_per_task": 2.0,
        "wanted_slots": 3,
    }


async def test_an_autoscaler_gets_no_number_from_a_backend_that_is_away(
    client: TrioClient, engine: FakeEngine
) -> None:
    engine.failure = BackendUnavailable("gone")

    await problem_of(await client.get("/scale"), 503)


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

    response = await client.get("/metrics", headers={"Accept": "text/plain"})

    text = (await response.get_data()).decode()
    assert parsed(text)
    lines = text.splitlines()
    sent = 'operation="BatchExecuteStatement",service="dynamodb"'
    assert f"tqe_backend_requests_total{{{sent}}} 4.0" in lines
    assert f"tqe_backend_retries_total{{{sent}}} 1.0" in lines
    assert f"tqe_backend_throttles_total{{{sent}}} 1.0" in lines
    assert f"tqe_backend_write_units_total{{{sent}}} 62.0" in lines
    assert 'tqe_backend_requests_total{operation="ReceiveMessage",service="sqs"} 9.0' in lines
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
