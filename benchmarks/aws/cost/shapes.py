"""Kinds of tasks whose price is asked for, and what is known of each after a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.aws.cost.observed import ObservedClient
from benchmarks.aws.cost.units import Index
from benchmarks.aws.cost.written import Change, WriteBill, bill
from task_queue_engine.backends.aws.prices import Prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    name: str
    payload_bytes: int = 100
    delay: float = 0.0
    """Seconds."""
    outcome: Literal["done", "retried", "failed"] = "done"
    """retried: the first attempt fails, the second succeeds."""


MOST_SECONDS = 1800.0
"""A run that takes longer has gone wrong."""

RETRY_DELAY = 1.0
"""Seconds: of the one retry."""

SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="100 B"),
        Shape(name="1.5 KB", payload_bytes=1536),
        Shape(name="5 KB", payload_bytes=5120),
        Shape(name="one retry", outcome="retried"),
        Shape(name="in an hour", delay=3600.0),
        Shape(name="dead letter", outcome="failed"),
    )
}


@dataclass(slots=True, kw_only=True)
class Side:
    """The producing or the consuming half of a run."""

    sqs: Counter[str]
    """Requests as they are billed."""
    dynamodb: Counter[str]
    read_units: dict[str, float]
    writes: WriteBill
    refused_units: int
    """Writes whose condition failed."""
    unchanged: int
    """Writes that changed nothing: one unit each."""
    retries: int

    @classmethod
    def of(
        cls, client: ObservedClient, changes: Sequence[Change], indexes: Sequence[Index]
    ) -> Side:
        return cls(
            sqs=client.requests("sqs"),
            dynamodb=client.requests("dynamodb"),
            read_units=dict(client.bill.reads),
            writes=bill(changes, indexes),
            refused_units=client.bill.refused_units,
            unchanged=max(0, client.bill.applied - len(changes)),
            retries=sum(each.retries for each in client.statistics().operations.values()),
        )

    @property
    def write_units(self) -> int:
        return self.writes.total + self.refused_units + self.unchanged

    @property
    def all_reads(self) -> float:
        return sum(self.read_units.values())

    @property
    def requests(self) -> int:
        return self.sqs.total() + self.dynamodb.total()


@dataclass(slots=True, kw_only=True)
class Run:
    """One engine, one shape."""

    engine: str
    shape: str
    tasks: int
    seconds: float = 0.0
    """Of the consuming half."""
    producing: Side
    consuming: Side

    @property
    def write_units(self) -> float:
        return self.producing.write_units + self.consuming.write_units

    @property
    def read_units(self) -> float:
        return self.producing.all_reads + self.consuming.all_reads

    @property
    def sqs(self) -> int:
        return self.producing.sqs.total() + self.consuming.sqs.total()

    def per_million(self, prices: Prices) -> float:
        """Dollars."""
        whole = prices.dollars(
            sqs_requests=self.sqs, write_units=self.write_units, read_units=self.read_units
        )
        return whole / self.tasks * 1e6


@dataclass(slots=True)
class Idle:
    """What an engine costs that has nothing to do."""

    seconds: float
    sqs: Counter[str] = field(default_factory=Counter)
    read_units: float = 0.0
    write_units: float = 0.0

    def per_day(self, prices: Prices) -> float:
        """Dollars."""
        whole = prices.dollars(
            sqs_requests=self.sqs.total(), write_units=self.write_units, read_units=self.read_units
        )
        return whole / self.seconds * 86_400
