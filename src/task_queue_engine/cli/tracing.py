"""Export of traces by `serve`, `api` and `worker`: set up by OpenTelemetry's own variables.

Where none of them asks for it nothing of OpenTelemetry is imported. What cannot be exported is a
warning and no error: the variables may be those of a whole cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger("task_queue_engine.tracing")

# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
_EXPORTER = "OTEL_TRACES_EXPORTER"
_DISABLED = "OTEL_SDK_DISABLED"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_SERVICE_NAME = "task-queue-engine"
"""Where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say none."""


def set_up_tracing(environment: Mapping[str, str]) -> None:
    """Export spans where the environment asks for it: an exporter is named, or an endpoint is. A
    program that `tqe` runs in (opentelemetry-instrument) may have done so before, and stands.

    Spans that are left are sent when the process ends, within the time that `leaving.py` has for
    that."""
    if environment.get(_DISABLED, "").strip().lower() == "true":
        return
    names = [name.strip() for name in environment.get(_EXPORTER, "").split(",") if name.strip()]
    if not names and any(environment.get(name) for name in _ENDPOINTS):
        names = ["otlp"]
    if not names or names == ["none"]:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning(
            "no traces are exported: %s; pip install 'task-queue-engine[otel]' brings what is "
            "missing, %s=none says that none are wanted",
            error,
            _EXPORTER,
        )
        return
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    exporters = [made for name in names if (made := _exporter(name, environment)) is not None]
    if not exporters:
        return
    resource = Resource.create()
    if not _names_service(environment):
        resource = resource.merge(Resource({SERVICE_NAME: _SERVICE_NAME}))
    provider = TracerProvider(resource=resource)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    logger.info("traces are exported: %s", ", ".join(names))


def _names_service(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("OTEL_SERVICE_NAME")) or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )


def _exporter(name: str, environment: Mapping[str, str]) -> SpanExporter | None:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        logger.warning("%s=%s is not exported to: otlp, console or none", _EXPORTER, name)
        return None
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), "http/protobuf")
    try:
        if protocol == "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http import trace_exporter

            return trace_exporter.OTLPSpanExporter()
        if protocol == "grpc":
            # Not in the extra: it is as large as all the rest.
            from opentelemetry.exporter.otlp.proto.grpc import (  # type: ignore[import-not-found,unused-ignore] # where it is installed
                trace_exporter as grpc,
            )

            made: SpanExporter = grpc.OTLPSpanExporter()
            return made
    except ImportError as error:
        logger.warning("no traces are exported by %s: %s", protocol, error)
        return None
    logger.warning("no traces are exported: %s is http/protobuf or grpc", _PROTOCOLS[1])
    return None
