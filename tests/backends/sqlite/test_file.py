"""Which files are taken, and what is said of the others."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
import trio

from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from task_queue_engine.errors import BackendRefused
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check


async def refusal(path: Path | str) -> str:
    """What is said when this path is opened; one line that names it."""
    with pytest.raises(BackendRefused) as raised:
        async with SqliteBackend(path).open():
            pass
    said = str(raised.value)
    assert str(path) in said
    assert "\n" not in said
    return said


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def file_modes(folder: Path) -> dict[str, int]:
    return {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()}


async def make(path: Path) -> None:
    """A file of the backend's with tasks in it, and nothing left in a WAL."""
    harness = SqliteHarness(path)
    backend = harness.backend
    async with backend.open():
        for _ in range(50):
            await harness.send(await harness.create(payload="x" * 1000))
    assert not path.with_name(path.name + "-wal").exists()


# --- other files ----------------------------------------------------------------------------


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    assert "not a SQLite database" in await refusal(path)
    assert path.read_text().startswith("Dear diary")


async def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE customers (name)")
    connection.close()
    before = path.read_bytes()

    assert "another program" in await refusal(path)

    assert path.read_bytes() == before
    assert names(tmp_path) == ["other.db"]


async def test_an_empty_database_that_another_program_has_marked(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = apsw.Connection(str(path))
    connection.pragma("application_id", 17)
    connection.close()
    assert "another program" in await refusal(path)


async def test_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make(path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()
    assert "newer version (schema 99" in await refusal(path)


async def test_a_schema_that_lost_a_table(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make(path)
    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE messages")
    connection.close()
    assert "damaged" in await refusal(path)


# --- damaged --------------------------------------------------------------------------------


async def test_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in await refusal(path)


async def test_a_file_cut_in_its_first_page(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make(path)
    path.write_bytes(path.read_bytes()[:700])
    assert "damaged" in await refusal(path)


async def test_a_schema_page_of_noise(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make(path)
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xa5" * (4096 - 100)
    path.write_bytes(data)
    assert "damaged" in await refusal(path)


async def test_damage_found_at_work(tmp_path: Path) -> None:
    """Not looked for at the start, which would take as long as the file is large."""
    path = tmp_path / "tasks.db"
    await make(path)
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    harness = SqliteHarness(tmp_path / "tasks.db")
    backend = harness.backend
    async with backend.open():
        with pytest.raises(BackendRefused, match=r"tasks\.db is damaged"):
            await harness.create()
        with pytest.raises(BackendRefused, match=r"tasks\.db is damaged"):
            await backend.store.counts()


# --- places ---------------------------------------------------------------------------------


async def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in await refusal(tmp_path)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    said = await refusal(tmp_path / "nowhere" / "tasks.db")
    assert f"no folder {tmp_path / 'nowhere'}" in said


async def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await refusal(tmp_path / "file" / "tasks.db")


@pytest.mark.parametrize("path", ["", ":memory:", "file:x?mode=memory", "a\0b"])
async def test_what_is_no_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackendRefused, match="is not the path of a file; set TQE_DATABASE"):
        async with SqliteBackend(path).open():
            pass
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["with space.db", "q?mode=ro.db", "a:b.db", "ünï🍌.db", "100%.db", "#.db", "';--.db"]
)
async def test_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    await make(path)
    assert names(tmp_path) == [name]
    check(path)


async def test_a_relative_path_is_of_the_folder_it_was_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SqliteBackend("tasks.db")
    monkeypatch.chdir("/")
    async with backend.open():
        assert str(tmp_path / "tasks.db") in backend.info.detail
    assert (tmp_path / "tasks.db").exists()


async def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").touch()
    await make(tmp_path / "tasks.db")
    check(tmp_path / "tasks.db")


async def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "tasks.db")
    backend = harness.backend
    async with backend.open():
        await harness.create()
        modes = file_modes(tmp_path)
    assert modes == dict.fromkeys(("tasks.db", "tasks.db-wal", "tasks.db-shm"), 0o600)


@pytest.mark.parametrize("kind", ["to nothing", "to an empty file", "by another link"])
async def test_by_a_link_it_has_the_mode_of_one_made_directly(tmp_path: Path, kind: str) -> None:
    """And its log lies beside it, not beside the link."""
    folder = tmp_path / "real"
    folder.mkdir()
    link = tmp_path / "tasks.db"
    if kind == "by another link":
        (tmp_path / "between").symlink_to(folder / "data.db")
        link.symlink_to("between")
    else:
        link.symlink_to(folder / "data.db")
    if kind == "to an empty file":
        (folder / "data.db").touch(0o600)
    harness = SqliteHarness(link)
    async with harness.backend.open():
        await harness.create()
        assert file_modes(folder) == dict.fromkeys(("data.db", "data.db-wal", "data.db-shm"), 0o600)
    assert names(folder) == ["data.db"]


async def test_a_link_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    link = tmp_path / "tasks.db"
    link.symlink_to(tmp_path / "nowhere" / "tasks.db")
    assert f"no folder {tmp_path / 'nowhere'}" in await refusal(link)


async def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    await refusal(tmp_path / "a")


async def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in await refusal(tmp_path / "pipe")


async def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    said = await refusal(tmp_path / ("x" * 300))
    assert "File name too long" in said


async def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/tasks\xff.db")
    with pytest.raises(BackendRefused, match=r"tasks\\udcff\.db' is not UTF-8"):
        async with SqliteBackend(name).open():
            pass
    assert names(tmp_path) == []


async def test_a_folder_that_is_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    await trio.Path(folder).mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(BackendRefused, match="is not UTF-8"):
        async with SqliteBackend("tasks.db").open():
            pass


async def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await make(path)
    path.chmod(0o660)
    harness = SqliteHarness(tmp_path / "tasks.db")
    backend = harness.backend
    async with backend.open():
        await harness.create()
        modes = file_modes(tmp_path)
    assert set(modes.values()) == {0o660}


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are only for one."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def modes(file: Path, mode: int, folder_mode: int) -> Iterator[None]:
    """The file and its folder with these modes, for a user without root's rights."""
    user = os.geteuid()
    if file.exists():
        file.chmod(mode)
    file.parent.chmod(folder_mode)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        file.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("mode", "folder_mode"),
    [(0o444, 0o777), (0, 0o777), (0o666, 0o555)],
    ids=["only to be read", "not to be read", "in a folder only to be read"],
)
async def test_a_file_that_may_not_be_written(
    public_folder: Path, mode: int, folder_mode: int
) -> None:
    path = public_folder / "tasks.db"
    await make(path)
    with modes(path, mode, folder_mode):
        assert "may be written by this user" in await refusal(path)


async def test_a_new_file_in_a_folder_that_may_not_be_written(public_folder: Path) -> None:
    path = public_folder / "tasks.db"
    with modes(path, 0, 0o555):
        assert "may be written by this user" in await refusal(path)


# --- its own --------------------------------------------------------------------------------


async def test_the_file_says_whose_it_is_and_outlives_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SqliteBackend(path)
    async with backend.open():
        modes = await backend._file.writer.run(
            lambda t: [t.connection.pragma(name) for name in ("journal_mode", "synchronous")]
        )
    assert modes == ["wal", 2]  # 2: FULL
    connection = apsw.Connection(str(path))
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.pragma("user_version") == SCHEMA_VERSION
    connection.close()


async def test_a_closed_backend_leaves_one_file(tmp_path: Path) -> None:
    """A copy of it is then a whole backup."""
    await make(tmp_path / "tasks.db")
    assert names(tmp_path) == ["tasks.db"]


@pytest.mark.parametrize("_", range(10))
async def test_engines_of_one_process_may_start_on_a_new_file_at_once(
    tmp_path: Path, _: int
) -> None:
    async def use() -> None:
        backend = SqliteBackend(tmp_path / "tasks.db")
        async with backend.open():
            await backend.ping()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(use)
