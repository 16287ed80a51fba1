"""A trace through SQS and DynamoDB, from a client's header to the second attempt."""

from __future__ import annotations

import json
from typing import Any

from task_queue_engine import Backoff, TaskContext, TaskRegistry
from tests.cli.runner import request
from tests.end_to_end.aws.environment import Environment
from tests.spans import Spans, id_of, links_of, parent_of, spans, trace_of

__all__ = ["spans"]  # the fixture

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

tasks = TaskRegistry()


@tasks.task("mail", backoff=Backoff(base=0.05, factor=1))
async def mail(payload: Any, context: TaskContext) -> None:
    if context.attempt == 1:
        raise ConnectionError("no answer")


def test_the_whole_life_of_a_task_with_a_retry(environment: Environment, spans: Spans) -> None:
    with environment.embedded(tasks) as server:
        sent = request(
            "POST",
            f"{server.url}/tasks",
            json={"type": "mail", "payload": 1},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
        )
        task_id = sent.json()["id"]
        plain = server.post("mail", 2)
        for one in (task_id, plain["id"]):
            answer = request("GET", f"{server.url}/tasks/{one}?wait=20")
            assert answer.json()["status"] == "COMPLETED"
    of_it = [span for span in spans.all if trace_of(span) == TRACE]
    submitted, first, second = of_it
    assert [span.name for span in of_it] == ["submit default"] + ["process default"] * 2
    assert parent_of(submitted) == PARENT
    assert [parent_of(span) for span in (first, second)] == [id_of(submitted)] * 2
    assert links_of(second) == [id_of(submitted), id_of(first)]
    item = environment.item(task_id)
    assert item is not None
    assert json.loads(item["trace_context"]["S"]) == {
        "trace_id": TRACE,
        "span_id": id_of(submitted),
        "sampled": True,
        "last_span_id": id_of(first),
    }
