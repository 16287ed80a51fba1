"""In a process of its own: put tasks of one type into the backend that the environment names.

    python -m benchmarks.fill TYPE COUNT [PAYLOAD]     without a payload: numbers from 0

Prints nothing; what cannot be submitted ends it with status 1.
"""

from __future__ import annotations

import json
import sys

import trio

from benchmarks.work import tasks
from task_queue_engine import Engine, Refused, Settings, Submission

_CHUNK = 1000


async def fill(task: str, count: int, payload: object | None) -> None:
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, Settings(), consume=False, housekeeping=False)
        await nursery.start(engine.run)
        for start in range(0, count, _CHUNK):
            numbers = range(start, min(start + _CHUNK, count))
            batch = [Submission(task=task, payload=payload or n) for n in numbers]
            for verdict in await engine.submit_many(batch):
                if isinstance(verdict, Refused):
                    raise SystemExit(f"a task could not be submitted: {verdict.error}")
        await engine.stop()


if __name__ == "__main__":
    given = json.loads(sys.argv[3]) if len(sys.argv) > 3 else None
    trio.run(fill, sys.argv[1], int(sys.argv[2]), given)
