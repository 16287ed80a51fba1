"""What live events cost: short tasks beside a handler that says 2,000 things a second.

    python -m benchmarks.live_events

Each case is the same work: so many lines and so many tasks that do nothing. Prints the CPU that the
process has used for it, which a busy machine changes little, and how long such a task took from
submit to its end. A case is a process of its own, so that none warms another up.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.backends.sqlite import SqliteBackend

SECONDS = 8.0
EVENTS_A_SECOND = 2_000
TASKS_A_SECOND = 100
CASES = {
    "quiet": "no one says anything, no one watches",
    "said": "2,000 lines a second, no one watches",
    "watched": "the same, one watches all tasks",
    "ten": "the same, ten watch all tasks",
    "slow": "the same, ten watch and do not read",
    "elsewhere": "the same, another process on the file listens",
}

tasks = TaskRegistry()
logger = logging.getLogger("benchmark")


@tasks.task("nothing")
async def nothing(payload: object) -> None: ...


@tasks.task("says")
async def says(lines: int) -> None:
    began, said = trio.current_time(), 0
    while said < lines:
        due = min(lines, int((trio.current_time() - began) * EVENTS_A_SECOND))
        for number in range(said, due):
            logger.warning("line %d of a handler that says a lot", number)
        said = due
        await trio.sleep(0.01)


async def measure(case: str, path: Path) -> None:
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    settings = Settings(_env_file=None, shutdown_grace=0)
    takes: list[float] = []
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(Engine(tasks, settings, backend=SqliteBackend(path)).run)
        heard = 0

        async def watch() -> None:
            nonlocal heard
            async for _ in engine.events():
                heard += 1
                if case == "slow":
                    await trio.sleep_forever()

        for _ in range({"watched": 1, "ten": 10, "slow": 10}.get(case, 0)):
            nursery.start_soon(watch)
        listener: subprocess.Popen[bytes] | None = None
        if case == "elsewhere":
            listener = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
                [sys.executable, "-m", __spec__.name, "--listen", str(path)]
            )
            await trio.sleep(3)
        await trio.sleep(1)

        async def one() -> None:
            began = trio.current_time()
            handle = await engine.submit(nothing)
            await handle.result()
            takes.append(trio.current_time() - began)

        cpu, began = time.process_time(), trio.current_time()
        lines = 0 if case == "quiet" else int(SECONDS * EVENTS_A_SECOND)
        saying = await engine.submit(says, lines)
        async with trio.open_nursery() as running:
            for number in range(int(SECONDS * TASKS_A_SECOND)):
                await trio.sleep_until(began + number / TASKS_A_SECOND)
                running.start_soon(one)
        await saying.result()
        cpu = time.process_time() - cpu
        if listener is not None:
            listener.terminate()
            listener.wait()
        nursery.cancel_scope.cancel()
    ranked = statistics.quantiles(takes, n=100)
    print(
        f"{CASES[case]:48} {cpu:5.2f} s CPU   a task: "
        f"{1000 * ranked[49]:5.2f} ms, 99th percentile {1000 * ranked[98]:5.2f} ms   "
        f"{heard:7d} heard",
        flush=True,
    )


async def listen(path: Path) -> None:
    settings = Settings(_env_file=None)
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(
            Engine(tasks, settings, backend=SqliteBackend(path), consume=False).run
        )
        async for _ in engine.events():
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--listen", type=Path)
    given = parser.parse_args()
    if given.listen is not None:
        trio.run(listen, given.listen)
    elif given.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            trio.run(measure, given.case, Path(folder) / "tasks.db")
    else:
        for case in CASES:
            command = [sys.executable, "-m", __spec__.name, "--case", case]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
