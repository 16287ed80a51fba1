"""A disk that is full or fails: nothing is lost or half done, and it recovers by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import trio

from task_queue_engine.backends.base import Message, NewTask
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.errors import BackendError, BackendUnavailable
from task_queue_engine.lifecycle import ClaimRequest, Complete
from tests.backends.sqlite.child import new_task
from tests.backends.sqlite.faulty_disk import FaultyDisk, faulty_disk
from tests.backends.sqlite.sqlite_file import check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def disk() -> AsyncIterator[FaultyDisk]:
    with faulty_disk() as made:
        yield made


@pytest.fixture
async def backend(disk: FaultyDisk, path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path)
    async with backend.open():
        with trio.fail_after(30):
            yield backend
        disk.fault = disk.on_sync = None


FAULTS = {
    "full": ("fault", apsw.FullError("database or disk is full")),
    "write": ("fault", apsw.IOError("disk I/O error")),
    "sync": ("on_sync", apsw.IOError("disk I/O error")),
}


@pytest.mark.parametrize(("where", "fault"), FAULTS.values(), ids=FAULTS.keys())
async def test_every_write_says_so_and_goes_on_afterwards(
    backend: SqliteBackend, disk: FaultyDisk, path: Path, where: str, fault: apsw.Error
) -> None:
    queue, store = backend.queue("default"), backend.store
    running = new_task()
    await store.create([NewTask(task=running)])
    await queue.send([Message(task=running)])
    (delivery,) = await queue.receive(1, wait=0, visibility=30)
    await store.claim(
        [
            ClaimRequest(
                task_id=running.id, message_id=delivery.message_id, receive_count=1, worker="w"
            )
        ]
    )
    late, finish = new_task(), Complete(task_id=running.id, attempt=1, result="x" * 100)
    writes = [
        lambda: store.create([NewTask(task=late)]),
        lambda: queue.send([Message(task=running)]),
        lambda: store.record([finish]),
        lambda: queue.extend([delivery], visibility=60),
        lambda: queue.delete([delivery]),
        lambda: backend.ping(),
    ]

    setattr(disk, where, fault)
    for write in writes:
        with pytest.raises(BackendUnavailable, match=r"tasks\.db"):
            await write()
    assert await store.get([late.id]) == [None]
    assert (await store.counts()).processing == 1
    assert (await queue.depth()).in_flight == 1

    setattr(disk, where, None)
    for write in writes:
        await write()
    counts = await store.counts()
    assert (counts.pending, counts.completed, counts.total) == (1, 1, 2)
    depth = await queue.depth()
    assert (depth.waiting, depth.in_flight) == (1, 0)
    check(path)


async def test_a_disk_that_is_full_at_the_start(disk: FaultyDisk, path: Path) -> None:
    disk.fault = apsw.FullError("database or disk is full")
    with pytest.raises(BackendError, match="no room"):
        async with SqliteBackend(path).open():
            pass
    disk.fault = None
    async with SqliteBackend(path).open():
        pass
