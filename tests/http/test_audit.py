"""The audit log: a line for each change, on whose behalf, and what came of it."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.execution.log_format import JsonFormatter, TextFormatter
from task_queue_engine.http import create_app
from task_queue_engine.http.principal import Role
from task_queue_engine.task import TaskStatus
from tests.http.conftest import Serve, make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import JSON, Keys
from tests.http.test_submit import one
from tests.http.wire import get, post

AUDIT = "task_queue_engine.audit"


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "task_queue_engine")


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    found = [record for record in caplog.records if record.name == AUDIT]
    caplog.clear()
    return found


def only(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = lines(caplog)
    line: dict[str, Any] = json.loads(JsonFormatter().format(record))
    text = TextFormatter().format(record)
    assert "\n" not in text
    assert text.isascii()
    assert text.isprintable()
    assert f" audit: {line['action']} {line['outcome']} ({line['status']}) " in text
    assert f" key={line['key']} address={line['address']} " in text
    return line


@pytest.fixture
def admin(keys: Keys, engine: FakeEngine) -> TrioClient:
    keys.add("boss", Role.ADMIN)
    return keys.client(engine)


async def test_it_is_no_matter_of_the_log_level(
    keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    headers = keys.add("boss", Role.ADMIN)
    caplog.set_level(logging.ERROR, "task_queue_engine")
    caplog.handler.setLevel(logging.NOTSET)
    client = keys.client(engine)
    await client.delete("/dead-letters", headers=headers)
    assert len(lines(caplog)) == 1


async def test_each_change_has_a_line(
    admin: TrioClient, keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    headers = keys.headers("boss") | {"X-Request-Id": "r-1"}
    response = await admin.post("/tasks", data=json.dumps(one()), headers=headers)
    task_id = (await response.get_json())["id"]
    line = only(caplog)
    assert (
        line.items()
        >= {
            "logger": AUDIT,
            "level": "INFO",
            "action": "submit",
            "outcome": "done",
            "status": 201,
            "key": "boss",
            "task_ids": [task_id],
            "task_types": ["anything"],
            "request_id": "r-1",
            "path": "/tasks",
        }.items()
    )

    await admin.delete(f"/tasks/{task_id}", headers=headers)
    line = only(caplog)
    assert (line["action"], line["outcome"], line["task_ids"]) == ("cancel", "done", [task_id])
    await admin.delete(f"/tasks/{task_id}", headers=headers)
    assert (only(caplog))["status"] == 409
    await admin.post(f"/tasks/{task_id}/retry", headers=headers)
    line = only(caplog)
    assert (line["action"], line["task_types"]) == ("retry", ["anything"])

    engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))
    everything = json.dumps({"all": True})
    await admin.post("/dead-letters/redrive", data=everything, headers=headers)
    line = only(caplog)
    assert (line["action"], line["redriven"], line["skipped"]) == ("redrive", 1, 0)
    engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))
    await admin.delete("/dead-letters", headers=headers)
    line = only(caplog)
    assert (line["action"], line["purged"]) == ("purge", 1)


async def test_looking_has_none(
    admin: TrioClient, keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    task = engine.add()
    for path in ("/tasks", f"/tasks/{task.id}", "/metrics", "/dead-letters", "/nope", "/docs"):
        await admin.get(path, headers=keys.headers("boss"))
    await admin.get("/tasks")
    assert lines(caplog) == []


async def test_a_batch_is_found_by_each_of_its_ids(
    admin: TrioClient, keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"tasks": [one()] * 250 + [{"type": "nope", "payload": 1}]})
    await admin.post("/tasks/batch", data=body, headers=keys.headers("boss"))
    records = lines(caplog)
    assert len(records) == 3
    ids = [task_id for record in records for task_id in vars(record)["task_ids"]]
    assert sorted(ids) == sorted(task.id for task in engine.stored)
    assert {(vars(r)["accepted"], vars(r)["refused"]) for r in records} == {(250, 1)}
    assert all(len(record.getMessage()) < 16_000 for record in records)


async def test_what_a_key_may_not_do_has_one_too(
    keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    headers = keys.add("reader", Role.READ)
    task = engine.add()
    await keys.client(engine).delete(f"/tasks/{task.id}", headers=headers)
    line = only(caplog)
    assert (line["action"], line["outcome"], line["status"]) == ("cancel", "refused", 403)
    assert (line["key"], line["path"]) == ("reader", f"/tasks/{task.id}")


async def test_hostile_values_are_inert(
    admin: TrioClient, keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = "x key=boss\n2030-01-01 INFO audit: purge\x1b[2J\u202e"
    for method, path in (
        ("DELETE", f"/tasks/{quote(hostile)}"),
        ("POST", f"/tasks/{quote(hostile)}/retry"),
        ("DELETE", f"/tasks/{'%ff' * 200}"),
    ):
        await admin.open(path, method=method, headers=keys.headers("boss"))
        line = only(caplog)
        assert line["status"] == 404
        assert len(line["path"]) < 400
        assert " " not in line["path"]
    # As another program may have stored it.
    task = engine.add(hostile)
    await admin.delete(f"/tasks/{task.id}", headers=keys.headers("boss"))
    (record,) = lines(caplog)
    text = TextFormatter().format(record)
    assert (text.count(" key="), text.isprintable()) == (1, True)
    assert " type=x%20key%3Dboss%0A2030" in text


async def test_whose_address(keys: Keys, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    key = keys.add("boss", Role.ADMIN)["Authorization"]
    request = post("/tasks", one(), Authorization=key, X_Forwarded_For="192.0.2.7")
    for proxies, address in (((), "127.0.0.1"), (("127.0.0.1",), "192.0.2.7")):
        async with serve(keys_file=str(keys.path), trusted_proxies=proxies) as server:
            wire = await server.connect()
            await wire.send(request)
            assert (await wire.answer()).status == 201
        assert only(caplog)["address"] == address


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, None),
        ({"api_keys": ("k" * 32,)}, None),
        ({"api_keys": ("k" * 32,), "audit_log": True}, "TQE_API_KEYS[1]"),
        ({"audit_log": True}, "anyone"),
    ],
)
async def test_when_it_is_kept(
    engine: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    key: str | None,
) -> None:
    client = create_app(engine, make_settings(**settings)).test_client()
    headers = JSON | {"Authorization": f"Bearer {'k' * 32}"}
    response = await client.post("/tasks", data=json.dumps(one()), headers=headers)
    assert response.status_code == 201
    assert [vars(record)["key"] for record in lines(caplog)] == ([] if key is None else [key])


async def test_it_can_be_switched_off(
    keys: Keys, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    headers = keys.add("boss", Role.ADMIN)
    client = keys.client(engine, audit_log=False)
    await client.post("/tasks", data=json.dumps(one()), headers=headers)
    assert lines(caplog) == []


async def test_no_key_is_in_any_log(
    keys: Keys, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor its hash: at DEBUG, over a real socket, whatever comes of the request."""
    caplog.set_level(logging.DEBUG)
    unnamed = "an-unnamed-key-of-the-environment"
    keys.add("reader", Role.READ)
    secret = keys.secrets["reader"]
    async with serve(
        keys_file=str(keys.path), api_keys=(unnamed,), rate_limit_per_key=0.3
    ) as server:
        wire = await server.connect()
        statuses = set()
        for key in (secret, unnamed, secret + "x"):
            for request in (
                get("/tasks", Authorization=f"Bearer {key}"),
                get(f"/tasks/{key}", Authorization=f"Basic {key}"),
                post("/tasks", one(), Authorization=f"Bearer {key}"),
                post("/tasks", b"{", Authorization=f"Bearer {key}"),
                get("/tasks?wrong=1", Authorization=f"Bearer {key}"),
            ):
                await wire.send(request)
                statuses.add((await wire.answer()).status)
        assert statuses >= {200, 201, 401, 403, 429}
        keys.path.write_text(keys.path.read_text() + f"[keys.x]\nsha256 = '{secret}'\n")
    formatter = JsonFormatter()
    text = "\n".join(formatter.format(record) for record in caplog.records)
    assert "submit" in text
    digest = keys.path.read_text().partition('sha256 = "')[2][:64]
    for material in (secret[4:], unnamed, digest):
        assert material not in text.replace(f"/tasks/{secret}", "").replace(f"/tasks/{unnamed}", "")
