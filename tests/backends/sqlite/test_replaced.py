"""The file is removed, moved or replaced while it is in use: nothing is stored to be lost."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from task_queue_engine.backends.sqlite import SqliteBackend, files_in_use
from task_queue_engine.errors import BackendUnavailable
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def harness(path: Path) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(path)
    async with harness.backend.open():
        yield harness


async def refused(harness: SqliteHarness, what: str) -> None:
    for write in (harness.create, harness.backend.ping, harness.receive):
        with pytest.raises(BackendUnavailable, match=f"{what} while it is in use"):
            await write()


async def test_a_file_that_is_removed(harness: SqliteHarness, path: Path) -> None:
    kept = await harness.create()
    await trio.Path(path).unlink()
    await refused(harness, r"tasks\.db was removed")
    assert await harness.get(kept.id) == kept, "what it had can still be looked up"


async def test_everything_removed_and_started_anew_by_another_process(path: Path) -> None:
    """The old one takes nothing more, and closes without harm to the new one."""
    old, new = SqliteHarness(path), SqliteHarness(path)
    async with old.backend.open():
        await old.create()
        for name in ("tasks.db", "tasks.db-wal", "tasks.db-shm"):
            path.with_name(name).unlink()
        async with new.backend.open():
            task = await new.create()
            await refused(old, r"tasks\.db was replaced by another file")
            await new.create()
    async with new.backend.open():
        assert await new.get(task.id) == task
        await new.counts(pending=2)
    check(path)


async def test_a_backup_moved_into_its_place(
    harness: SqliteHarness, path: Path, tmp_path: Path
) -> None:
    shutil.copy(path, tmp_path / "backup")
    (tmp_path / "backup").replace(path)
    await refused(harness, r"tasks\.db was replaced by another file")


async def test_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    (tmp_path / "other").touch()
    link.symlink_to(tmp_path / "one.db")
    harness = SqliteHarness(link)
    async with harness.backend.open():
        await harness.create()
        link.unlink()
        link.symlink_to(tmp_path / "other")
        await refused(harness, r"link\.db was replaced by another file")


@pytest.mark.parametrize("name", ["tasks.db-wal", "tasks.db-shm"])
async def test_its_log_alone_removed(
    harness: SqliteHarness, path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_in_use, "_EVERY", 0.0)
    await harness.create()
    path.with_name(name).unlink()
    await refused(harness, f"{name} was removed")


async def test_put_back_it_goes_on(harness: SqliteHarness, path: Path) -> None:
    kept = await harness.create()
    away = path.with_suffix(".away")
    await trio.Path(path).rename(away)
    await refused(harness, r"tasks\.db was removed")
    await trio.Path(away).rename(path)
    await harness.create()
    assert await harness.get(kept.id) == kept
    await harness.counts(pending=2)
    check(path)


async def test_ping_notices_that_the_file_is_gone(path: Path) -> None:
    backend = SqliteBackend(path)
    async with backend.open():
        await backend.ping()
        await trio.Path(path).rename(path.with_suffix(".moved"))
        with pytest.raises(BackendUnavailable, match="was removed"):
            await backend.ping()
