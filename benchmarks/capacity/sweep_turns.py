"""How many tasks a second the sweep keeps up with: one piece after the other, by whichever process
asks when the turn is free. Virtual time, seeded."""

from __future__ import annotations

import heapq
import math
import random

from task_queue_engine.backends.aws.dynamodb import schema, sweep
from task_queue_engine.backends.aws.dynamodb.table_client import MAX_KEYS

INTERVAL = 30.0
"""TQE_RECONCILE_INTERVAL: a reconciler asks after 0.8 to 1.2 of it, and after a tenth of that where
the sweep was its own and is not done."""

# Requests at once, of reads: `store.DynamoStore`.
CONCURRENCY = 16

_SECONDS = 3_600.0


def piece_seconds(*, cpu_us_per_entry: float, request_seconds: float) -> float:
    """Of one piece of a sweep that is behind, with both of its looks."""
    rounds = sweep._PIECE / (schema.STATUS_SHARDS * sweep._PAGE)
    gets = schema.STATUS_SHARDS * sweep._PAGE / MAX_KEYS
    # A query, the rows' reads, and the note of how far it is.
    trips = rounds * (1 + math.ceil(gets / CONCURRENCY) + 1)
    return 2 * (sweep._PIECE * cpu_us_per_entry / 1e6 + trips * request_seconds)


def tasks_per_second(
    processes: int, piece: float, *, interval: float = INTERVAL, seed: int = 1
) -> float:
    """What so many processes get done of a sweep that is never done.

    Args:
        piece: seconds.
        interval: TQE_RECONCILE_INTERVAL.
    """
    rng = random.Random(seed)
    asking = [(rng.uniform(0, interval), process) for process in range(processes)]
    heapq.heapify(asking)
    free_at, pieces = 0.0, 0
    while True:
        now, process = heapq.heappop(asking)
        if now > _SECONDS:
            return pieces * sweep._PIECE / _SECONDS
        wait = interval * rng.uniform(0.8, 1.2)
        if now >= free_at:
            pieces += 1
            free_at = now + piece + sweep._PAUSE.total_seconds()
            heapq.heappush(asking, (now + piece + wait / 10, process))
        else:
            heapq.heappush(asking, (now + wait, process))
