"""Several processes on one file, and one that is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import trio

from task_queue_engine.backends.sqlite import SqliteBackend
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check
from tests.cli.preloaded import PreloadedCompanion

ROOT = Path(__file__).parents[3]


@contextmanager
def child(what: str, path: Path, *more: str) -> Iterator[PreloadedCompanion]:
    process = PreloadedCompanion(
        [what, str(path), *more], cwd=ROOT, env=os.environ, module="tests.backends.sqlite.child"
    )
    with closing(process):
        yield process


def read_line(process: PreloadedCompanion) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


async def test_a_receive_that_waits_notices_what_another_process_sends(path: Path) -> None:
    backend = SqliteBackend(path)
    async with backend.open():
        queue = backend.queue("default")
        with child("send", path) as process, trio.fail_after(20):
            assert await trio.to_thread.run_sync(read_line, process) == "ready"

            async def send() -> None:
                await trio.sleep(0.05)
                process.communicate("now\n")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                found = await queue.receive(1, wait=60, visibility=30)
    assert len(found) == 1


async def test_many_processes_may_start_on_a_new_file_at_once(path: Path) -> None:
    count = 6
    with ExitStack() as stack:
        started = [stack.enter_context(child("open", path)) for _ in range(count)]
        assert [process.wait(30) for process in started] == [0] * count
    harness = SqliteHarness(path)
    backend = harness.backend
    async with backend.open():
        await harness.counts(pending=count)
    check(path)


async def test_killed_in_the_middle_of_everything(path: Path) -> None:
    """Nothing that was answered is lost, and every count is right: at once, not after a repair."""
    answered: list[str] = []
    for lines in (1, 57, 400):
        with child("load", path) as process, trio.fail_after(20):
            for _ in range(lines):
                answered.append(await trio.to_thread.run_sync(read_line, process))
            process.kill()
            assert process.stdout is not None
            # The last line may be cut short.
            answered += process.stdout.read().split("\n")[:-1]
        check(path)
        backend = SqliteBackend(path)
        async with backend.open():
            stored = await backend.store.get(answered)
            assert None not in stored
            assert (await backend.store.counts()).total >= len(answered)
        check(path)


async def test_two_processes_that_write_all_the_time_both_get_on(path: Path) -> None:
    with child("load", path) as other, trio.fail_after(20):
        await trio.to_thread.run_sync(read_line, other)
        harness = SqliteHarness(path)
        backend = harness.backend
        async with backend.open():
            mine = [await harness.create() for _ in range(50)]
            assert None not in await harness.store.get([task.id for task in mine])
        other.kill()
    check(path)
