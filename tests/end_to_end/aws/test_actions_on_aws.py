"""Actions on many tasks, on SQS and DynamoDB."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.cli.runner import TIMEOUT, Api, eventually, request
from tests.end_to_end.aws.environment import Environment, through
from tests.end_to_end.aws.faults import Document, Trouble
from tests.sizes import size

NUMBER = size(400, in_full=600)
"""Four pieces or more: most are left when the kill comes."""


def act(server: Api, **body: Any) -> dict[str, Any]:
    answer = request("POST", f"{server.url}/tasks/actions", json=body)
    assert answer.status_code == 202, answer.text
    task: dict[str, Any] = answer.json()
    return task


def look(server: Api, task_id: str, wait: float = 0) -> dict[str, Any]:
    answer = request("GET", f"{server.url}/tasks/{task_id}", params={"wait": wait} if wait else {})
    task: dict[str, Any] = answer.json()
    return task


def result(server: Api, task: dict[str, Any]) -> dict[str, Any]:
    over = look(server, task["id"], wait=25)
    assert over["status"] == "COMPLETED", over
    said: dict[str, Any] = over["result"]
    return {name: said[name] for name in ("done", "failed", "skipped", "of")}


def all_of(number: int) -> dict[str, int]:
    return {"done": number, "failed": 0, "skipped": 0, "of": number}


def test_kill_in_the_middle_of_an_action_and_its_undo(environment: Environment) -> None:
    shop = {"TQE_APP": "shop:tasks"}
    with environment.embedded(consume=False) as api:
        tasks = [{"type": "echo", "payload": n, "delay_seconds": 3600} for n in range(NUMBER)]
        answer = request("POST", f"{api.url}/tasks/batch", json={"tasks": tasks})
        assert answer.status_code == 201
        action = act(api, action="cancel", filter={"type": "echo"})
        cancels = 0

        def is_beyond_the_middle(_: str, parameters: Document) -> bool:
            nonlocal cancels
            cancels += json.dumps(parameters).count('"CANCELLED"')
            return cancels > NUMBER // 2

        trouble = Trouble(hold=is_beyond_the_middle)
        with (
            through(environment, dynamodb=trouble) as troubled,
            troubled.serve("worker", **shop) as server,
        ):
            assert trouble.held.wait(TIMEOUT)
            server.signal(signal.SIGKILL)
            server.wait()
        assert look(api, action["id"])["status"] == "PROCESSING"
        statuses = [item["status"]["S"] for item in environment.items()]
        assert 0 < statuses.count("CANCELLED") < NUMBER, "this is to be a kill in the middle"
    with environment.embedded() as server_:
        assert result(server_, action) == all_of(NUMBER)
        assert [each["status"]["S"] for each in environment.items()].count("PENDING") == 0
        undo = act(server_, undo_of=action["id"])
        assert result(server_, undo) == all_of(NUMBER)
        answer = request("GET", f"{server_.url}/tasks", params={"status": "CANCELLED"})
        assert answer.json()["tasks"] == []


def test_redrive_and_delete_by_filter(environment: Environment) -> None:
    with environment.embedded() as server:
        for reason in ("no stock", "no stock", "no road"):
            body = {"type": "fail", "payload": reason}
            task = request("POST", f"{server.url}/tasks", json=body).json()
            assert look(server, task["id"], wait=20)["status"] == "FAILED"
        eventually(lambda: len(environment.dead_letters()) == 3)

        which = {"error": "NO STOCK"}
        assert result(server, act(server, action="redrive", filter=which)) == all_of(2)
        failed = {"type": "fail", "status": "FAILED"}
        url = f"{server.url}/tasks"

        def listed() -> list[dict[str, Any]]:
            return list(request("GET", url, params=failed).json()["tasks"])

        eventually(lambda: sorted(task["attempt"] for task in listed()) == [1, 2, 2])

        assert result(server, act(server, action="delete", filter=failed)) == all_of(3)
        assert listed() == []
        assert all(json.dumps(item["type"]) == '{"S": "tqe.bulk"}' for item in environment.items())
