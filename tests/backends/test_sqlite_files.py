"""Which files the embedded backend opens, and how it says no to the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
import trio

from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from task_queue_engine.errors import BackendRefused, BackendUnavailable
from tests.backends.steps import create, write_lock


async def refusal(path: Path | str) -> str:
    """Open it, which must be refused; the one line that says why."""
    with pytest.raises(BackendRefused) as caught:
        async with SqliteBackend(path).open():
            pass
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


async def make_ours(path: Path) -> None:
    async with SqliteBackend(path).open():
        pass


def edit(path: Path, *statements: str) -> None:
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def test_a_new_file_is_made_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteBackend(path).open():
        pass
    backend = SqliteBackend(str(path))
    async with backend.open():
        task = await create(backend)
    async with backend.open():
        assert await backend.store.get([task.id]) == [task]


async def test_an_empty_file_is_taken_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch()
    async with SqliteBackend(path).open():
        pass


async def test_the_file_says_whose_it_is_and_is_safe_against_power_loss(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SqliteBackend(path)
    async with backend.open():
        modes = await backend._writer.run(
            lambda t: [
                t.execute(f"PRAGMA {name}").fetchall()[0][0]
                for name in ("journal_mode", "synchronous")
            ]
        )
    assert modes == ["wal", 2]
    connection = apsw.Connection(str(path))
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.pragma("user_version") == SCHEMA_VERSION
    connection.close()


async def test_nothing_is_left_behind_on_closing(tmp_path: Path) -> None:
    """A copy of the one file is then a whole backup."""
    path = tmp_path / "tasks.db"
    backend = SqliteBackend(path)
    async with backend.open():
        await create(backend)
    assert names(tmp_path) == ["tasks.db"]


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(b"Dear diary, " * 500)
    assert "not a" in await refusal(path)
    assert path.read_bytes() == b"Dear diary, " * 500


async def test_a_database_of_another_program_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    edit(path, "CREATE TABLE users (id INTEGER)")
    before = path.read_bytes()
    assert "another program" in await refusal(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["app.db"]


async def test_a_database_with_another_application_id(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    edit(path, "PRAGMA application_id = 42", "PRAGMA user_version = 3")
    assert "another program" in await refusal(path)


async def test_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make_ours(path)
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert "newer" in await refusal(path)


async def test_a_table_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make_ours(path)
    edit(path, "DROP TABLE messages")
    assert "messages" in await refusal(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"\xff" * 100 + data[100:],
        lambda data: data[:100] + b"\xff" * 2000 + data[2100:],
        lambda data: data[:1000],
    ],
    ids=["header", "first page", "cut off"],
)
async def test_a_damaged_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "tasks.db"
    await make_ours(path)
    path.write_bytes(damage(path.read_bytes()))
    assert "damaged" in await refusal(path)


async def create_many(backend: SqliteBackend) -> None:
    for _ in range(50):
        await create(backend, payload="x" * 2000)


async def test_damage_met_later_is_hopeless_not_passing(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SqliteBackend(path)
    async with backend.open():
        await create_many(backend)
    data = bytearray(path.read_bytes())
    for start in range(4096 * 3, len(data), 4096):
        data[start : start + 100] = b"\xff" * 100
    path.write_bytes(data)
    async with backend.open():
        with pytest.raises(BackendRefused, match="damaged"):
            await create_many(backend)


async def test_a_directory(tmp_path: Path) -> None:
    assert "directory" in await refusal(tmp_path)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "make it first" in await refusal(tmp_path / "nowhere" / "tasks.db")


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await refusal(tmp_path / "file" / "tasks.db")


async def test_memory_is_no_file() -> None:
    await refusal(":memory:")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody may write to")
async def test_a_folder_nobody_may_write_to() -> None:
    assert "written" in await refusal("/proc/self/tasks.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
@pytest.mark.parametrize("what", ["file", "folder"])
async def test_without_permission(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "tasks.db"
    if what == "file":
        await make_ours(path)
        path.chmod(0o444)
    else:
        folder.chmod(0o555)
    try:
        assert "written" in await refusal(path)
    finally:
        folder.chmod(0o755)


async def test_a_file_locked_for_long_is_passing_trouble(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make_ours(path)
    backend = SqliteBackend(path, busy_timeout=0.05)
    with write_lock(path), pytest.raises(BackendUnavailable, match="locked"):
        async with backend.open():
            pass
    async with backend.open():
        await backend.ping()


@pytest.mark.parametrize("_", range(10))
async def test_engines_may_open_a_new_file_at_once(tmp_path: Path, _: int) -> None:
    path = tmp_path / "tasks.db"

    async def use() -> None:
        backend = SqliteBackend(path)
        async with backend.open():
            await create(backend)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(use)
    backend = SqliteBackend(path)
    async with backend.open():
        assert (await backend.store.counts()).pending == 4


async def test_one_object_may_be_opened_by_several(tmp_path: Path) -> None:
    """It is closed when the last of them is done."""
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        async with backend.open():
            await create(backend)
        await create(backend)
    with pytest.raises(BackendUnavailable):
        await backend.store.counts()
