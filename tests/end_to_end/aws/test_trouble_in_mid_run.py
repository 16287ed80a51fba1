"""Trouble between a running engine and AWS: /ready turns red and says why, work waits, nothing
is lost or half done, and all goes on by itself when it is over."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from local_aws.servers import LocalServer
from task_queue_engine import Engine, Settings, Task, TaskRegistry, TaskStatus
from task_queue_engine.backends.aws.dynamodb import store
from task_queue_engine.backends.aws.dynamodb.schema import create_table_parameters
from task_queue_engine.backends.aws.sqs import queue_client, receive_watermark
from task_queue_engine.backends.aws.wire import credentials
from task_queue_engine.backends.base import ListQuery
from task_queue_engine.errors import BackendUnavailable
from tests.backends.aws.dynamodb.tables import few_requests, open_client, patience
from tests.backends.aws.fake_aws import dynamodb_error, sqs_error
from tests.backends.aws.fault_proxy import Fault, FaultProxy, fault_proxy, no_fault
from tests.backends.aws.sqs.queues import make_queue
from tests.backends.aws.wire.canned import Answer, answer

pytestmark = pytest.mark.usefixtures("bare_environment")

TIMEOUT = 20.0
"""Seconds until a test calls it broken."""

# As they are: where a test is not about them they are longer.
REQUEST_TIMEOUT, CALL_TIMEOUT = store._REQUEST_TIMEOUT, queue_client.CALL_TIMEOUT


@dataclass
class TroubledEnvironment:
    sqs: FaultProxy
    dynamodb: FaultProxy
    settings: Settings
    servers: tuple[LocalServer, LocalServer]
    runs: Counter[str] = field(default_factory=Counter)
    """How often the handler was begun, by payload."""
    go_on: trio.Event = field(default_factory=trio.Event)

    def inject(self, sqs: Fault, dynamodb: Fault) -> None:
        self.sqs.inject(sqs)
        self.dynamodb.inject(dynamodb)

    @property
    def tasks(self) -> TaskRegistry:
        registry = TaskRegistry()

        @registry.task("note")
        async def note(payload: str) -> str:
            self.runs[payload] += 1
            return payload

        @registry.task("wait")
        async def wait(payload: str) -> str:
            self.runs[payload] += 1
            await self.go_on.wait()
            return payload

        return registry

    @asynccontextmanager
    async def running(self, **values: Any) -> AsyncIterator[Engine]:
        settings = self.settings.model_copy(update=values)
        engine = Engine(self.tasks, settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            await engine.stop()


@asynccontextmanager
async def troubled_environment(
    elasticmq: LocalServer, dynamodb_local: LocalServer, monkeypatch: Any
) -> AsyncIterator[TroubledEnvironment]:
    name = f"trouble-{secrets.token_hex(5)}"
    sqs_client, dynamodb_client = open_client(elasticmq), open_client(dynamodb_local)
    async with sqs_client.open(), dynamodb_client.open():
        urls = await make_queue(sqs_client, name, max_receives=3)
        await dynamodb_client.call("dynamodb", "CreateTable", create_table_parameters(name))
        async with (
            fault_proxy(elasticmq) as sqs_proxy,
            fault_proxy(dynamodb_local) as dynamodb_proxy,
        ):
            key, secret = elasticmq.credentials
            for variable, value in {
                "AWS_REGION": elasticmq.region,
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_ENDPOINT_URL_SQS": sqs_proxy.url,
                "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_proxy.url,
            }.items():
                monkeypatch.setenv(variable, value)
            settings = Settings(
                _env_file=None,
                sqs_queue_url=urls.queue,
                sqs_dlq_url=urls.dead,
                dynamodb_table=name,
                poll_wait=1,
                visibility_timeout=5.0,
                cancel_poll=0.3,
                metrics_interval=0.3,
                reconcile_interval=0.5,
                shutdown_grace=0.0,
                shutdown_flush=2.0,
            )
            with few_requests(checks=True), trio.fail_after(60):
                yield TroubledEnvironment(
                    sqs_proxy, dynamodb_proxy, settings, (elasticmq, dynamodb_local)
                )


@pytest.fixture
async def troubled(
    elasticmq: LocalServer, dynamodb_local: LocalServer, monkeypatch: Any
) -> AsyncIterator[TroubledEnvironment]:
    async with troubled_environment(elasticmq, dynamodb_local, monkeypatch) as made:
        yield made


async def until(condition: Callable[[], Any]) -> None:
    """It holds in the end; asked for again and again, since it shows nowhere else."""
    with trio.fail_after(TIMEOUT):
        while not await condition():  # noqa: ASYNC110
            await trio.sleep(0.05)


async def accepted_by(engine: Engine, payload: str) -> str | None:
    """The task's id; None where it was refused for now."""
    with suppress(BackendUnavailable):
        return (await engine.submit("note", payload)).id
    return None


async def ends(engine: Engine, task_id: str) -> Task:
    with trio.fail_after(TIMEOUT):
        while True:
            task = await engine.wait(task_id, timeout=5)
            if task.status.is_terminal:
                return task


