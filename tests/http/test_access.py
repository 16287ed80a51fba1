"""Which requests are let in: API keys, and what web pages may not do."""

from __future__ import annotations

import json

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.http import create_app
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.test_submit import JSON, one, problem_of

KEY, OTHER = "k" * 32, "another-key-of-the-server"
BODY = json.dumps(one()).encode()


@pytest.fixture
def locked(engine: FakeEngine) -> TrioClient:
    return create_app(engine, make_settings(api_keys=(KEY, OTHER))).test_client()


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_every_key_opens(
    locked: TrioClient, engine: FakeEngine, key: str, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} {key}"}

    assert (await locked.get("/tasks", headers=headers)).status_code == 200
    assert (await locked.get("/metrics", headers=headers)).status_code == 200
    response = await locked.post("/tasks", data=BODY, headers=JSON | headers)
    assert response.status_code == 201
    assert len(engine.stored) == 1


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY.upper()}",
        f"Basic {KEY}",
        KEY,
        "Bearer sch\xfcssel",
    ],
)
@pytest.mark.parametrize("path", ["/tasks", "/metrics", "/scale", "/dead-letters", "/nothing-here"])
async def test_nothing_else_does(locked: TrioClient, authorization: str | None, path: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    response = await locked.get(path, headers=headers)

    problem = await problem_of(response, 401)
    assert problem["field"] == "Authorization"
    assert response.headers["WWW-Authenticate"].startswith('Bearer realm="')
    assert KEY not in problem["error"]


async def test_nothing_is_stored_without_a_key(locked: TrioClient, engine: FakeEngine) -> None:
    await problem_of(await locked.post("/tasks", data=BODY, headers=JSON), 401)
    await problem_of(await locked.post("/tasks/batch", data=BODY, headers=JSON), 401)

    assert engine.stored == []


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json"])
async def test_open_without_a_key(locked: TrioClient, path: str) -> None:
    assert (await locked.get(path)).status_code == 200


class TestPagesOfOtherSites:
    """A server without keys, on loopback."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:9999"},
            {"Origin": "http://localhost.evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ],
    )
    async def test_are_refused(
        self, client: TrioClient, engine: FakeEngine, headers: dict[str, str]
    ) -> None:
        task = engine.add()
        response = await client.post("/tasks", data=BODY, headers=JSON | headers)
        await problem_of(response, 403)
        # This one needs no content type, so a form on any page could send it.
        await problem_of(await client.post(f"/tasks/{task.id}/retry", headers=headers), 403)
        await problem_of(await client.get("/tasks", headers=headers), 403)

        assert engine.stored == [task]

    async def test_a_page_of_ours_is_not(self, client: TrioClient) -> None:
        headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}

        assert (await client.post("/tasks", data=BODY, headers=JSON | headers)).status_code == 201

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1"]
    )
    async def test_cannot_rebind_their_name(
        self, client: TrioClient, engine: FakeEngine, host: str
    ) -> None:
        headers = JSON | {"Host": host, "Origin": f"http://{host}"}

        problem = await problem_of(await client.post("/tasks", data=BODY, headers=headers), 421)

        assert problem["field"] == "Host"
        assert engine.stored == []

    @pytest.mark.parametrize(
        "host",
        ["localhost:8080", "LOCALHOST", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"],
    )
    async def test_our_names(self, client: TrioClient, host: str) -> None:
        assert (await client.get("/tasks", headers={"Host": host})).status_code == 200

    async def test_with_keys_any_name_will_do(self, locked: TrioClient) -> None:
        """Behind a proxy the host is the proxy's; and no page can send the key by itself."""
        headers = {"Authorization": f"Bearer {KEY}", "Host": "api.example.com"}

        assert (await locked.get("/tasks", headers=headers)).status_code == 200

    async def test_not_on_loopback_the_name_is_not_known(self, engine: FakeEngine) -> None:
        settings = make_settings(host="0.0.0.0", allow_public_without_keys=True)
        client = create_app(engine, settings).test_client()

        assert (await client.get("/tasks", headers={"Host": "intranet"})).status_code == 200
        headers = {"Host": "intranet", "Origin": "http://evil.example"}
        await problem_of(await client.get("/tasks", headers=headers), 403)
