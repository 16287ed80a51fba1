"""What the store's work costs: requests and capacity units, by operation and by task type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Fractions of a request where one request served several task types."""

    items: int = 0
    """Tasks, or rows looked at."""
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0
    """Those of the indexes included."""


@dataclass(slots=True)
class Meter:
    """One `Usage`, while it moves."""

    items: int = 0
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0

    def snapshot(self) -> Usage:
        return Usage(
            items=self.items,
            requests=self.requests,
            read_units=self.read_units,
            write_units=self.write_units,
        )


def units_of(document: dict[str, Any]) -> list[float]:
    """The capacity units in an answer: one number per statement of a batch where the server
    tells them apart, else one for all; empty where it does not say."""
    found = document.get("ConsumedCapacity")
    if found is None:
        return []
    if isinstance(found, dict):
        found = [found]
    return [float(each.get("CapacityUnits", 0.0)) for each in found]
