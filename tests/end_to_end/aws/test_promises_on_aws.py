"""Each promise on SQS and DynamoDB, with processes that are killed, frozen and stopped. Engines to
which nothing like that happens run in the test's own process."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from task_queue_engine import TaskRegistry
from task_queue_engine.clock import SystemClock
from tests.cli.runner import TIMEOUT, Api, Server, eventually, request
from tests.cli.shop import echo
from tests.end_to_end.aws.accounting import wait_until
from tests.end_to_end.aws.environment import LEASE, Environment, through
from tests.end_to_end.aws.faults import Trouble

SHOP = {"TQE_APP": "shop:tasks"}
ALONE = SHOP | {"WORKER_COUNT": "1"}
"""No second worker asks for work meanwhile: an open poll outlives its process for a while and
receives, and counts, what reaches no engine."""


def get(server: Api, task_id: str, *, wait: float = 0) -> dict[str, Any]:
    answer = request(
        "GET",
        f"{server.url}/tasks/{task_id}",
        params={"wait": wait} if wait else {},
        timeout=wait + 10,
    )
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


def metrics(server: Api) -> dict[str, Any]:
    found: dict[str, Any] = request("GET", f"{server.url}/metrics", timeout=10).json()
    return found


def stop(server: Server) -> None:
    server.signal()
    assert server.wait() == 0
    assert "Traceback" not in server.log


def kill(server: Server) -> None:
    server.signal(signal.SIGKILL)
    server.wait()


def is_running(environment: Environment, name: str) -> None:
    eventually(environment.shop.is_there(f"{name}.running"))


def open_gate(environment: Environment, name: str) -> None:
    (environment.shop.path / f"{name}.open").touch()


def an_hour_ago(environment: Environment) -> dict[str, str]:
    """The shop's tasks on a clock that is so much slow; a variable to serve with."""
    (environment.shop.path / "an_hour_ago.py").write_text(
        "from datetime import timedelta\n"
        "from task_queue_engine.clock import SystemClock\n"
        "from shop import tasks\n"
        "now = SystemClock.now\n"
        "SystemClock.now = lambda self: now(self) - timedelta(hours=1)\n"
    )
    return {"TQE_APP": "an_hour_ago:tasks"}


# --- a task answered with 201 is never lost -------------------------------------------------


