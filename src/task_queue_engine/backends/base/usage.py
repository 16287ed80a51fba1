"""What a backend that is billed by the request has asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationUsage:
    """One kind of request to a billed service, since the backend was made."""

    service: str
    """ "sqs", "dynamodb"."""
    operation: str
    """The service's own name for it, "SendMessageBatch"."""
    requests: int = 0
    """Sent, every retry and every empty poll counted."""
    retries: int = 0
    throttles: int = 0
    """Answers that said: too fast."""
    failures: int = 0
    """Calls that ended in an error, after the retries if there were any."""
    read_units: float = 0.0
    """As far as the service reports them."""
    write_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUsage:
    """What one of the store's methods has cost."""

    step: str
    """ "create", "claim", "record", ..."""
    requests: float = 0.0
    """Calls: their retries are in `OperationUsage`."""
    read_units: float = 0.0
    write_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTypeUsage:
    """What tasks of one type have cost of one service. A request that served several tasks is
    shared evenly among them; what served none (empty polls, gauges, retries) belongs to no
    type."""

    service: str
    task_type: str
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendUsage:
    """What a backend that is billed by the request has asked for, since it was made, in this
    process."""

    operations: tuple[OperationUsage, ...] = ()
    steps: tuple[StepUsage, ...] = ()
    task_types: tuple[TaskTypeUsage, ...] = ()


@runtime_checkable
class MeteredBackend(Protocol):
    """What a backend that costs money by the request offers besides; others have no such member."""

    def usage(self) -> BackendUsage:
        """From memory, at no cost; before and after `open` too."""
        ...
