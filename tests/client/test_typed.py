"""What a client knows of the task types of its program."""

from __future__ import annotations

import asyncio
import inspect
import json
from dataclasses import dataclass

import httpx
import msgspec
import pydantic
import pytest

from task_queue_engine import InvalidTask, Submission, TaskRegistry
from task_queue_engine.client import AsyncClient, Client
from task_queue_engine.client.handle import SyncTaskHandle
from task_queue_engine.engine.api import TaskApi, TaskHandle
from task_queue_engine.errors import UnknownTaskType
from task_queue_engine.task import TaskStatus
from tests.client.test_retries import NOW, task

tasks = TaskRegistry()


@dataclass
class Order:
    number: int


class Mail(pydantic.BaseModel):
    to: str = pydantic.Field(alias="recipient")


@tasks.task("ship")
def ship(order: Order) -> Order:
    raise NotImplementedError("for a worker")


@tasks.task("mail", aliases=["old-mail"])
async def mail(payload: Mail) -> Mail:
    raise NotImplementedError("for a worker")


def answering(result: object, sent: list[dict[str, object]]) -> httpx.MockTransport:
    """A server that has any task done at once."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.content:
            sent.append(json.loads(request.content))
        done = msgspec.structs.replace(
            task(TaskStatus.COMPLETED), type=sent[-1]["type"], result=result, finished_at=NOW
        )
        return httpx.Response(200, content=msgspec.json.encode(done))

    return httpx.MockTransport(answer)


def test_a_function_stands_for_its_type() -> None:
    sent: list[dict[str, object]] = []
    with Client("http://x", tasks=tasks, transport=answering({"number": 2}, sent)) as client:
        assert client.submit(ship, Order(1)).result() == Order(2)
    assert sent == [{"type": "ship", "payload": {"number": 1}}]


def test_on_an_event_loop_too() -> None:
    sent: list[dict[str, object]] = []

    async def submit() -> Mail:
        transport = answering({"recipient": "b"}, sent)
        async with AsyncClient("http://x", tasks=tasks, transport=transport) as client:
            return await (await client.submit(mail, Mail(recipient="a"))).result()

    assert asyncio.run(submit()) == Mail(recipient="b")
    assert sent == [{"type": "mail", "payload": {"recipient": "a"}}]


def test_a_payload_is_checked_before_it_is_sent() -> None:
    with Client("http://x", tasks=tasks, transport=answering(None, [])) as client:
        with pytest.raises(InvalidTask) as caught:
            client.submit(ship, {"number": "one"})
        assert caught.value.field == "payload.number"
        with pytest.raises(InvalidTask):
            client.submit_task(Submission(task=ship, payload={}))


def test_by_its_name_the_payload_is_the_server_s_to_judge() -> None:
    """It may know a newer version of the type."""
    sent: list[dict[str, object]] = []
    with Client("http://x", tasks=tasks, transport=answering({"number": 3}, sent)) as client:
        assert client.submit("ship", {"number": "new"}).result() == Order(3)
        # What was not returned as it is annotated is returned all the same.
    with Client("http://x", tasks=tasks, transport=answering("a text", sent)) as client:
        assert client.submit("ship", {"number": 1}).result() == "a text"
        assert client.submit("unheard-of", 1).result() == "a text"


@pytest.mark.parametrize(
    ("registry", "error"), [(None, InvalidTask), (TaskRegistry(), UnknownTaskType)]
)
def test_a_function_that_is_in_no_registry(
    registry: TaskRegistry | None, error: type[InvalidTask]
) -> None:
    transport = answering(None, [])
    with (
        Client("http://x", tasks=registry, transport=transport) as client,
        pytest.raises(error) as caught,
    ):
        client.submit(ship, Order(1))
    assert caught.value.field == "type"


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("plain", "on_a_loop", "renamed"),
    [
        (Client, AsyncClient, {"close": "aclose"}),
        (SyncTaskHandle, TaskHandle, {}),
    ],
)
def test_both_have_the_same_methods_with_the_same_arguments(
    plain: type, on_a_loop: type, renamed: dict[str, str]
) -> None:
    ours = {renamed.get(name, name): one.parameters for name, one in public(plain).items()}
    theirs = {name: one.parameters for name, one in public(on_a_loop).items()}
    assert ours == theirs


def test_they_have_those_of_an_engine() -> None:
    assert set(public(TaskApi)) <= set(public(Client))