def test_a_crash_between_saving_and_sending(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages are known to be lost after 17 minutes: the process that dies lives an hour ago."""
    trouble = Trouble(hold=lambda operation, _: operation == "SendMessageBatch")
    before = an_hour_ago(environment)
    with through(environment, sqs=trouble) as troubled, troubled.serve("api", **before) as api:
        body = {"type": "echo", "payload": "saved"}
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(request, "POST", f"{api.url}/tasks", json=body)
            assert trouble.held.wait(TIMEOUT)
            kill(api)
            with pytest.raises(httpx.TransportError):
                answer.result()
    (saved,) = (item["id"]["S"] for item in environment.items())
    assert environment.in_queue() == (0, 0, 0)
    with environment.embedded() as server:
        task = get(server, saved, wait=20)
        assert (task["status"], task["attempt"], task["result"]) == ("COMPLETED", 1, "saved")
    assert f"task {saved} is PENDING without a message" in caplog.text


# --- a terminal status is durable before its message is deleted -----------------------------


def test_while_the_table_is_down_a_result_waits_and_its_message_stays(
    environment: Environment,
) -> None:
    trouble = Trouble(only=frozenset({"failing"}))
    with through(environment, dynamodb=trouble) as troubled, troubled.embedded() as server:
        task = server.post("gate", "gate")
        is_running(environment, "gate")
        trouble.rate = 1.0
        open_gate(environment, "gate")
        time.sleep(1.5 * LEASE)  # the outage itself, longer than a lease
        assert sum(environment.in_queue()) == 1, "the message is kept"
        assert environment.in_queue()[2] == 1, "and so is its lease"
        item = environment.item(task["id"])
        assert item is not None
        assert item["status"] == {"S": "PROCESSING"}
        ready = request("GET", f"{server.url}/ready")
        assert ready.status_code == 503
        trouble.rate = 0.0
        found = get(server, task["id"], wait=20)
        assert (found["status"], found["attempt"]) == ("COMPLETED", 1)
        wait_until(lambda: environment.in_queue() == (0, 0, 0))


def test_a_crash_between_recording_and_deleting(environment: Environment) -> None:
    trouble = Trouble(hold=lambda operation, _: operation == "DeleteMessageBatch")
    with through(environment, sqs=trouble) as troubled, troubled.serve(**SHOP) as server:
        task = server.post("echo", 1)
        assert get(server, task["id"], wait=20)["status"] == "COMPLETED"
        assert trouble.held.wait(TIMEOUT)
        kill(server)
    assert sum(environment.in_queue()) == 1
    with environment.embedded() as server:
        wait_until(lambda: environment.in_queue() == (0, 0, 0))
        assert get(server, task["id"])["attempt"] == 1
        assert metrics(server)["counters"]["attempts_started"] == 0


# --- COMPLETED means a handler returned; a terminal status never changes --------------------


def test_a_zombie_changes_nothing(environment: Environment) -> None:
    with environment.serve(**SHOP) as zombie:
        task = zombie.post("gate", "gate")
        is_running(environment, "gate")
        assert get(zombie, task["id"])["attempt"] == 1
        zombie.signal(signal.SIGSTOP)
        with environment.embedded() as other:
            wait_until(lambda: get(other, task["id"])["attempt"] == 2)
            open_gate(environment, "gate")
            ended = get(other, task["id"], wait=20)
            assert (ended["status"], ended["attempt"], ended["retry_count"]) == ("COMPLETED", 2, 1)

            zombie.signal(signal.SIGCONT)
            wait_until(lambda: metrics(zombie)["counters"]["leases_lost"] == 1)
            wait_until(lambda: metrics(zombie)["active_workers"] == 0)
            assert metrics(zombie)["counters"]["attempts_completed"] == 0
            assert get(zombie, task["id"]) == ended
            stop(zombie)
            # On a busy machine a lease lapses more than once, and a copy is left to come due.
            wait_until(lambda: environment.in_queue() == (0, 0, 0))


# --- no handler starts once its task is cancelled -------------------------------------------


def test_cancelled_while_queued_and_while_delayed(environment: Environment) -> None:
    with environment.embedded(WORKER_COUNT="1", TQE_PREFETCH="1") as server:
        first = server.post("gate", "first")
        is_running(environment, "first")
        waiting = [server.post("gate", f"waiting-{n}") for n in range(3)]
        delayed = server.post("gate", "delayed", delay_seconds=1)
        wait_until(lambda: environment.in_queue()[2] == 2)  # one runs, one is received
        for task in [*waiting, delayed]:
            answer = request("DELETE", f"{server.url}/tasks/{task['id']}")
            assert answer.status_code in (200, 202), answer.text
        open_gate(environment, "first")
        assert get(server, first["id"], wait=20)["status"] == "COMPLETED"
        wait_until(lambda: environment.in_queue() == (0, 0, 0))
        for task in [*waiting, delayed]:
            assert get(server, task["id"], wait=20)["status"] == "CANCELLED"
    assert {path.name for path in environment.shop.path.glob("*.running")} == {"first.running"}


# --- a live attempt is never acked by its duplicate -----------------------------------------


def test_a_message_delivered_twice_neither_runs_twice_nor_is_lost(environment: Environment) -> None:
    trouble = Trouble(rate=1.0, only=frozenset({"delivered_twice"}))
    with through(environment, sqs=trouble) as troubled, troubled.serve(**SHOP) as owner:
        task = owner.post("gate", "gate")
        is_running(environment, "gate")
        with troubled.embedded() as other:
            wait_until(lambda: metrics(other)["counters"]["duplicate_deliveries"] >= 3)
            found = get(other, task["id"])
            assert (found["status"], found["attempt"]) == ("PROCESSING", 1)
            assert metrics(other)["counters"]["messages_deleted"] == 0
            assert sum(environment.in_queue()) == 1
            trouble.rate = 0.0
            kill(owner)
            wait_until(lambda: get(other, task["id"])["attempt"] == 2)
            open_gate(environment, "gate")
            assert get(other, task["id"], wait=20)["status"] == "COMPLETED"


# --- losing the lease stops the attempt; keeping it takes no luck ---------------------------


def test_a_handler_longer_than_many_leases_runs_once(environment: Environment) -> None:
    with environment.embedded() as one, environment.embedded() as two:
        task = one.post("gate", "gate")
        is_running(environment, "gate")
        time.sleep(3 * LEASE)  # what is tested
        open_gate(environment, "gate")
        found = get(two, task["id"], wait=20)
        assert (found["status"], found["attempt"], found["retry_count"]) == ("COMPLETED", 1, 0)
        both = [metrics(server)["counters"] for server in (one, two)]
        assert sum(counters["attempts_started"] for counters in both) == 1
        assert sum(counters["leases_renewed"] for counters in both) >= 3
        assert sum(counters["leases_lost"] for counters in both) == 0


def test_without_its_lease_a_handler_is_stopped(environment: Environment) -> None:
    """SQS does not answer one engine any more: it stops before another has the message."""
    trouble = Trouble()
    with through(environment, sqs=trouble) as troubled, troubled.serve(**SHOP) as cut_off:
        task = cut_off.post("gate", "gate")
        is_running(environment, "gate")
        with environment.embedded() as other:
            trouble.silent = True
            cut_off.wait_for("lost the lease")
            wait_until(lambda: metrics(cut_off)["active_workers"] == 0)
            wait_until(lambda: get(other, task["id"])["attempt"] == 2)
            open_gate(environment, "gate")
            assert get(other, task["id"], wait=20)["status"] == "COMPLETED"
        assert metrics(cut_off)["counters"]["attempts_completed"] == 0
        kill(cut_off)


# --- shutdown gives back what it has not started, and costs no attempt ----------------------


@pytest.mark.parametrize("environment", ["elasticmq", "fauxqs"], indirect=True)
def test_sigterm_leaves_nothing_in_flight(environment: Environment) -> None:
    """Two run, two wait in the buffer, one slot is free: a long poll is open, and what is given
    back would come in on it."""
    settings = {
        "WORKER_COUNT": "2",
        "TQE_PREFETCH": "3",
        "TQE_POLL_WAIT": "6",
        "TQE_VISIBILITY_TIMEOUT": "30",
        "TQE_SHUTDOWN_GRACE": "8",
    }
    with environment.serve(**SHOP | settings) as server:
        tasks = [server.post("gate", f"gate-{n}") for n in range(4)]
        wait_until(lambda: metrics(server)["counters"]["attempts_claimed"] == 2)
        wait_until(lambda: environment.in_queue() == (0, 0, 4))
        stop(server)
    assert "open long poll" in server.log
    assert environment.in_queue() == (4, 0, 0)
    for task in tasks:
        item = environment.item(task["id"])
        assert item is not None
        assert (item["status"], item["retry_count"]) == ({"S": "PENDING"}, {"N": "0"})
        open_gate(environment, task["payload"])
    with environment.embedded() as server:
        for task in tasks:
            found = get(server, task["id"], wait=20)
            assert (found["status"], found["retry_count"]) == ("COMPLETED", 0)
    assert environment.in_queue() == (0, 0, 0)
    assert environment.in_queue(environment.dead) == (0, 0, 0)


def test_what_comes_in_on_the_poll_of_a_stopping_engine_is_given_back(
    environment: Environment,
) -> None:
    settings = {"TQE_POLL_WAIT": "20", "TQE_VISIBILITY_TIMEOUT": "60", "TQE_SHUTDOWN_GRACE": "30"}
    sqs = Trouble()
    with (
        environment.embedded(consume=False) as api,
        through(environment, sqs=sqs) as counted,
        counted.serve("worker", **SHOP | settings) as worker,
    ):
        wait_until(lambda: sqs.requests["ReceiveMessage"] > 0)
        worker.signal()
        worker.wait_for("open long poll")
        task = api.post("echo", 1)
        before = time.monotonic()
        assert worker.wait() == 0
        assert time.monotonic() - before < 12, "a poll that has brought something is over"
        assert environment.in_queue() == (1, 0, 0)
        assert get(api, task["id"])["status"] == "PENDING"


# --- a poison task is quarantined; others go on ---------------------------------------------


HARMLESS = TaskRegistry()
"""For the test's own process: an engine that ran the poison all the same would complete it."""
HARMLESS.task("echo")(echo)


@HARMLESS.task("poison")
async def drink(payload: object) -> None: ...


def die(environment: Environment, times: int, **settings: str) -> None:
    """One worker after the other, of the poison."""
    for _ in range(times):
        with environment.serve("worker", **ALONE | settings) as worker:
            assert worker.wait() == 9


def test_a_task_that_kills_its_process_is_quarantined_by_the_engine(
    environment: Environment,
) -> None:
    with environment.embedded(consume=False) as api:
        poison = api.post("poison", 9, max_attempts=2)
    die(environment, 2)
    with environment.embedded(HARMLESS) as worker:
        other = worker.post("echo", 1)
        assert get(worker, other["id"], wait=20)["status"] == "COMPLETED"
        found = get(worker, poison["id"], wait=20)
        assert (found["status"], found["attempt"], found["retry_count"]) == ("FAILED", 2, 2)
        wait_until(lambda: environment.in_queue() == (0, 0, 0))
    (dead_letter,) = environment.dead_letters()
    assert dead_letter["attributes"]["Reason"] == "its worker died 2 times of 2 allowed"
    assert json.loads(dead_letter["body"])["id"] == poison["id"]


def allow_receives(environment: Environment, number: int) -> None:
    asked = environment.sqs.get_queue_attributes(
        QueueUrl=environment.queue, AttributeNames=["RedrivePolicy"]
    )
    policy = json.loads(asked["Attributes"]["RedrivePolicy"]) | {"maxReceiveCount": number}
    environment.sqs.set_queue_attributes(
        QueueUrl=environment.queue, Attributes={"RedrivePolicy": json.dumps(policy)}
    )


def test_the_redrive_policy_takes_no_attempt_away(environment: Environment) -> None:
    """More attempts than SQS allows receives: each of them is made, and the engine ends it."""
    quick = {"TQE_VISIBILITY_TIMEOUT": "1", "TQE_SUBMIT_MAX_ATTEMPTS": "5"}
    allow_receives(environment, 2)
    with environment.embedded(consume=False, **quick) as api:
        poison = api.post("poison", 9, max_attempts=3)

    def attempt() -> object:
        item = environment.item(poison["id"])
        return item and item["attempt"]

    def lost(operation: str, _: object) -> bool:
        """A deletion of a worn message takes a while; the poison's start is its process's end."""
        if operation != "DeleteMessageBatch":
            return False
        before = attempt()
        time.sleep(0.2)  # a start takes a tenth of it; the wait that is to prevent it is a second
        return attempt() != before

    with through(environment, sqs=Trouble(hold=lost)) as slow:
        die(slow, 3, **quick)
    with environment.embedded(HARMLESS, **quick) as worker:
        found = get(worker, poison["id"], wait=25)
        assert (found["status"], found["attempt"], found["retry_count"]) == ("FAILED", 3, 3)
    (dead_letter,) = environment.dead_letters()
    assert json.loads(dead_letter["body"])["id"] == poison["id"]
    assert dead_letter["attributes"]["Reason"] == "its worker died 3 times of 3 allowed"


def test_one_that_sqs_itself_gives_up_is_found_in_the_dead_letter_queue(
    environment: Environment,
) -> None:
    """One receive is all that the queue allows: no process can replace the message in time."""
    quick = {"TQE_VISIBILITY_TIMEOUT": "1"}
    allow_receives(environment, 1)
    with environment.embedded(consume=False, **quick) as api:
        poison = api.post("poison", 9)
    die(environment, 1, **quick)
    with environment.embedded(HARMLESS, **quick) as worker:
        found = get(worker, poison["id"], wait=25)
        assert (found["status"], found["attempt"], found["retry_count"]) == ("FAILED", 1, 1)
        assert found["error"]["message"].startswith("moved by SQS: received 1 time")
    (dead_letter,) = environment.dead_letters()
    assert json.loads(dead_letter["body"])["id"] == poison["id"]
    assert "Reason" not in dead_letter["attributes"], "as SQS left it"


# --- nothing is stuck silently --------------------------------------------------------------


def test_a_crash_between_failed_and_its_dead_letter(environment: Environment) -> None:
    trouble = Trouble(
        hold=lambda operation, parameters: (
            # Of a dead-lettering, the first step. Leases of 2 s are renewed for 2 s.
            operation == "ChangeMessageVisibilityBatch"
            and parameters["Entries"][0]["VisibilityTimeout"] == 60
        )
    )
    with through(environment, sqs=trouble) as troubled, troubled.serve(**SHOP) as server:
        task = server.post("fail", "of no use")
        assert get(server, task["id"], wait=20)["status"] == "FAILED"
        assert trouble.held.wait(TIMEOUT)
        kill(server)
    with environment.embedded(TQE_RECONCILE_INTERVAL="60"):
        wait_until(lambda: sum(environment.in_queue(environment.dead)) == 1)
        wait_until(lambda: environment.in_queue() == (0, 0, 0))
    (dead_letter,) = environment.dead_letters()
    assert dead_letter["attributes"]["Reason"].startswith(
        "FAILED, and the worker that wrote this died"
    )
    assert json.loads(dead_letter["attributes"]["Error"])["message"] == "of no use"


def test_the_task_of_a_dead_owner_survives_that_its_message_is_given_back_unclaimed(
    environment: Environment,
) -> None:
    """The owner is killed; the next engine receives the message, cannot claim it since the table
    is down, and is restarted: what it gives back is a copy with another id."""
    with environment.serve(**SHOP) as owner:
        task = owner.post("gate", "gate")
        is_running(environment, "gate")
        kill(owner)
    trouble = Trouble(only=frozenset({"failing"}))
    with through(environment, dynamodb=trouble) as troubled, troubled.embedded() as next_one:
        trouble.rate = 1.0
        wait_until(lambda: task["id"] in trouble.hit)  # its claim fails, again and again
        next_one.stop()
    assert sum(environment.in_queue()) == 1
    open_gate(environment, "gate")
    with environment.embedded() as server:
        found = get(server, task["id"], wait=20)
        assert (found["status"], found["attempt"], found["retry_count"]) == ("COMPLETED", 2, 1)


# --- a delayed task never starts early, and any delay works ---------------------------------


def test_a_delay_longer_than_sqs_can_hold(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment.embedded() as server:
        task = server.post("gate", "later", delay_seconds=1000)
        assert sum(environment.in_queue()) == 0, "it lives in the table"
    open_gate(environment, "later")
    now = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda self: now(self) + timedelta(seconds=990))
    with environment.embedded() as server:
        wait_until(lambda: sum(environment.in_queue()) == 1)
        assert environment.in_queue()[1] == 1, "sent ahead, with the rest of the delay on it"
        assert get(server, task["id"])["status"] == "PENDING"
        assert get(server, task["id"], wait=20)["status"] == "COMPLETED"
    ended = environment.item(task["id"])
    assert ended is not None
    assert ended["started_at"]["S"] >= task["run_at"]


# --- exit is bounded ------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
def test_exit_while_aws_does_not_answer(environment: Environment, busy: bool) -> None:
    sqs, dynamodb = Trouble(), Trouble()
    limits = {"TQE_SHUTDOWN_GRACE": "1", "TQE_SHUTDOWN_FLUSH": "2", "TQE_POLL_WAIT": "20"}
    with (
        through(environment, sqs=sqs, dynamodb=dynamodb) as troubled,
        troubled.serve(**SHOP | limits) as server,
    ):
        if busy:
            server.post("gate", "gate")
            is_running(environment, "gate")
        sqs.silent = dynamodb.silent = True
        time.sleep(0.5)  # requests get stuck
        before = time.monotonic()
        server.signal()
        code = server.wait()
        took = time.monotonic() - before
    assert code == 0, server.log
    # Grace, flush, the last write's own time, the counters' last flush, and a moment to unwind.
    assert took < 1 + 2 + 8 + 2 + 4, took
