"""The OpenAPI document, by quart-schema from the routes and their decorators.

quart-schema is used for the document only. Its run-time half (converting every response, a test
client of its own) would cost each request time and do nothing here, so the extension is never
attached to the app. Its provider takes one schema per model and drops the models inside it; this
one keeps them all, and adds what every operation has in common.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec
from quart import Quart
from quart_schema import Info, QuartSchema
from quart_schema.openapi import HttpSecurityScheme, OpenAPIProvider, Tag
from quart_schema.validation import DataSource
from werkzeug.routing.rules import Rule

from task_queue_engine._version import __version__
from task_queue_engine.http import problems
from task_queue_engine.http.access import RULES
from task_queue_engine.http.middleware import OPEN_PATHS, PUBLIC_PATHS
from task_queue_engine.http.problems import Problem

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PROBLEM = {"$ref": "#/components/responses/Problem"}
_SUBMIT_HEADERS = {
    "Location": {"description": "The task's path.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true` where the idempotency key had been used for this before.",
        "schema": {"const": "true"},
    },
}
_METHOD_ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")

_DESCRIPTION = (
    "Submit work, have it run, retried and dead-lettered, and look its whole life up. "
    "Bodies and answers are JSON in UTF-8; times are RFC 3339 in UTC. Every error is "
    "`application/problem+json` (RFC 9457) with the message in `detail` and in `error`. "
    "A task answered with 201 is stored and will run, at least once."
)


def build_document(app: Quart) -> Json:
    """The OpenAPI 3.1 document of `app`."""
    app.config.setdefault("QUART_SCHEMA_CONVERT_CASING", False)
    app.config.setdefault("QUART_SCHEMA_CONVERSION_PREFERENCE", "msgspec")
    extension = QuartSchema(
        info=Info(title="Task Queue Engine", version=__version__, description=_DESCRIPTION),
        security_schemes={"api_key": HttpSecurityScheme(scheme="bearer")},
        security=[{"api_key": []}, {}],
        tags=[
            Tag("tasks", "Submit, look up, list, cancel, retry."),
            Tag("dead letters", "What was given up, and what to do about it."),
            Tag("monitoring", "For probes, dashboards and Prometheus."),
        ],
    )
    document = _Provider(app, extension).schema()
    components = document["components"]
    _, schemas = msgspec.json.schema_components([Problem], ref_template=_REF)
    components["schemas"].update(schemas)
    components["schemas"] = {
        name: _tidy(components["schemas"][name]) for name in sorted(components["schemas"])
    }
    components["responses"] = {
        "Problem": {
            "description": "What went wrong.",
            "content": {
                problems.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
    }
    return document


class _Provider(OpenAPIProvider):
    def generate_methods(self, rule: Rule) -> Iterable[str]:
        methods = set(super().generate_methods(rule))
        return [method for method in _METHOD_ORDER if method in methods]

    def build_paths(self, rule: Rule) -> tuple[Json, Json]:
        paths, components = super().build_paths(rule)
        for path, methods in paths.items():
            for operation in methods.values():
                operation["description"] = operation["description"].strip()
                responses = sorted(operation["responses"].items())
                operation["responses"] = {str(status): response for status, response in responses}
                operation["responses"]["default"] = _PROBLEM
                if path in OPEN_PATHS | PUBLIC_PATHS:
                    operation["security"] = []
                elif operation["operationId"] in RULES:
                    # OpenAPI 3.1: the names of roles, for schemes that have no scopes.
                    needed = str(RULES[operation["operationId"]].role)
                    operation["security"] = [{"api_key": [needed]}, {}]
                if operation["operationId"] == "submit_task":
                    operation["responses"]["201"]["headers"] = _SUBMIT_HEADERS
                elif operation["operationId"] in ("stream_events", "stream_task_events"):
                    content = operation["responses"]["200"]["content"]
                    content["text/event-stream"] = content.pop("application/json")
                elif operation["operationId"] == "get_metrics":
                    text = {"schema": {"type": "string"}}
                    content = operation["responses"]["200"]["content"]
                    content["text/plain"] = content["application/openmetrics-text"] = text
        return paths, components

    def operation_id(self, method: str, path: str, func: Any) -> str | None:
        return str(func.__name__)

    def build_request_body(self, model: Any, source: DataSource) -> tuple[Json, Json]:
        schema, components = _schema_of(model)
        content = {"application/json": {"schema": schema}}
        return {"required": True, "content": content}, components

    def build_response_object(self, model: Any, headers_model: Any) -> tuple[Json, Json]:
        schema, components = _schema_of(model)
        described = (inspect.getdoc(model) or "").partition("\n")[0]
        return {
            "description": described,
            "content": {"application/json": {"schema": schema}},
        }, components

    def build_querystring_parameters(self, model: Any) -> tuple[list[Json], Json]:
        return _parameters(model, "query"), {}

    def build_headers_parameters(self, model: Any) -> tuple[list[Json], Json]:
        parameters = _parameters(model, "header")
        for parameter in parameters:
            parameter["name"] = parameter["name"].replace("_", "-").title()
        return parameters, {}


def _schema_of(model: Any) -> tuple[Json, Json]:
    (schema,), components = msgspec.json.schema_components([model], ref_template=_REF)
    return schema, components


def _parameters(model: Any, where: str) -> list[Json]:
    _, components = msgspec.json.schema_components([model], ref_template=_REF)
    parameters = []
    for name, described in components[model.__name__]["properties"].items():
        schema = {key: value for key, value in described.items() if key != "description"}
        if "anyOf" in schema:  # `| None` says that it may be left out, not that it may be null
            (schema,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
        parameters.append(
            {
                "name": name,
                "in": where,
                "required": False,
                "description": described.get("description", ""),
                "schema": schema,
            }
        )
    return parameters


def _tidy(schema: Json) -> Json:
    """Docstrings lose their indentation, and times are said to be times."""
    schema = dict(schema)
    if "description" in schema:
        schema["description"] = inspect.cleandoc(schema["description"])
    if "properties" in schema:
        schema["properties"] = {
            name: _with_time_format(member) if name.endswith("_at") or name == "at" else member
            for name, member in schema["properties"].items()
        }
    return schema


def _with_time_format(member: Json) -> Json:
    if member.get("type") == "string":
        return {**member, "format": "date-time"}
    if "anyOf" in member:
        return {**member, "anyOf": [_with_time_format(choice) for choice in member["anyOf"]]}
    return member
