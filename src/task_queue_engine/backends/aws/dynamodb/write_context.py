"""What everything that writes the rows of tasks works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from task_queue_engine.backends.aws.dynamodb.cost_by_type import CostByType
from task_queue_engine.backends.aws.dynamodb.counters import Counters
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.write_tokens import WriteTokens
from task_queue_engine.backends.aws.dynamodb.writers import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteContext:
    table: TableClient
    writer: Writer
    tokens: WriteTokens
    counters: Counters
    costs: CostByType
    now: Callable[[], datetime]
    retention: float
    """Seconds after its end at which a task expires; 0: never."""
    timeout: float
    """Seconds that a call takes at most; it is not cancelled meanwhile."""
