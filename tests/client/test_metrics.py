"""What a server says of its backend's usage reaches the client."""

from __future__ import annotations

import msgspec

from task_queue_engine.backends.base import (
    BackendUsage,
    Counts,
    OperationUsage,
    QueueDepth,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.client.schemas import MetricsRead
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.engine.views import MetricsView


def metrics(usage: BackendUsage | None) -> EngineMetrics:
    return EngineMetrics(
        counts=Counts(pending=3),
        depth=QueueDepth(waiting=1, in_flight=2, dead=0),
        workers=5,
        active_workers=2,
        usage=usage,
    )


def over_the_wire(sent: EngineMetrics) -> EngineMetrics:
    text = msgspec.json.encode(MetricsView.of(sent))
    return msgspec.json.decode(text, type=MetricsRead).metrics()


def test_usage_arrives() -> None:
    usage = BackendUsage(
        operations=(OperationUsage(service="sqs", operation="SendMessageBatch", requests=2),),
        steps=(StepUsage(step="claim", write_units=1.5),),
        task_types=(TaskTypeUsage(service="sqs", task_type="email", requests=0.5),),
    )
    assert over_the_wire(metrics(usage)) == metrics(usage)


def test_a_backend_that_is_not_billed_has_none() -> None:
    assert over_the_wire(metrics(None)).usage is None
    assert b"usage" not in msgspec.json.encode(MetricsView.of(metrics(None)))


def test_what_other_versions_say_of_it_is_read_as_far_as_it_is_known() -> None:
    text = msgspec.json.encode(MetricsView.of(metrics(None)))
    document = msgspec.json.decode(text)
    operation = {"service": "sqs", "operation": "SendMessage", "unheard_of": 1}
    document["usage"] = {"operations": [operation], "regions": []}

    read = msgspec.convert(document, MetricsRead).metrics()

    assert read.usage == BackendUsage(
        operations=(OperationUsage(service="sqs", operation="SendMessage"),)
    )
