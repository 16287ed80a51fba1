"""What the framework answers by itself, and what every answer has."""

from __future__ import annotations

import json
import re

import pytest
from quart_trio import QuartTrio
from quart_trio.testing import TrioClient

from task_queue_engine import TraceContext
from task_queue_engine.http import create_app
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.test_submit import JSON, problem_of
from tests.http.test_tasks import body_of


@pytest.mark.parametrize("path", ["/nope", "/tasks/", "/tasks/a/b/c", "/static/x"])
async def test_nothing_there(client: TrioClient, path: str) -> None:
    assert (await problem_of(await client.get(path), 404))["type"] == "/docs#not-found"


async def test_what_is_added_to_the_app_can_ask_for_urls(app: QuartTrio) -> None:
    assert app.url_map.bind("here").build("get_task", {"task_id": "a b", "n": 1}) == (
        "/tasks/a%20b?n=1"
    )


async def test_wrong_method(client: TrioClient) -> None:
    response = await client.put("/tasks")

    await problem_of(response, 405)
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


async def test_options(client: TrioClient) -> None:
    response = await client.options("/tasks")

    assert response.status_code == 200
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))
    assert not any(name.lower().startswith("access-control") for name, _ in response.headers)


async def test_every_answer_can_be_found_again(client: TrioClient) -> None:
    given = await client.get("/health", headers={"X-Request-Id": "abc-123"})
    made = await client.get("/nope")
    nonsense = await client.get("/health", headers={"X-Request-Id": "x" * 200})

    assert given.headers["X-Request-Id"] == "abc-123"
    assert re.fullmatch("[0-9a-f]{16}", made.headers["X-Request-Id"])
    assert re.fullmatch("[0-9a-f]{16}", nonsense.headers["X-Request-Id"])


async def test_answers_are_not_cached_or_sniffed(client: TrioClient) -> None:
    for response in (await client.get("/tasks"), await client.get("/nope")):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


class TestDocuments:
    async def test_every_route_is_in_the_document(self, app: QuartTrio, client: TrioClient) -> None:
        document = await body_of(await client.get("/openapi.json"))

        documented = {
            (path, method.upper())
            for path, operations in document["paths"].items()
            for method in operations
        }
        served = {
            (re.sub("<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule), method)
            for rule in app.url_map.iter_rules()
            for method in rule.methods or ()
            if method not in ("HEAD", "OPTIONS")
            # Pages are for browsers, and no part of the API.
            if not rule.rule.startswith("/dashboard/")
        }
        assert documented == served - {("/", "GET"), ("/openapi.json", "GET"), ("/docs", "GET")}

    async def test_every_reference_leads_somewhere(self, client: TrioClient) -> None:
        document = await body_of(await client.get("/openapi.json"))

        references = set(re.findall(r'"\$ref":\s*"#/([^"]+)"', json.dumps(document)))
        assert {"components/schemas/Task", "components/schemas/TaskError"} <= references
        for reference in references:
            found = document
            for step in reference.split("/"):
                found = found[step]

    async def test_an_answer_has_the_documented_members(
        self, client: TrioClient, engine: FakeEngine
    ) -> None:
        document = await body_of(await client.get("/openapi.json"))
        traced = engine.add(trace_context=TraceContext(trace_id="a", span_id="b", sampled=True))
        task = await body_of(await client.get(f"/tasks/{traced.id}"))
        problem = await body_of(await client.get("/tasks/5"))

        schemas = document["components"]["schemas"]
        assert set(task) == set(schemas["Task"]["properties"])
        assert set(problem) <= set(schemas["Problem"]["properties"])
        assert set(problem) >= set(schemas["Problem"]["required"])

    async def test_the_page_needs_nothing_from_elsewhere(self, client: TrioClient) -> None:
        response = await client.get("/docs")

        page = (await response.get_data()).decode()
        assert response.content_type == "text/html; charset=utf-8"
        assert "<script" not in page
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "/tasks/{task_id}/retry" in page

    async def test_problems_are_explained_where_their_type_points(self, client: TrioClient) -> None:
        page = (await (await client.get("/docs")).get_data()).decode()
        problem = await body_of(await client.get("/tasks/5"))

        path, _, anchor = problem["type"].partition("#")
        assert path == "/docs"
        assert f'id="{anchor}"' in page


class TestBodyLimit:
    @pytest.fixture
    def small(self, engine: FakeEngine) -> TrioClient:
        return create_app(engine, make_settings(max_body_bytes=1024)).test_client()

    async def test_exactly_at_it(self, small: TrioClient, engine: FakeEngine) -> None:
        frame = b'{"type": "anything", "payload": "%s"}'
        body = frame % (b"x" * (1024 - len(frame) + 2))
        assert len(body) == 1024

        assert (await small.post("/tasks", data=body, headers=JSON)).status_code == 201
        await problem_of(await small.post("/tasks", data=body + b" ", headers=JSON), 413)
        assert len(engine.stored) == 1
