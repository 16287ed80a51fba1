"""Named keys with roles: what each may do, and what its types keep from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.http.access import OPEN_ROUTES, RULES
from task_queue_engine.http.dashboard.routes import ROUTES
from task_queue_engine.http.key_file import read_key_file
from task_queue_engine.http.principal import Role
from task_queue_engine.task import TaskStatus
from tests.http.conftest import Serve
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys
from tests.http.test_submit import JSON, one, problem_of
from tests.http.test_tasks import body_of
from tests.http.wire import get, post

ADMIN = "an-unnamed-key-of-the-environment"


# --- roles ----------------------------------------------------------------------------------


async def test_every_route_of_the_document_has_its_role(client: TrioClient) -> None:
    """A new route without an entry is for admin alone: here its author hears of it."""
    document = await body_of(await client.get("/openapi.json"))
    operations = {
        operation["operationId"]: operation
        for methods in document["paths"].values()
        for operation in methods.values()
    }

    pages = {name for _, _, name in ROUTES}  # in no document: `test_pages.py` has their roles
    assert operations.keys() - RULES.keys() - OPEN_ROUTES == set()
    assert RULES.keys() - operations.keys() - pages == set(), "a rule for what is not there"
    assert pages - RULES.keys() - OPEN_ROUTES == set()
    for name, operation in operations.items():
        if name in RULES:
            assert {"api_key": [str(RULES[name].role)]} in operation["security"]
        else:
            assert operation["security"] == []
    page = await (await client.get("/docs")).get_data(as_text=True)
    for role in (Role.SUBMIT, Role.READ, Role.OPERATE):
        assert f"Needs the role {role}." in page


NEEDED = [
    ("POST", "/tasks", Role.SUBMIT),
    ("POST", "/tasks/batch", Role.SUBMIT),
    ("GET", "/tasks", Role.READ),
    ("GET", "/tasks/{id}", Role.READ),
    ("HEAD", "/tasks/{id}", Role.READ),
    ("GET", "/tasks/{id}?wait=0.01", Role.READ),
    ("GET", "/tasks/{id}/attempts", Role.READ),
    ("GET", "/metrics", Role.READ),
    ("GET", "/scale", Role.READ),
    ("GET", "/workers", Role.READ),
    ("GET", "/dead-letters", Role.READ),
    ("DELETE", "/tasks/{id}", Role.OPERATE),
    ("POST", "/tasks/{id}/retry", Role.OPERATE),
    ("POST", "/dead-letters/redrive", Role.OPERATE),
    ("DELETE", "/dead-letters", Role.OPERATE),
]
BODIES = {
    "/tasks": one(),
    "/tasks/batch": {"tasks": [one()]},
    "/dead-letters/redrive": {"all": True},
}


@pytest.mark.parametrize("role", [Role.SUBMIT, Role.READ, Role.OPERATE, Role.ADMIN])
async def test_a_role_opens_its_routes_and_no_others(
    keys: Keys, engine: FakeEngine, role: Role
) -> None:
    headers = keys.add("this-one", role)
    client = keys.client(engine)
    for method, path, needed in NEEDED:
        task = engine.add(status=TaskStatus.FAILED if "retry" in path else TaskStatus.PENDING)
        engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))
        before = len(engine.dead_letters), dict(engine.rows)
        response = await client.open(
            path.format(id=task.id),
            method=method,
            headers=headers,
            data=json.dumps(BODIES.get(path)).encode(),
        )
        if role in (needed, Role.ADMIN):
            assert response.status_code < 300, (method, path)
        elif method == "HEAD":
            assert response.status_code == 403
        else:
            problem = await problem_of(response, 403)
            assert problem["type"] == "/docs#missing-role"
            assert problem["missing_role"] == needed
            assert f"role {needed}" in problem["detail"]
            assert "'this-one'" in problem["detail"]
            assert f'scope="{needed}"' in response.headers["WWW-Authenticate"]
            assert (len(engine.dead_letters), dict(engine.rows)) == before


async def test_a_key_may_have_several_roles(keys: Keys, engine: FakeEngine) -> None:
    headers = keys.add("both", Role.SUBMIT, Role.READ)
    client = keys.client(engine)

    made = await client.post("/tasks", data=json.dumps(one()), headers=headers)
    location = made.headers["Location"]
    assert (await client.get(location, headers=headers)).status_code == 200
    await problem_of(await client.delete(location, headers=headers), 403)


async def test_a_route_without_a_rule_is_for_admin(keys: Keys, engine: FakeEngine) -> None:
    several = keys.add("several", Role.SUBMIT, Role.READ, Role.OPERATE)
    admin = keys.add("admin", Role.ADMIN)
    app = keys.app(engine)

    @app.get("/own")
    async def own() -> str:
        return "ours"

    client = app.test_client()
    assert (await client.get("/own", headers=admin)).status_code == 200
    problem = await problem_of(await client.get("/own", headers=several), 403)
    assert problem["missing_role"] == "admin"


async def test_unnamed_keys_may_do_everything_beside_the_file(
    keys: Keys, engine: FakeEngine
) -> None:
    keys.add("reader", Role.READ)
    client = keys.client(engine, api_keys=(ADMIN,))
    headers = JSON | {"Authorization": f"Bearer {ADMIN}"}

    assert (await client.delete("/dead-letters", headers=headers)).status_code == 200
    assert (await client.get("/tasks", headers=keys.headers("reader"))).status_code == 200


@pytest.mark.parametrize("path", ["/tasks", "/metrics", "/nothing-here"])
async def test_without_a_key_or_with_another_one(keys: Keys, engine: FakeEngine, path: str) -> None:
    keys.add("reader", Role.READ)
    client = keys.client(engine)
    digest = next(iter(read_key_file(str(keys.path)).keys)).hex()
    for given in (None, "Bearer ", f"Bearer {digest}", f"Bearer {keys.secrets['reader']}x"):
        headers = {} if given is None else {"Authorization": given}
        response = await client.get(path, headers=headers)
        assert (await problem_of(response, 401))["type"] == "/docs#unauthorized"
        assert "WWW-Authenticate" in response.headers
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


async def test_a_key_expires(keys: Keys, engine: FakeEngine) -> None:
    today = datetime.now(UTC).date()
    old = keys.add("old", Role.READ, expires=today)
    fresh = keys.add("fresh", Role.READ, expires=today + timedelta(days=2))
    client = keys.client(engine)

    response = await client.get("/tasks", headers=old)
    assert (await problem_of(response, 401))["detail"] == "this API key has expired"
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert (await client.get("/tasks", headers=fresh)).status_code == 200


async def test_past_the_framework_rules_are_the_same(
    keys: Keys, engine: FakeEngine, serve: Serve
) -> None:
    """Plain requests over a real socket, and the same by the long way round (chunked)."""
    task = engine.add()
    reader = keys.add("reader", Role.READ)["Authorization"]
    chunked = (
        f"POST /tasks HTTP/1.1\r\nHost: x\r\nAuthorization: {reader}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    async with serve(keys_file=str(keys.path)) as server:
        wire = await server.connect()
        for request, status in (
            (get(f"/tasks/{task.id}"), 401),
            (get(f"/tasks/{task.id}", Authorization=reader), 200),
            (post("/tasks", one(), Authorization=reader), 403),
            (post("/tasks", one(), Authorization=reader, Expect="100-continue"), 403),
        ):
            await wire.send(request)
            answer = await wire.answer()
            assert answer.status == status, answer
        wire = await server.connect()
        await wire.send(chunked)
        answer = await wire.answer()
        assert (answer.status, answer.json["missing_role"]) == (403, "submit")
    assert engine.stored == [task]


# --- types ----------------------------------------------------------------------------------


class TestTypes:
    """A key for some task types: of others it submits, sees and changes nothing."""

    EVERYTHING = (Role.SUBMIT, Role.READ, Role.OPERATE)

    @pytest.fixture
    def headers(self, keys: Keys) -> dict[str, str]:
        return keys.add("mailer", *self.EVERYTHING, types=("email",))

    @pytest.fixture
    def mailer(self, keys: Keys, engine: FakeEngine, headers: dict[str, str]) -> TrioClient:
        return keys.client(engine)

    async def refused(self, response: Any) -> None:
        problem = await problem_of(response, 403)
        assert problem["type"] == "/docs#type-not-allowed"
        assert "'email'" in problem["detail"]

    async def test_submitting(
        self, mailer: TrioClient, headers: dict[str, str], engine: FakeEngine
    ) -> None:
        own = json.dumps({"type": "email", "payload": {"to": "a@b.example"}})
        assert (await mailer.post("/tasks", data=own, headers=headers)).status_code == 201
        await self.refused(await mailer.post("/tasks", data=json.dumps(one()), headers=headers))
        # Nor does it learn which types there are.
        unknown = json.dumps({"type": "no-such-type", "payload": 1})
        await self.refused(await mailer.post("/tasks", data=unknown, headers=headers))
        assert [task.type for task in engine.stored] == ["email"]

    async def test_a_batch_has_a_verdict_for_each(
        self, mailer: TrioClient, headers: dict[str, str], engine: FakeEngine
    ) -> None:
        items = [
            {"type": "email", "payload": {"to": "a@b.example"}},
            one(),
            {"type": "email", "payload": {"to": "c@d.example"}},
        ]
        response = await mailer.post(
            "/tasks/batch", data=json.dumps({"tasks": items}), headers=headers
        )
        assert response.status_code == 207
        results = (await body_of(response))["results"]
        assert [result["status"] for result in results] == [201, 403, 201]
        assert results[1]["problem"]["type"] == "/docs#type-not-allowed"
        assert [task.type for task in engine.stored] == ["email", "email"]

    async def test_other_names_of_a_type(self, keys: Keys, engine: FakeEngine) -> None:
        @engine.registry.task("letter", aliases=["post"])
        async def letter(payload: Any) -> None:
            del payload

        headers = keys.add("poster", Role.SUBMIT, types=("post",))
        client = keys.client(engine)
        for name in ("letter", "post"):
            body = json.dumps({"type": name, "payload": 1})
            assert (await client.post("/tasks", data=body, headers=headers)).status_code == 201

    async def test_looking(
        self, mailer: TrioClient, headers: dict[str, str], engine: FakeEngine
    ) -> None:
        own, other = engine.add("email"), engine.add()
        assert (await mailer.get(f"/tasks/{own.id}", headers=headers)).status_code == 200
        await self.refused(await mailer.get(f"/tasks/{other.id}", headers=headers))
        await self.refused(await mailer.get(f"/tasks/{other.id}?wait=1", headers=headers))
        assert (await mailer.get(f"/tasks/{own.id}/attempts", headers=headers)).status_code == 200
        await self.refused(await mailer.get(f"/tasks/{other.id}/attempts", headers=headers))
        # Of one type it is known what is meant.
        listed = await body_of(await mailer.get("/tasks", headers=headers))
        assert [task["id"] for task in listed["tasks"]] == [own.id]
        await self.refused(await mailer.get("/tasks?type=anything", headers=headers))
        # Counts are of all types.
        await self.refused(await mailer.get("/metrics", headers=headers))

    async def test_of_several_types_a_list_names_one(self, keys: Keys, engine: FakeEngine) -> None:
        headers = keys.add("two", Role.READ, types=("email", "anything"))
        client = keys.client(engine)
        await self.refused(await client.get("/tasks", headers=headers))
        assert (await client.get("/tasks?type=email", headers=headers)).status_code == 200

    @pytest.mark.parametrize(("method", "what"), [("DELETE", ""), ("POST", "/retry")])
    async def test_changing(
        self,
        mailer: TrioClient,
        headers: dict[str, str],
        engine: FakeEngine,
        method: str,
        what: str,
    ) -> None:
        status = TaskStatus.FAILED if what else TaskStatus.PENDING
        own, other = engine.add("email", status=status), engine.add(status=status)
        path = f"/tasks/{{}}{what}"
        response = await mailer.open(path.format(other.id), method=method, headers=headers)
        await self.refused(response)
        assert engine.rows[other.id].task == other
        response = await mailer.open(path.format(own.id), method=method, headers=headers)
        assert response.status_code == 200
        assert engine.rows[own.id].task.status is not status

    async def test_dead_letters(
        self, mailer: TrioClient, headers: dict[str, str], engine: FakeEngine
    ) -> None:
        own = engine.add_dead_letter(engine.add("email", status=TaskStatus.FAILED))
        other = engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))
        listed = await body_of(await mailer.get("/dead-letters", headers=headers))
        assert [each["id"] for each in listed["dead_letters"]] == [own.id]
        everything = json.dumps({"all": True})
        path = "/dead-letters/redrive"
        await self.refused(await mailer.post(path, data=everything, headers=headers))
        await self.refused(await mailer.delete("/dead-letters", headers=headers))
        both = json.dumps({"ids": [own.id, other.id]})
        report = await body_of(await mailer.post(path, data=both, headers=headers))
        assert (report["redriven"], report["not_found"]) == (1, 1)
        assert engine.dead_letters == [other]

    async def test_an_idempotency_key_of_another_type(
        self, mailer: TrioClient, headers: dict[str, str], keys: Keys, engine: FakeEngine
    ) -> None:
        admin = keys.add("admin", Role.ADMIN) | {"Idempotency-Key": "k-1"}
        first = await mailer.post("/tasks", data=json.dumps(one()), headers=admin)
        assert first.status_code == 201
        body = {"type": "email", "payload": {"to": "a@b.example"}}
        again = headers | {"Idempotency-Key": "k-1"}
        problem = await problem_of(
            await mailer.post("/tasks", data=json.dumps(body), headers=again), 422
        )
        assert engine.stored[0].id not in json.dumps(problem)
        response = await mailer.post(
            "/tasks/batch",
            data=json.dumps({"tasks": [body | {"idempotency_key": "k-1"}]}),
            headers=headers,
        )
        assert response.status_code == 207
        assert engine.stored[0].id not in (await response.get_data(as_text=True))


async def test_submitting_again_is_no_way_to_read(keys: Keys, engine: FakeEngine) -> None:
    writer = keys.add("writer", Role.SUBMIT) | {"Idempotency-Key": "k-1"}
    reader = keys.add("both", Role.SUBMIT, Role.READ) | {"Idempotency-Key": "k-1"}
    client = keys.client(engine)
    body = json.dumps(one())
    task = await body_of(await client.post("/tasks", data=body, headers=writer))
    engine.finish(task["id"], TaskStatus.COMPLETED, result="what came of it")

    again = await client.post("/tasks", data=body, headers=writer)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "what came of it" not in (await again.get_data(as_text=True))
    again = await client.post("/tasks", data=body, headers=reader)
    assert (await body_of(again))["result"] == "what came of it"
