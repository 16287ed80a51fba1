"""The embedded backend against the memory backend."""

from __future__ import annotations

from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.testing.conformance.model import check_against_model
from tests.sizes import size


def test_the_same_operations_get_the_same_answers() -> None:
    check_against_model(
        lambda folder, clock: SqliteBackend(folder / "tasks.db", clock=clock),
        examples=size(40, in_full=2_000),
    )
