"""How many tasks a second the sweep keeps up with: each shard by whichever process asks while its
lease is free. Virtual time, seeded."""

from __future__ import annotations

import heapq
import math
import random

from task_queue_engine.actors import reconciler
from task_queue_engine.backends.aws.dynamodb import schema, sweep
from task_queue_engine.backends.aws.dynamodb.table_client import MAX_KEYS

INTERVAL = 30.0
"""TQE_RECONCILE_INTERVAL: a reconciler asks after 0.8 to 1.2 of it, and after a tenth of that where
it swept and is not done."""

# Requests at once, of reads: `store.DynamoStore`.
CONCURRENCY = 16

_SECONDS = 3_600.0


def page_seconds(*, cpu_us_per_entry: float, request_seconds: float) -> float:
    """Of a page of one shard, by a process that goes on with it."""
    # A query, and the rows' reads.
    trips = 1 + math.ceil(sweep._PAGE / MAX_KEYS / CONCURRENCY)
    return max(
        sweep._PAGE * cpu_us_per_entry / 1e6 + trips * request_seconds,
        sweep._PAGE / sweep._PACE,
    )


def tasks_per_second(
    processes: int, page: float, *, interval: float = INTERVAL, seed: int = 1
) -> float:
    """What so many processes get done of a sweep that is never done.

    Args:
        page: seconds.
        interval: TQE_RECONCILE_INTERVAL.
    """
    rng = random.Random(seed)
    asking = [(rng.uniform(0, interval), process) for process in range(processes)]
    heapq.heapify(asking)
    free_at = [0.0] * schema.STATUS_SHARDS
    pages = 0.0
    while True:
        now, process = heapq.heappop(asking)
        if now > _SECONDS:
            # Each entry is looked at twice.
            return pages * sweep._PAGE / _SECONDS / 2
        wait = interval * rng.uniform(0.8, 1.2)
        shard = min(range(len(free_at)), key=free_at.__getitem__)
        if now >= free_at[shard]:
            pages += sweep._TURN / page
            free_at[shard] = now + sweep._TURN
            soon = min(wait, max(wait / 10, reconciler._SHORTEST_PAUSE))
            heapq.heappush(asking, (now + sweep._TURN + soon, process))
        else:
            heapq.heappush(asking, (now + wait, process))
