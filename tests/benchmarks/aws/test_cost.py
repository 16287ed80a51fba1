"""`benchmarks.aws.cost` counts what was really asked and written, for both engines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from benchmarks.aws.cost.engine import NAME, run_engine
from benchmarks.aws.cost.observed import Bill
from benchmarks.aws.cost.reference import ALL, KEYS_ONLY, run_reference
from benchmarks.aws.cost.report import (
    about_idle,
    about_retries,
    as_json,
    details,
    summary,
    verdicts,
)
from benchmarks.aws.cost.shapes import SHAPES, Idle, Run, Side
from benchmarks.aws.cost.written import WriteBill
from benchmarks.aws.setup import provisioned

from local_aws.pairs import PAIRS, LocalAws
from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.prices import PRICES
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from tests.backends.aws.dynamodb.tables import patience

TASKS = 30


@pytest.fixture
def local(
    elasticmq: LocalServer, dynamodb_local: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalAws]:
    local = LocalAws(PAIRS["java"], elasticmq, dynamodb_local)
    # `provision` sets these for boto3, and takes away others: put back afterwards.
    for name in (*local.aws_environment, "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "to be undone")
        monkeypatch.delenv(name)
    with patience():
        yield local


def ticks() -> tuple[list[int], Any]:
    seen: list[int] = []
    return seen, seen.append


@pytest.mark.parametrize("shape", ["100 B", "one retry", "in an hour", "dead letter"])
async def test_the_reference_makes_the_calls_it_is_said_to(local: LocalAws, shape: str) -> None:
    seen, tick = ticks()
    with trio.fail_after(60):
        wide, lean = await run_reference(local, SHAPES[shape], TASKS, tick)

    assert sum(seen) == TASKS
    assert (wide.engine, lean.engine) == (ALL, KEYS_ONLY)
    assert wide.producing.sqs == {"SendMessage": TASKS}
    assert wide.producing.dynamodb == {"PutItem": TASKS}
    sqs, statuses = dict(wide.consuming.sqs), wide.consuming.writes.writes
    assert sqs.pop("ReceiveMessage") >= TASKS / 10
    match shape:
        case "100 B":
            assert sqs == {"DeleteMessage": TASKS}
            assert wide.write_units == 8 * TASKS, "3 of the table, 5 of the index"
        case "one retry":
            assert sqs == {"DeleteMessage": TASKS, "ChangeMessageVisibility": TASKS}
            assert wide.consuming.dynamodb == {"UpdateItem": 4 * TASKS}
        case "in an hour":
            assert sqs == {"DeleteMessage": TASKS, "ChangeMessageVisibility": TASKS}
            assert wide.consuming.dynamodb == {"UpdateItem": 2 * TASKS}
        case "dead letter":
            assert sqs == {"DeleteMessage": TASKS, "SendMessage": TASKS}
            assert statuses["PROCESSING > FAILED"] == TASKS
    assert wide.per_million(PRICES) >= lean.per_million(PRICES)


@pytest.mark.parametrize("shape", ["100 B", "one retry", "in an hour", "dead letter"])
async def test_the_engine_is_counted_to_the_last_message(local: LocalAws, shape: str) -> None:
    settings = await trio.to_thread.run_sync(
        lambda: provisioned(local, worker_count=16, prefetch=16, poll_wait=1)
    )
    seen, tick = ticks()
    with trio.fail_after(60):
        run = await run_engine(local, settings, SHAPES[shape], TASKS, tick)

    assert sum(seen) == TASKS
    assert run.producing.writes.writes["new > PENDING"] == TASKS
    assert run.producing.dynamodb["BatchExecuteStatement"] <= 3
    writes, sqs = run.consuming.writes.writes, run.consuming.sqs
    match shape:
        case "100 B":
            assert run.producing.sqs["SendMessageBatch"] == 3
            assert writes["PENDING > PROCESSING"] == writes["PROCESSING > COMPLETED"] == TASKS
        case "one retry":
            assert writes["PENDING > PROCESSING"] == 2 * TASKS
            assert writes["PROCESSING > PENDING"] == TASKS
        case "in an hour":
            assert run.producing.sqs["SendMessageBatch"] == 0, "left to the scheduler"
            assert sqs["SendMessageBatch"] >= 3
            assert writes["PROCESSING > COMPLETED"] == TASKS
        case "dead letter":
            assert writes["PROCESSING > FAILED"] == TASKS
            assert sqs["SendMessageBatch"] >= 3
    assert sqs["DeleteMessageBatch"] >= 3
    assert run.consuming.retries == 0
    if shape == "100 B":
        (wide, _) = await run_reference(local, SHAPES[shape], TASKS, tick)
        assert run.per_million(PRICES) < wide.per_million(PRICES)


# --- what answers say --------------------------------------------------------------------------


def test_refused_writes_are_counted_by_what_refused_them() -> None:
    bill = Bill()
    large = {"id": {"S": "a"}, "x": {"S": "x" * 1500}}
    responses = [
        {},
        {"Error": {"Code": "ConditionalCheckFailed", "Item": large}},
        {"Error": {"Code": "DuplicateItem"}},
        {"Error": {"Code": "ThrottlingError"}},
    ]
    bill.note("BatchExecuteStatement", {}, {"Responses": responses})
    bill.note("PutItem", {}, {})
    code = "ConditionalCheckFailedException"
    bill.note_refusal("UpdateItem", refusal(code, {"Item": large}))
    bill.note_refusal("UpdateItem", refusal("ValidationException", {}))

    assert (bill.applied, bill.refused) == (2, 3)
    assert bill.refused_units == 2 + 1 + 2


def refusal(code: str, answer: dict[str, Any]) -> AwsRequestFailed:
    return AwsRequestFailed(code, "no", 400, answer=answer)


def test_reads_are_counted_by_bytes_and_consistency() -> None:
    bill = Bill()
    small, large = {"id": {"S": "a"}}, {"id": {"S": "b"}, "x": {"S": "x" * 5000}}
    bill.note("GetItem", {"ConsistentRead": True}, {"Item": large})
    bill.note("GetItem", {}, {})
    assert bill.reads["GetItem"] == 2 + 0.5

    asked = {"RequestItems": {"tasks": {"Keys": [1, 2, 3], "ConsistentRead": True}}}
    bill.note("BatchGetItem", asked, {"Responses": {"tasks": [small, large]}})
    assert bill.reads["BatchGetItem"] == 1 + 2 + 1, "each by itself, the missing one too"

    # A page of an index is rounded up as a whole.
    bill.note("Query", {}, {"Items": [small, large], "ScannedCount": 2})
    assert bill.reads["Query"] == 1
    counted = {"Items": [], "ScannedCount": 900, "ConsumedCapacity": {"CapacityUnits": 33.0}}
    bill.note("Query", {}, counted)
    assert bill.reads["Query"] == 34


def test_large_payloads_are_more_than_one_request() -> None:
    bill = Bill()
    entry = {
        "MessageBody": "x" * 65_530,
        "MessageAttributes": {"TaskType": {"DataType": "String", "StringValue": "email"}},
    }
    bill.note("SendMessageBatch", {"Entries": [entry]}, {})
    bill.note("ReceiveMessage", {}, {"Messages": [{"Body": "x" * 60_000}] * 10})
    bill.note("ReceiveMessage", {}, {})
    assert bill.more_chunks == {"SendMessageBatch": 1, "ReceiveMessage": 9}


def side(sqs: int, writes: int, reads: float) -> Side:
    return Side(
        sqs=Counter(SendMessage=sqs),
        dynamodb=Counter(GetItem=1),
        read_units={"GetItem": reads},
        writes=WriteBill(),
        refused_units=writes,
        unchanged=0,
        retries=0,
    )


def run_of(engine: str, *, retries: int = 0) -> Run:
    run = Run(
        engine=engine,
        shape="100 B",
        tasks=10,
        producing=side(10, 20, 0),
        consuming=side(11, 60, 5.0),
    )
    run.consuming.retries = retries
    return run


def test_dollars_for_a_million() -> None:
    # 2.1 requests, 8 write units, half a read unit a task.
    assert run_of("any").per_million(PRICES) == pytest.approx(2.1 * 0.40 + 8 * 0.625 + 0.5 * 0.125)


def test_what_is_shown_and_written_down() -> None:
    runs = [run_of(NAME, retries=3), run_of(ALL), run_of(KEYS_ONLY)]
    idle = Idle(60.0, Counter(ReceiveMessage=3), 10.0, 0.0)

    text = "".join([summary(runs), *map(details, runs)])
    assert "5.90" in text, "dollars for a million"
    assert text.count("SQS SendMessage") == 6
    (line,) = verdicts(runs)
    assert "1.200 requests a task" in line
    assert "MISSED" in line, "neither goal is kept"
    (line,) = about_retries(runs)
    assert "3 of the requests were retries" in line
    assert "4,320 SQS requests" in about_idle(idle)

    document = json.loads(json.dumps(as_json(runs, idle)))
    assert document["runs"][0]["consuming"]["sqs_requests"] == {"SendMessage": 11}
    assert document["idle"]["sqs_requests"] == {"ReceiveMessage": 3}
    assert as_json(runs, None)["idle"] is None
