"""Runs in a peer's environment: one process that submits.

    python -m benchmarks.peers.produce APP fill COUNT     as fast as it can
    python -m benchmarks.peers.produce APP pace COUNT     one at a time, with pauses

Prints one JSON object: for `fill` the seconds and the CPU seconds it took, for `pace` when each
submission began, in nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Coroutines that submit at a time, where the peer is asynchronous.
PRODUCERS = 50
# Numbers of the tasks that only warm up, and how many.
WARM_UP = range(1 << 40, (1 << 40) + 5)
# Seconds between two: at no moment that anything else could be in step with.
PAUSES = (0.01, 0.03)
# Seconds after the first ones: what polls has slept off its first polls.
_PAUSE = 1.5


def main() -> None:
    module, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    app = importlib.import_module(module)
    if not app.IS_ASYNC:
        print(json.dumps(run(app, mode, count)))
    elif getattr(app, "LOOP", "asyncio") == "trio":
        import trio

        async def together(submit_all: Callable[[], Any]) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(PRODUCERS):
                    nursery.start_soon(submit_all)

        print(json.dumps(trio.run(run_async, app, mode, count, trio.sleep, together)))
    else:
        import asyncio

        import uvloop

        async def gather(submit_all: Callable[[], Any]) -> None:
            await asyncio.gather(*(submit_all() for _ in range(PRODUCERS)))

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        print(json.dumps(asyncio.run(run_async(app, mode, count, asyncio.sleep, gather))))


def run(app: Any, mode: str, count: int) -> dict[str, Any]:
    if mode == "fill":
        wall, cpu = time.monotonic(), time.process_time()
        for number in range(count):
            app.submit(number)
        return {"seconds": time.monotonic() - wall, "cpu": time.process_time() - cpu}
    for number in WARM_UP:
        app.submit(number)
    time.sleep(_PAUSE)
    began = []
    for number in range(count):
        began.append(time.monotonic_ns())
        app.submit(number)
        time.sleep(random.uniform(*PAUSES))
    return {"began": began}


async def run_async(app: Any, mode: str, count: int, sleep: Any, together: Any) -> dict[str, Any]:
    await app.setup()
    found: dict[str, Any]
    if mode == "fill":
        wall, cpu = time.monotonic(), time.process_time()
        numbers: Iterator[int] = iter(range(count))

        async def submit_all() -> None:
            for number in numbers:
                await app.submit(number)

        await together(submit_all)
        found = {"seconds": time.monotonic() - wall, "cpu": time.process_time() - cpu}
    else:
        for number in WARM_UP:
            await app.submit(number)
        await sleep(_PAUSE)
        began = []
        for number in range(count):
            began.append(time.monotonic_ns())
            await app.submit(number)
            await sleep(random.uniform(*PAUSES))
        found = {"began": began}
    await app.close()
    return found


if __name__ == "__main__":
    main()
