"""What the client has done, counted per operation: AWS bills by the request and the unit."""

from __future__ import annotations

from dataclasses import dataclass, field

from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.base import OperationUsage

READS = frozenset({"BatchGetItem", "GetItem", "Query"})
"""Of DynamoDB's operations as they are used here: their capacity units are read units."""


@dataclass(slots=True)
class OperationStatistics:
    """The client's move; those of a `ClientStatistics` are copies."""

    requests: int = 0
    """HTTP requests sent, every retry counted: what AWS bills."""
    retries: int = 0
    throttles: int = 0
    failures: int = 0
    """Calls that ended in an error, after the retries if there were any."""
    capacity_units: float = 0.0
    """DynamoDB, where the request asked for ReturnConsumedCapacity."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    operations: dict[tuple[Service, str], OperationStatistics] = field(default_factory=dict)
    connections_opened: int = 0
    clock_offset: float = 0.0
    """Seconds that the services' clock is ahead of ours, where that had to be corrected."""

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.operations.values())

    def usage(self) -> tuple[OperationUsage, ...]:
        """By service and operation, in their order."""
        return tuple(
            OperationUsage(
                service=service,
                operation=operation,
                requests=each.requests,
                retries=each.retries,
                throttles=each.throttles,
                failures=each.failures,
                read_units=each.capacity_units if operation in READS else 0.0,
                write_units=0.0 if operation in READS else each.capacity_units,
            )
            for (service, operation), each in sorted(self.operations.items())
        )
