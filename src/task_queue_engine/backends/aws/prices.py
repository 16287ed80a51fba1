"""What AWS charges by its price lists. The overview and `benchmarks.aws.cost` reckon with these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million of each, without free tiers and discounts for volume."""

    region: str
    since: str
    """As the overview shows it."""
    note: str
    source: str
    sqs_requests: float
    """Standard queue. Up to 64 KB of payload a request."""
    write_units: float
    """On-demand, standard table class; up to 1 KB each."""
    read_units: float
    """On-demand, standard table class; up to 4 KB each, half a unit where eventually consistent."""

    def dollars(
        self, *, sqs_requests: float = 0.0, write_units: float = 0.0, read_units: float = 0.0
    ) -> float:
        return (
            sqs_requests * self.sqs_requests
            + write_units * self.write_units
            + read_units * self.read_units
        ) / 1e6


PRICES = Prices(
    region="us-east-1",
    since="November 2024",
    note="DynamoDB on-demand halved on the 1st, SQS unchanged; seen in 2026",
    source="aws.amazon.com/sqs/pricing, aws.amazon.com/dynamodb/pricing/on-demand",
    sqs_requests=0.40,
    write_units=0.625,
    read_units=0.125,
)
"""The two pages name today's prices. These figures were checked against several independent price
guides of 2025 and 2026, not against the pages themselves."""
