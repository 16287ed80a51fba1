from __future__ import annotations

import json
from typing import Any

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.task import TaskStatus
from tests.http.fakes import FakeEngine
from tests.http.test_submit import JSON, problem_of
from tests.http.test_tasks import body_of

PATH = "/dead-letters"
DONE = {"redriven": 0, "skipped": 0, "refused": 0, "not_found": 0, "remaining": 0}


@pytest.fixture
def dead_letter_ids(engine: FakeEngine) -> list[str]:
    tasks = [engine.add(status=TaskStatus.FAILED) for _ in range(3)]
    return [engine.add_dead_letter(task).id for task in tasks]


async def redrive(client: TrioClient, body: Any) -> Any:
    return await client.post(f"{PATH}/redrive", data=json.dumps(body).encode(), headers=JSON)


async def test_list(client: TrioClient, engine: FakeEngine, dead_letter_ids: list[str]) -> None:
    first = await body_of(await client.get(f"{PATH}?limit=2"))
    second = await body_of(await client.get(f"{PATH}?limit=2&cursor={first['next_cursor']}"))

    shown = first["dead_letters"] + second["dead_letters"]
    assert [one["id"] for one in shown] == dead_letter_ids
    assert shown[0]["reason"] == "attempts exhausted"
    assert "receipt" not in shown[0], "a lease on the queue is not for clients"
    assert second["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "cursor=nonsense", "status=FAILED"])
async def test_bad_queries(client: TrioClient, query: str) -> None:
    await problem_of(await client.get(f"{PATH}?{query}"), 400)


async def test_redrive_some(
    client: TrioClient, engine: FakeEngine, dead_letter_ids: list[str]
) -> None:
    answer = await body_of(await redrive(client, {"ids": [dead_letter_ids[0], "gone"]}))

    assert answer == DONE | {"redriven": 1, "not_found": 1}
    assert [one.id for one in engine.dead_letters] == dead_letter_ids[1:]
    assert sum(task.status is TaskStatus.PENDING for task in engine.stored) == 1


async def test_redrive_all(
    client: TrioClient, engine: FakeEngine, dead_letter_ids: list[str]
) -> None:
    answer = await body_of(await redrive(client, {"all": True}))

    assert answer == DONE | {"redriven": 3}
    assert engine.dead_letters == []


async def test_a_redrive_that_takes_long_says_what_remains(
    client: TrioClient, engine: FakeEngine, dead_letter_ids: list[str]
) -> None:
    engine.is_slow = True
    answer = await body_of(await redrive(client, {"all": True}))
    assert answer == DONE | {"redriven": 1, "remaining": 2}
    answer = await body_of(await redrive(client, {"all": True, "limit": 1}))
    assert answer == DONE | {"redriven": 1}
    assert len(engine.dead_letters) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": False},
        {"all": True, "ids": ["a"]},
        {"ids": []},
        {"ids": [5]},
        {"id": "a"},
        {"all": True, "limit": 0},
        {"ids": ["a"], "limit": 1},
    ],
)
async def test_redrive_what(
    client: TrioClient, engine: FakeEngine, dead_letter_ids: list[str], body: Any
) -> None:
    await problem_of(await redrive(client, body), 422)

    assert len(engine.dead_letters) == 3


async def test_redrive_needs_json(client: TrioClient, dead_letter_ids: list[str]) -> None:
    await problem_of(await client.post(f"{PATH}/redrive", data=b'{"all": true}'), 415)


async def test_purge(client: TrioClient, engine: FakeEngine, dead_letter_ids: list[str]) -> None:
    assert await body_of(await client.delete(PATH)) == {"purged": 3}
    assert engine.dead_letters == []
    assert len(engine.stored) == 3
