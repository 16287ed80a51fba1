"""Looking up, listing, waiting, cancelling, retrying."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio
from quart_trio.testing import TrioClient

from task_queue_engine.attempt_record import AttemptRecord
from task_queue_engine.http.app import state_of
from task_queue_engine.task import TaskStatus
from tests.http.fakes import FakeEngine
from tests.http.test_submit import problem_of


async def body_of(response: Any) -> Any:
    return json.loads(await response.get_data())


NOT_IDS = [
    "5",
    "nope",
    "%00",
    "%FF",
    "%F0%9F%98%80",
    "..%2f..%2fetc",
    "0" * 3000,
    "{8f1b8e0a-5d0c-4a53-9f6e-2f1f6e0d7c11}",
    "8f1b8e0a5d0c4a539f6e2f1f6e0d7c11",
]


class TestGet:
    async def test_a_task(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add(payload={"a": [1]})

        response = await client.get(f"/tasks/{task.id}")

        assert response.status_code == 200
        shown = await body_of(response)
        assert shown["id"] == task.id
        assert set(shown) == set(task.__struct_fields__) - {"trace_context"}  # it is of no trace

    async def test_ids_are_not_case_sensitive(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add()

        assert (await client.get(f"/tasks/{task.id.upper()}")).status_code == 200

    async def test_unknown(self, client: TrioClient) -> None:
        task_id = str(uuid.uuid4())

        problem = await problem_of(await client.get(f"/tasks/{task_id}"), 404)

        assert problem["type"] == "/docs#task-not-found"
        assert problem["task_id"] == task_id

    @pytest.mark.parametrize("task_id", NOT_IDS)
    async def test_not_an_id(self, client: TrioClient, task_id: str) -> None:
        await problem_of(await client.get(f"/tasks/{task_id}"), 404)
        await problem_of(await client.delete(f"/tasks/{task_id}"), 404)
        await problem_of(await client.post(f"/tasks/{task_id}/retry"), 404)


class TestAttempts:
    async def test_of_a_task(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add(attempt=3, worker="host:1")
        engine.finish(task.id, TaskStatus.COMPLETED, started_at=task.created_at, progress=1)
        response = await client.get(f"/tasks/{task.id.upper()}/attempts")
        assert response.status_code == 200
        shown = await body_of(response)
        assert shown.keys() == {"attempts", "omitted"}
        assert shown["omitted"] == 2
        (attempt,) = shown["attempts"]
        assert set(attempt) == set(AttemptRecord.__struct_fields__)
        assert (attempt["number"], attempt["outcome"]) == (3, "succeeded")
        assert (attempt["worker"], attempt["progress"]) == ("host:1", 1)

    async def test_of_one_that_has_not_started(
        self, client: TrioClient, engine: FakeEngine
    ) -> None:
        response = await client.get(f"/tasks/{engine.add().id}/attempts")
        assert await body_of(response) == {"attempts": [], "omitted": 0}

    @pytest.mark.parametrize("task_id", ["00000000-0000-7000-8000-000000000000", *NOT_IDS])
    async def test_unknown(self, client: TrioClient, task_id: str) -> None:
        await problem_of(await client.get(f"/tasks/{task_id}/attempts"), 404)

    async def test_it_is_read_only(self, client: TrioClient, engine: FakeEngine) -> None:
        response = await client.post(f"/tasks/{engine.add().id}/attempts")
        await problem_of(response, 405)


class TestWait:
    async def test_answers_when_the_task_ends(
        self, autojump_clock: Any, client: TrioClient, engine: FakeEngine
    ) -> None:
        task = engine.add()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                await trio.sleep(7)
                engine.finish(task.id, TaskStatus.COMPLETED, result="done")

            nursery.start_soon(work)
            response = await client.get(f"/tasks/{task.id}?wait=60")

        assert trio.current_time() - started == pytest.approx(7)
        assert (await body_of(response))["result"] == "done"

    async def test_answers_with_the_task_as_it_is_when_time_is_up(
        self, autojump_clock: Any, client: TrioClient, engine: FakeEngine
    ) -> None:
        task = engine.add()
        started = trio.current_time()

        response = await client.get(f"/tasks/{task.id}?wait=60")

        assert trio.current_time() - started == pytest.approx(60)
        assert (response.status_code, (await body_of(response))["status"]) == (200, "PENDING")

    async def test_answers_early_when_the_server_goes_away(
        self, autojump_clock: Any, app: QuartTrio, engine: FakeEngine
    ) -> None:
        task = engine.add()
        state = state_of(app)
        assert state is not None
        started = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def go_away() -> None:
                await trio.sleep(2)
                state.drain()

            nursery.start_soon(go_away)
            response = await app.test_client().get(f"/tasks/{task.id}?wait=60")
            later = await app.test_client().get(f"/tasks/{task.id}?wait=60")

        assert trio.current_time() - started == pytest.approx(2)
        assert (await body_of(response))["status"] == "PENDING"
        assert later.status_code == 200

    async def test_of_an_unknown_task(self, client: TrioClient) -> None:
        await problem_of(await client.get(f"/tasks/{uuid.uuid4()}?wait=60"), 404)

    @pytest.mark.parametrize("wait", ["-1", "61", "1e1", "nan", "", "5s", "1" * 400, "٣"])
    async def test_for_nonsense(self, client: TrioClient, engine: FakeEngine, wait: str) -> None:
        response = await client.get(f"/tasks/{engine.add().id}", query_string={"wait": wait})

        problem = await problem_of(response, 400)
        assert problem["field"] == "wait"
        assert "0 to 60" in problem["error"]


class TestList:
    async def test_pages(self, client: TrioClient, engine: FakeEngine) -> None:
        ids = [engine.add(payload=n).id for n in range(5)]

        first = await body_of(await client.get("/tasks?limit=3"))
        second = await body_of(await client.get(f"/tasks?limit=3&cursor={first['next_cursor']}"))

        assert [task["id"] for task in first["tasks"] + second["tasks"]] == ids[::-1]
        assert second["next_cursor"] is None

    async def test_filters(self, client: TrioClient, engine: FakeEngine) -> None:
        wanted = engine.add("email", status=TaskStatus.FAILED)
        engine.add("email")
        engine.add("anything", status=TaskStatus.FAILED)

        page = await body_of(await client.get("/tasks?status=failed&type=email"))

        assert [task["id"] for task in page["tasks"]] == [wanted.id]

    async def test_empty(self, client: TrioClient) -> None:
        assert await body_of(await client.get("/tasks")) == {"tasks": [], "next_cursor": None}

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("status=DONE", "status"),
            ("status=", "status"),
            ("stauts=FAILED", "stauts"),
            ("status=FAILED&status=PENDING", "status"),
            ("type=", "type"),
            ("type=" + "x" * 129, "type"),
            ("queue=", "queue"),
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=1.5", "limit"),
            ("limit=%D9%A3", "limit"),
            ("limit=" + "9" * 5000, "limit"),
            ("cursor=", "cursor"),
            ("cursor=nonsense", "cursor"),
            ("cursor=%00", "cursor"),
            ("cursor=" + "x" * 5000, "cursor"),
        ],
    )
    async def test_bad_queries(self, client: TrioClient, query: str, field: str) -> None:
        problem = await problem_of(await client.get(f"/tasks?{query}"), 400)

        assert problem["field"] == field


class TestCancel:
    async def test_before_it_starts(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add()

        response = await client.delete(f"/tasks/{task.id}")

        assert response.status_code == 200
        assert (await body_of(response))["status"] == "CANCELLED"

    async def test_while_it_runs(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.PROCESSING)

        response = await client.delete(f"/tasks/{task.id}")

        assert response.status_code == 202
        shown = await body_of(response)
        assert (shown["status"], shown["cancel_requested"]) == ("PROCESSING", True)

    @pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
    async def test_too_late(self, client: TrioClient, engine: FakeEngine, status: str) -> None:
        task = engine.add(status=TaskStatus(status))

        problem = await problem_of(await client.delete(f"/tasks/{task.id}"), 409)

        assert problem["type"] == "/docs#wrong-state"
        assert status in problem["error"]

    async def test_unknown(self, client: TrioClient) -> None:
        await problem_of(await client.delete(f"/tasks/{uuid.uuid4()}"), 404)


class TestRetry:
    async def test_a_failed_task(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.FAILED, retry_count=3)

        response = await client.post(f"/tasks/{task.id}/retry")

        assert response.status_code == 200
        shown = await body_of(response)
        assert (shown["status"], shown["retry_count"]) == ("PENDING", 0)

    async def test_a_completed_one(self, client: TrioClient, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.COMPLETED)

        await problem_of(await client.post(f"/tasks/{task.id}/retry"), 409)
