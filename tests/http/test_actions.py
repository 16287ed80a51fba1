"""POST /tasks/actions and POST /tasks/{id}/delete, in front of a real engine."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from quart_trio.testing import TrioClient
from trio.testing import MockClock

from task_queue_engine import Engine
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.http import create_app
from task_queue_engine.http.principal import Role
from tests.engine.engines import running
from tests.engine.test_actions import failed, quiet_types, submitted
from tests.http.conftest import make_settings
from tests.http.keys import JSON, Keys
from tests.http.test_submit import problem_of


@pytest.fixture
async def real(autojump_clock: MockClock) -> AsyncIterator[Engine]:
    async with running(quiet_types(), MemoryBackend(clock=TrioClock())) as engine:
        yield engine


@pytest.fixture
def api(real: Engine) -> TrioClient:
    return create_app(real, make_settings()).test_client()


async def act(client: TrioClient, headers: dict[str, str] = JSON, **body: Any) -> Any:
    await trio.sleep(0.01)
    return await client.post("/tasks/actions", data=json.dumps(body), headers=JSON | headers)


async def result(engine: Engine, response: Any) -> Any:
    assert response.status_code == 202, await response.get_data()
    task = json.loads(await response.get_data())
    assert response.headers["Location"] == f"/tasks/{task['id']}"
    return await engine.result(task["id"], timeout=600)


async def test_dry_run_then_the_action_then_its_undo(real: Engine, api: TrioClient) -> None:
    await submitted(real, 3)
    await submitted(real, 1, "other")
    which = {"type": "later", "status": "PENDING"}

    response = await act(api, action="cancel", filter=which, dry_run=True)
    assert response.status_code == 200
    assert json.loads(await response.get_data()) == {"matching": 3, "at_least": False}

    response = await act(api, action="cancel", filter=which)
    said = await result(real, response)
    assert (said["done"], said["failed"], said["skipped"], said["of"]) == (3, 0, 0, 3)

    action_id = json.loads(await response.get_data())["id"]
    assert (await result(real, await act(api, undo_of=action_id)))["done"] == 3


async def test_a_filter_that_matches_nothing_says_so(real: Engine, api: TrioClient) -> None:
    response = await act(api, action="retry", filter={})
    assert response.status_code == 200
    assert json.loads(await response.get_data()) == {"matching": 0, "at_least": False}


async def test_a_request_sent_twice_is_one_action(real: Engine, api: TrioClient) -> None:
    """Also when there is nothing left to do for the second."""
    await submitted(real, 2)
    headers = {"Idempotency-Key": "again"}
    first = await act(api, headers, action="cancel", filter={})
    await result(real, first)
    second = await act(api, headers, action="cancel", filter={})
    assert second.status_code == 202
    assert second.headers["Location"] == first.headers["Location"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"filter": {}}, "action"),
        ({"action": "explode", "filter": {}}, "action"),
        ({"action": "cancel"}, "filter"),
        ({"action": "cancel", "filter": {"stauts": "FAILED"}}, "filter.stauts"),
        ({"action": "cancel", "filter": {"status": "failed"}}, "filter.status"),
        ({"action": "cancel", "filter": {"created_after": "yesterday"}}, "filter.created_after"),
        (
            {"action": "cancel", "filter": {"created_after": "2030-01-01T00:00:00"}},
            "filter.created_after",
        ),
        ({"action": "cancel", "filter": {"id": "ID"}}, "filter.id"),
        ({"action": "cancel", "filter": {"error": ""}}, "filter.error"),
        ({"action": "cancel", "filter": {"type": ""}}, "filter.type"),
        ({"action": "cancel", "filter": {"queue": "x" * 129}}, "filter.queue"),
        ({"action": "cancel", "filter": [1]}, "filter"),
        ({"action": "cancel", "filter": {"type": "x"}, "ids": ["x"]}, "ids"),
        ({"action": "cancel", "ids": ["x"]}, "ids[0]"),
        ({"action": "cancel", "ids": []}, "ids"),
        ({"action": "cancel", "ids": 1}, "ids"),
        ({"action": "cancel", "filter": {}, "types": ["x"]}, "types"),
        ({"action": "cancel", "filter": {}, "everything": True}, "everything"),
        ({"action": "cancel", "filter": {}, "dry_run": 1}, "dry_run"),
        ({"undo_of": "x"}, "undo_of"),
        ({"undo_of": "x", "action": "retry"}, "undo_of"),
    ],
)
async def test_bad_input_is_refused_by_name(
    api: TrioClient, body: dict[str, Any], field: str
) -> None:
    problem = await problem_of(await act(api, **body), 400)
    assert problem["field"] == field


async def test_delete_of_one(real: Engine, api: TrioClient) -> None:
    (waiting,) = await submitted(real, 1)
    await problem_of(await api.post(f"/tasks/{waiting}/delete"), 409)
    await real.cancel(waiting)
    assert (await api.post(f"/tasks/{waiting}/delete")).status_code == 204
    await problem_of(await api.post(f"/tasks/{waiting}/delete"), 404)


async def test_lists_by_every_filter(real: Engine, api: TrioClient) -> None:
    ids = await failed(real, 1)
    ids.append((await real.submit("fails", 1)).id)  # later
    await real.wait(ids[1], timeout=60)
    await submitted(real, 1)
    moment = (await real.get(ids[1])).created_at.isoformat()

    async def listed(**query: str) -> list[str]:
        response = await api.get(f"/tasks?{urlencode(query)}")
        assert response.status_code == 200, await response.get_data()
        return [task["id"] for task in json.loads(await response.get_data())["tasks"]]

    assert await listed(error="ROUTE to 1") == [ids[1]]
    assert await listed(id=ids[0].upper()) == [ids[0]]
    assert await listed(type="fails", created_after=moment) == [ids[1]]
    assert await listed(type="fails", created_before=moment) == [ids[0]]
    assert await listed(queue="nowhere") == []
    for query, field in (
        ("created_after=2030", "created_after"),
        ("created_before=2030-01-01T00:00:00", "created_before"),
        ("id=x", "id"),
        ("error=", "error"),
        ("eror=x", "eror"),
    ):
        assert (await problem_of(await api.get(f"/tasks?{query}"), 400))["field"] == field


# --- who may --------------------------------------------------------------------------------


async def test_it_needs_the_role_operate(real: Engine, keys: Keys) -> None:
    for role in (Role.READ, Role.SUBMIT):
        headers = keys.add(f"only-{role}", role)
        response = await act(keys.client(real), headers, action="delete", filter={})
        assert (await problem_of(response, 403))["missing_role"] == "operate"
        response = await keys.client(real).post(f"/tasks/{'0' * 8}/delete", headers=headers)
        await problem_of(response, 403)


async def test_no_one_submits_an_action_past_it(real: Engine, keys: Keys) -> None:
    headers = keys.add("boss", Role.ADMIN)
    body = {"type": "tqe.bulk", "payload": {"action": "delete", "filter": {}}}
    response = await keys.client(real).post("/tasks", data=json.dumps(body), headers=JSON | headers)
    await problem_of(response, 422)


async def test_a_key_of_some_types_acts_on_those_only(
    real: Engine, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "task_queue_engine.audit")
    mine, others = await submitted(real, 2), await submitted(real, 2, "other")
    boss = keys.add("boss", Role.ADMIN)
    headers = keys.add("shop", Role.OPERATE, Role.READ, types=("later", "fails"))
    client = keys.client(real)

    await problem_of(await act(client, headers, action="cancel", filter={}), 403)
    await problem_of(await act(client, headers, action="cancel", filter={"type": "other"}), 403)
    response = await act(client, headers, action="cancel", ids=[mine[0], others[0]])
    said = await result(real, response)
    assert (said["done"], said["skipped"]) == (1, 1)

    path = response.headers["Location"]
    assert (await client.get(path, headers=headers)).status_code == 200, "it may look at its own"
    response = await act(client, headers, undo_of=path.removeprefix("/tasks/"))
    assert (await result(real, response))["done"] == 1

    response = await act(client, boss, action="cancel", filter={})
    await problem_of(await client.get(response.headers["Location"], headers=headers), 403)

    records = [r for r in caplog.records if r.name == "task_queue_engine.audit"]
    assert [(r.action, r.key, r.matching) for r in records if r.status == 202] == [
        ("cancel-many", "shop", 2),
        ("retry-many", "shop", 1),
        ("cancel-many", "boss", 3),
    ]