async def red(engine: Engine) -> bool:
    return not (await engine.ready()).ready


async def green(engine: Engine) -> bool:
    return (await engine.ready()).ready


async def says(engine: Engine, reason: str) -> bool:
    """
    Args:
        reason: a pattern for the reasons why it is not ready.
    """
    return re.search(reason, " ".join((await engine.ready()).reasons)) is not None


def always(said: Any) -> Fault:
    return lambda request: said


def on(operations: tuple[str, ...], said: Any) -> Fault:
    return lambda request: said if request.operation in operations else None


DENIED = "User: someone is not authorized to perform this"
FAULTS: dict[str, tuple[Fault, Fault, str]] = {
    "both out of reach": (always("cut"), always("cut"), "closed before an answer"),
    "SQS out of reach": (always("cut"), no_fault, "SQS"),
    "both in trouble": (
        always(sqs_error("ServiceUnavailable", status=503)),
        always(answer(status=502, body=b"<html>Bad Gateway</html>")),
        "ServiceUnavailable|HTTP 502",
    ),
    "permissions withdrawn": (
        always(sqs_error("AccessDenied", DENIED, 403)),
        always(dynamodb_error("AccessDeniedException", DENIED)),
        DENIED,
    ),
    "only writing withdrawn": (
        no_fault,
        on(("BatchExecuteStatement",), dynamodb_error("AccessDeniedException", DENIED)),
        DENIED,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_is_waited_out(fault: str, troubled: TroubledEnvironment) -> None:
    sqs_fault, dynamodb_fault, reason = FAULTS[fault]
    async with troubled.running(worker_count=2) as engine:
        await until(lambda: green(engine))
        running = await engine.submit("wait", "running")
        await until_true(lambda: troubled.runs["running"] == 1)
        queued = await engine.submit("wait", "second")
        troubled.inject(sqs_fault, dynamodb_fault)
        accepted = await accepted_by(engine, "meanwhile")
        troubled.go_on.set()  # its result has to wait
        await until(lambda: says(engine, reason))

        troubled.inject(no_fault, no_fault)
        for task_id in filter(None, (running.id, queued.id, accepted)):
            task = await ends(engine, task_id)
            assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)
        await until(lambda: green(engine))
        later = await engine.submit("note", "later")
        assert (await ends(engine, later.id)).status is TaskStatus.COMPLETED
        expected = {"running": 1, "second": 1, "later": 1}
        # What was refused is not there; what was accepted has run.
        assert troubled.runs == expected | ({"meanwhile": 1} if accepted else {})
        everything = await engine.list_tasks(ListQuery(limit=100))
        assert len(everything.tasks) == len(troubled.runs)


async def until_true(condition: Callable[[], bool]) -> None:
    async def look() -> bool:
        return condition()

    await until(look)


async def test_a_silent_sqs_holds_no_submission(troubled: TroubledEnvironment) -> None:
    """The store has it: a submission need not wait for the queue."""
    assert CALL_TIMEOUT * 3 < 15, "with three tries, far less than a request's 30 s"
    with patience(sqs=0.2):
        async with troubled.running() as engine:
            troubled.sqs.inject(always("hang"))
            task = await engine.submit("note", "meanwhile")
            await until(lambda: says(engine, "backend: SQS GetQueueAttributes"))
            troubled.sqs.inject(no_fault)
            assert (await ends(engine, task.id)).status is TaskStatus.COMPLETED
    assert troubled.runs["meanwhile"] == 1


async def test_a_silent_dynamodb_is_named(troubled: TroubledEnvironment) -> None:
    async with troubled.running() as engine:
        troubled.dynamodb.inject(always("hang"))
        await until(lambda: says(engine, "backend: DynamoDB: no answer"))
        troubled.dynamodb.inject(no_fault)
        await until(lambda: green(engine))


async def test_the_end_is_bounded_all_the_same(troubled: TroubledEnvironment) -> None:
    flush, one_call_and_the_counters = 0.5, REQUEST_TIMEOUT + 2.0
    with patience(dynamodb=REQUEST_TIMEOUT, sqs=CALL_TIMEOUT):
        async with troubled.running(shutdown_flush=flush) as engine:
            await engine.submit("wait", "running")
            await until_true(lambda: troubled.runs["running"] == 1)
            troubled.inject(always("hang"), always("hang"))
            begun = trio.current_time()
            await engine.stop()
            assert trio.current_time() - begun < flush + one_call_and_the_counters + 2.0
            troubled.inject(no_fault, no_fault)


async def test_an_outage_of_the_table_alone_costs_no_attempt(troubled: TroubledEnvironment) -> None:
    """Messages are still there to be received, and SQS gives up one that is received too often."""
    lease = 3.0
    async with troubled.running(worker_count=1, visibility_timeout=lease) as engine:
        ids = [(await engine.submit("wait", str(n))).id for n in range(5)]
        await until_true(lambda: troubled.runs.total() > 0)
        troubled.dynamodb.inject(always("cut"))
        await trio.sleep(3.5 * lease)  # SQS allows three receives
        troubled.dynamodb.inject(no_fault)
        troubled.go_on.set()
        tasks = [await ends(engine, task_id) for task_id in ids]
    assert {task.status for task in tasks} == {TaskStatus.COMPLETED}


# --- credentials ----------------------------------------------------------------------------


def only_with(key: str, expired: Answer) -> Fault:
    """Requests signed with any other key are refused."""
    return lambda request: (
        None if f"Credential={key}/" in request.headers["authorization"] else expired
    )


def as_process_says(key: str) -> str:
    """What a `credential_process` prints."""
    later = datetime.now(UTC) + timedelta(hours=1)
    found = {
        "Version": 1,
        "AccessKeyId": key,
        "SecretAccessKey": "secret",
        "SessionToken": f"token of {key}",
        "Expiration": later.isoformat(),
    }
    return json.dumps(found)


async def renewed(
    troubled: TroubledEnvironment, monkeypatch: Any, replace: Callable[[], None]
) -> None:
    """The old ones end before their time, as when a session is revoked; then there are new ones."""
    monkeypatch.setattr(credentials, "_RELOAD_EVERY", 0.1)
    async with troubled.running() as engine:
        first = await engine.submit("note", "first")
        assert (await ends(engine, first.id)).status is TaskStatus.COMPLETED
        troubled.inject(
            only_with("NEWKEY", sqs_error("ExpiredToken", "is expired", 403)),
            only_with("NEWKEY", dynamodb_error("ExpiredTokenException", "is expired")),
        )
        with pytest.raises(BackendUnavailable, match="ExpiredToken"):
            await engine.submit("note", "refused")
        await until(lambda: red(engine))
        replace()
        await until(lambda: green(engine))
        second = await engine.submit("note", "second")
        assert (await ends(engine, second.id)).status is TaskStatus.COMPLETED
    assert troubled.runs == {"first": 1, "second": 1}


async def test_renewed_by_a_process(
    troubled: TroubledEnvironment, monkeypatch: Any, tmp_path: Path
) -> None:
    said = tmp_path / "said.json"
    said.write_text(as_process_says("OLDKEY"))
    config = tmp_path / "aws-config"
    config.write_text(f"[default]\ncredential_process = cat {said}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    await renewed(
        troubled, monkeypatch, lambda: said.write_text(as_process_says("NEWKEY")) and None
    )


async def test_renewed_by_the_container(troubled: TroubledEnvironment, monkeypatch: Any) -> None:
    current = ["OLDKEY"]
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            found = json.loads(as_process_says(current[0]))
            found["Token"] = found.pop("SessionToken")
            body = json.dumps(found).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            await stream.send_all(head.encode() + body)

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/keys")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        await renewed(troubled, monkeypatch, lambda: current.__setitem__(0, "NEWKEY"))
        nursery.cancel_scope.cancel()


# --- gone and made again --------------------------------------------------------------------


async def test_a_queue_made_again(troubled: TroubledEnvironment, monkeypatch: Any) -> None:
    """Its messages are lost, the tasks are not: they are sent again once it is clear that their
    messages would have come by then."""
    monkeypatch.setattr(receive_watermark, "SLACK", timedelta(0))
    monkeypatch.setattr(receive_watermark, "WINDOW", 1.5)
    monkeypatch.setitem(store.DynamoStore.__init__.__kwdefaults__, "sweep_lag", 0.5)
    # An empty long poll tells, a short one does not.
    async with troubled.running(worker_count=1, visibility_timeout=3.0, poll_wait=1.0) as engine:
        await engine.submit("wait", "running")
        await until_true(lambda: troubled.runs["running"] > 0)
        lost = await engine.submit("note", "lost")
        url = str(troubled.settings.sqs_queue_url)
        client = open_client(troubled.servers[0])
        async with client.open():
            await client.call("sqs", "DeleteQueue", {"QueueUrl": url})
            await until(lambda: red(engine))
            await client.call("sqs", "CreateQueue", {"QueueName": url.rpartition("/")[2]})
        troubled.go_on.set()
        await until(lambda: green(engine))
        assert (await ends(engine, lost.id)).status is TaskStatus.COMPLETED


async def test_a_table_made_again(troubled: TroubledEnvironment) -> None:
    """Its tasks are gone; the engine goes on with those that come."""
    name = str(troubled.settings.dynamodb_table)
    async with troubled.running() as engine:
        client = open_client(troubled.servers[1])
        async with client.open():
            await client.call("dynamodb", "DeleteTable", {"TableName": name})
            await until(lambda: red(engine))
            with pytest.raises(BackendUnavailable):
                await engine.submit("note", "refused")
            await client.call("dynamodb", "CreateTable", create_table_parameters(name))
        await until(lambda: green(engine))
        task = await engine.submit("note", "new")
        assert (await ends(engine, task.id)).status is TaskStatus.COMPLETED
