"""`tqe` exports traces by OpenTelemetry's own variables."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from task_queue_engine.cli.tracing import set_up_tracing
from tests.cli.runner import Shop, request, tqe

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """What an OTLP collector is for an exporter."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.received: list[ExportTraceServiceRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[tuple[dict[str, str], Any]]:
        """Each with what its resource says."""
        return [
            (
                {pair.key: pair.value.string_value for pair in of_resource.resource.attributes},
                span,
            )
            for one in self.received
            for of_resource in one.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        if self.path == "/v1/traces":
            self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_service_exports_what_it_does(shop: Shop, collector: Collector) -> None:
    """One start, for all that needs one."""
    with shop.serve("serve", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as server:
        server.wait_for("traces are exported: otlp")
        answer = request(
            "POST",
            f"{server.url}/tasks",
            json={"type": "says", "payload": "hello"},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
        )
        task = answer.json()
        assert task["trace_context"]["trace_id"] == TRACE
        answer = request("GET", f"{server.url}/tasks/{task['id']}?wait=20")
        assert answer.json()["status"] == "COMPLETED"
        assert f"trace id  {TRACE}" in tqe("status", task["id"]).out
        shown = tqe("status", "--json", task["id"]).json
        assert shown["trace_context"]["trace_id"] == TRACE
        server.signal()
        # What is left is sent at the end.
        assert server.wait() == 0
        said = [json.loads(line) for line in server.lines if '"hello"' in line]
    found = {span.name: [] for _, span in collector.spans()}
    for resource, span in collector.spans():
        assert resource["service.name"] == "task-queue-engine"
        assert span.trace_id.hex() == TRACE
        found[span.name].append(span)
    assert set(found) == {"submit default", "process default"}
    (submitted,), attempts = found["submit default"], found["process default"]
    assert submitted.parent_span_id.hex() == PARENT
    assert [span.parent_span_id for span in attempts] == [submitted.span_id] * 2
    lines = [line for line in said if line["logger"] == "shop"]
    assert [(line["trace_id"], line["span_id"]) for line in lines] == [
        (TRACE, span.span_id.hex()) for span in attempts
    ]


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TracerProvider]]:
    """The tracer providers that were set."""
    found: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", found.append)
    yield found
    for provider in found:
        provider.shutdown()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_nothing_is_exported_where_nothing_asks_for_it(
    set_up: list[TracerProvider], environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    set_up_tracing(environment)
    assert set_up == []
    assert caplog.records == []


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "opentelemetry.exporter.otlp.proto.grpc",
        ),
    ],
)
def test_what_cannot_be_exported_to_is_a_warning(
    set_up: list[TracerProvider],
    environment: dict[str, str],
    says: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    set_up_tracing(environment)
    assert set_up == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert says in record.getMessage()


def test_without_the_extra_the_variables_do_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    set_up_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert "pip install 'task-queue-engine[otel]'" in caplog.text


def test_a_program_around_it_may_have_set_up_its_own(
    monkeypatch: pytest.MonkeyPatch, set_up: list[TracerProvider]
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    set_up_tracing({"OTEL_TRACES_EXPORTER": "console"})
    assert set_up == []


def test_a_service_of_another_name_keeps_it(
    set_up: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    set_up_tracing({"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "shop"})
    assert set_up[0].resource.attributes["service.name"] == "shop"
