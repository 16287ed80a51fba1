"""What is added up over the processes of a server, and what is not."""

from __future__ import annotations

from dataclasses import fields

from task_queue_engine.backends.base import (
    BackendUsage,
    Counts,
    OperationUsage,
    QueueDepth,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.cli.whole import add_up, what_stays
from task_queue_engine.engine.metrics import EngineMetrics, Slots
from task_queue_engine.measures import Distribution, LabelledCount


def seconds(counts: tuple[int, ...], *, sum: float) -> Distribution:  # noqa: A002 - its name
    labels = {"task_type": "email"}
    return Distribution(
        name="task_run_seconds", labels=labels, bounds=(1.0,), counts=counts, sum=sum
    )


def numbers(n: int, *, usage: BackendUsage | None = None) -> EngineMetrics:
    return EngineMetrics(
        counts=Counts(completed=100),
        depth=QueueDepth(waiting=7, in_flight=2, dead=1),
        queue="default",
        workers=n,
        active_workers=n,
        abandoned_threads=n,
        counters={"attempts_started": n, f"only_{n}": 1},
        uptime=float(n),
        given_back_by_type={f"type-{n}": n, "unknown": n},
        usage=usage,
        slots=(Slots(kind="worker", busy=1, total=n),),
        labelled_counters=(
            LabelledCount(name="attempts", labels={"task_type": "email"}, count=n),
            LabelledCount(name="attempts", labels={"task_type": f"type-{n}"}, count=1),
        ),
        histograms=(seconds((n, 1), sum=2.0 * n),),
    )


def test_counts_of_the_backend_are_there_once_and_a_process_s_own_add_up() -> None:
    assert add_up(numbers(3), [numbers(4), numbers(5)]) == EngineMetrics(
        counts=Counts(completed=100),
        depth=QueueDepth(waiting=7, in_flight=2, dead=1),
        queue="default",
        workers=12,
        active_workers=12,
        abandoned_threads=12,
        counters={"attempts_started": 12, "only_3": 1, "only_4": 1, "only_5": 1},
        uptime=5.0,
        given_back_by_type={"type-3": 3, "type-4": 4, "type-5": 5, "unknown": 12},
        slots=(Slots(kind="worker", busy=3, total=12),),
        labelled_counters=(
            LabelledCount(name="attempts", labels={"task_type": "email"}, count=12),
            *(
                LabelledCount(name="attempts", labels={"task_type": f"type-{n}"}, count=1)
                for n in (3, 4, 5)
            ),
        ),
        histograms=(seconds((12, 3), sum=24.0),),
    )


def test_what_a_process_has_counted_outlives_it_and_its_workers_do_not() -> None:
    whole = add_up(numbers(3), [what_stays(numbers(4))])
    assert whole.counters["attempts_started"] == 7
    assert whole.given_back_by_type["unknown"] == 7
    assert (whole.workers, whole.active_workers, whole.abandoned_threads) == (3, 3, 3)
    assert whole.uptime == 3.0
    assert whole.slots == numbers(3).slots
    assert whole.labelled_counters[0].count == 7
    assert whole.histograms == (seconds((7, 2), sum=14.0),)


def test_usage_adds_up_by_what_it_was_for() -> None:
    def usage(operation: str) -> BackendUsage:
        return BackendUsage(
            operations=(
                OperationUsage(service="sqs", operation=operation, requests=2, throttles=1),
                OperationUsage(service="dynamodb", operation="Query", read_units=0.5),
            ),
            steps=(StepUsage(step="claim", write_units=1.5),),
            task_types=(TaskTypeUsage(service="sqs", task_type="email", requests=0.5),),
        )

    whole = add_up(numbers(1, usage=usage("Receive")), [numbers(1, usage=usage("Delete"))])
    assert whole.usage == BackendUsage(
        operations=(
            OperationUsage(service="sqs", operation="Receive", requests=2, throttles=1),
            OperationUsage(service="dynamodb", operation="Query", read_units=1.0),
            OperationUsage(service="sqs", operation="Delete", requests=2, throttles=1),
        ),
        steps=(StepUsage(step="claim", write_units=3.0),),
        task_types=(TaskTypeUsage(service="sqs", task_type="email", requests=1.0),),
    )
    one = numbers(1, usage=usage("Receive"))
    assert add_up(one, [numbers(1)]).usage == add_up(numbers(1), [one]).usage == one.usage


def test_every_number_of_an_engine_is_decided_upon() -> None:
    """A new one has to be added up, or to be one of the backend as a whole."""
    assert {field.name for field in fields(EngineMetrics)} == {
        *("counts", "depth", "queue"),
        *("workers", "active_workers", "abandoned_threads"),
        "all_busy_for",
        *("counters", "given_back_by_type", "usage"),
        "uptime",
        *("slots", "labelled_counters", "histograms"),
    }, "see cli/whole.py"
