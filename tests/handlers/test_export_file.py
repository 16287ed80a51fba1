"""The file appears whole or not at all, where it should and nowhere else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task_queue_engine.clock import SystemClock
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.export.file import ExportResult, write_export
from task_queue_engine.handlers.export.rows import RowSource
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.files import STALE_AFTER, StagedFile
from task_queue_engine.handlers.result_file import OWNER_ATTRIBUTE
from task_queue_engine.retry import Discard, Retry
from task_queue_engine.task import new_task_id
from tests.handlers.exporting import accept, all_files, attempt


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    return tmp_path / "exports"


def write(
    *values: Any, task_id: str | None = None, number: int = 1, **options: Any
) -> ExportResult:
    return write_rows(iter([(value,) for value in values]), task_id, number, **options)


def write_rows(
    rows: Iterator[Any], task_id: str | None = None, number: int = 1, **options: Any
) -> ExportResult:
    return write_export(
        RowSource(("a",), rows),
        accept({"rows": [], **options}),
        ExportSettings(),
        attempt(number, task_id),
    )


def test_nothing_is_there_under_the_name_until_all_of_it_is(exports: Path) -> None:
    def rows() -> Iterator[tuple[int]]:
        for number in range(200_000):
            if number % 50_000 == 0:
                assert not (exports / "x.csv").exists()
            yield (number,)

    result = write_rows(rows(), filename="x")
    assert all_files(exports) == ["x.csv"]
    assert (exports / "x.csv").stat().st_size == result.bytes


def test_a_failure_in_the_middle_leaves_nothing(exports: Path) -> None:
    def rows() -> Iterator[tuple[int]]:
        for number in range(100_000):
            yield (number,)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_rows(rows(), filename="x")
    assert all_files(exports) == []


KILLED = """
import sys
from task_queue_engine.handlers.export.file import write_export
from task_queue_engine.handlers.export.rows import RowSource
from task_queue_engine.handlers.export.settings import ExportSettings
from tests.handlers.exporting import accept, attempt

def rows():
    for number in range(100_000):
        yield (number,)
    print("half", flush=True)
    sys.stdin.read()

write_export(
    RowSource(("a",), rows()), accept({"rows": [], "filename": "x"}), ExportSettings(),
    attempt(1, sys.argv[1]),
)
"""


def test_a_killed_attempt_leaves_nothing_under_the_name_and_the_next_tidies_up(
    exports: Path,
) -> None:
    task_id = new_task_id()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, task_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert all_files(exports) == [f".{task_id}.1.part"]

    write(1, task_id=task_id, number=2, filename="x")
    assert all_files(exports) == ["x.csv"]
    assert (exports / "x.csv").read_bytes() == b"a\r\n1\r\n"


def test_content_is_on_disk_before_the_name_is_and_the_name_before_the_result(
    monkeypatch: pytest.MonkeyPatch, exports: Path
) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(fd: int) -> None:
        done.append("fsync " + Path(f"/proc/self/fd/{fd}").readlink().name.rpartition(".")[2])
        fsync(fd)

    def spy_link(*args: Any, **options: Any) -> None:
        done.append("link")
        link(*args, **options)

    exports.mkdir()
    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    write(1, filename="x")
    assert done == ["fsync part", "link", "fsync exports"]


# --- names that are taken ---------------------------------------------------------------------


def test_another_tasks_file_is_not_replaced(exports: Path) -> None:
    write("old", filename="x")
    with pytest.raises(Discard, match=r"x\.csv exists"):
        write("new", filename="x")
    assert (exports / "x.csv").read_bytes() == b"a\r\nold\r\n"
    assert all_files(exports) == ["x.csv"]


def test_a_foreign_file_is_not_replaced_even_by_a_later_attempt(exports: Path) -> None:
    exports.mkdir()
    (exports / "x.csv").write_text("mine")
    for number in (1, 2):
        with pytest.raises(Discard, match=r"x\.csv exists"):
            write("new", filename="x", number=number)
    assert (exports / "x.csv").read_text() == "mine"


def test_a_name_taken_while_the_export_ran_is_not_replaced(exports: Path) -> None:
    def rows() -> Iterator[tuple[str]]:
        yield ("slow",)
        write("quick", filename="x")

    with pytest.raises(Discard, match=r"x\.csv exists"):
        write_rows(rows(), filename="x")
    assert (exports / "x.csv").read_bytes() == b"a\r\nquick\r\n"
    assert all_files(exports) == ["x.csv"]


def test_a_taken_name_is_refused_before_the_work_is_done() -> None:
    write("old", filename="x")

    def rows() -> Iterator[Any]:
        raise AssertionError("the query ran")
        yield

    with pytest.raises(Discard):
        write_rows(rows(), filename="x")


def test_overwrite_replaces(exports: Path) -> None:
    write("old", filename="x")
    write("new", filename="x", overwrite=True)
    assert (exports / "x.csv").read_bytes() == b"a\r\nnew\r\n"
    assert all_files(exports) == ["x.csv"]


def has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, OWNER_ATTRIBUTE, b"")
    except (OSError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("filename", ["x", None])
def test_a_retry_of_the_same_task_replaces_its_own_file(
    exports: Path, tmp_path: Path, filename: str | None
) -> None:
    if filename is not None and not has_attributes(tmp_path):
        pytest.skip("the file system of the temporary folder has no extended attributes")
    task_id = new_task_id()
    write("first", task_id=task_id, number=1, filename=filename)
    # It died before COMPLETED was written; the data has changed meanwhile.
    second = write("second", task_id=task_id, number=2, filename=filename)
    assert Path(second.path).read_bytes() == b"a\r\nsecond\r\n"
    assert len(all_files(exports)) == 1


@pytest.fixture
def no_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: Any) -> Any:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)


@pytest.mark.usefixtures("no_attributes")
def test_without_extended_attributes_a_retry_is_known_by_its_content(exports: Path) -> None:
    task_id = new_task_id()
    write("same", task_id=task_id, number=1, filename="x")
    write("same", task_id=task_id, number=2, filename="x")
    with pytest.raises(Discard):
        write("different", task_id=task_id, number=3, filename="x")
    with pytest.raises(Discard):
        write("same", filename="x")  # another task's first attempt
    assert all_files(exports) == ["x.csv"]


def test_without_hard_links_names_are_respected_too(
    monkeypatch: pytest.MonkeyPatch, exports: Path
) -> None:
    def unsupported(*args: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)
    write("old", filename="x")
    with pytest.raises(Discard):
        write("new", filename="x")
    assert (exports / "x.csv").read_bytes() == b"a\r\nold\r\n"
    assert all_files(exports) == ["x.csv"]


# --- where it goes ----------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_symlink_of_that_name_leads_nowhere(
    exports: Path, tmp_path: Path, overwrite: bool
) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("precious")
    exports.mkdir()
    (exports / "x.csv").symlink_to(outside)
    if overwrite:
        write("new", filename="x", overwrite=True)
        assert not (exports / "x.csv").is_symlink()
    else:
        for number in (1, 2):
            with pytest.raises(Discard):
                write("new", filename="x", number=number)
    assert outside.read_text() == "precious"


def test_a_symlink_instead_of_the_part_leads_nowhere(exports: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    task_id = new_task_id()
    exports.mkdir()
    (exports / f".{task_id}.1.part").symlink_to(outside)
    write("new", task_id=task_id, filename="x")
    assert outside.read_text() == "precious"
    assert (exports / "x.csv").read_bytes() == b"a\r\nnew\r\n"


def test_a_folder_moved_away_takes_the_file_with_it(exports: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def rows() -> Iterator[tuple[int]]:
        exports.rename(tmp_path / "moved")
        exports.symlink_to(elsewhere)
        yield (1,)

    write_rows(rows(), filename="x")
    assert all_files(elsewhere) == []
    assert all_files(tmp_path / "moved") == ["x.csv"]


def test_a_folder_of_that_name_is_in_the_way(exports: Path) -> None:
    (exports / "x.csv").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(Discard, match=r"x\.csv is a directory"):
            write("new", filename="x", overwrite=overwrite)
    assert all_files(exports) == ["x.csv"]


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_folder_that_cannot_be_used_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "plain").write_text("")
    folder = tmp_path / "plain" if kind == "file" else tmp_path / "plain" / "below"
    monkeypatch.setenv("TQE_EXPORT_DIR", str(folder))
    with pytest.raises(ConfigurationError) as failed:
        write(1)
    assert failed.value.variable == "TQE_EXPORT_DIR"


# --- trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_retried_and_leaves_nothing(
    exports: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    exports.mkdir()
    with monkeypatch.context() as patched:
        if call == "write":
            patched.setattr(StagedFile, "write", full)
        else:
            patched.setattr(os, "fsync", full)
        with pytest.raises(Retry, match="disk is full"):
            write(1)
    assert all_files(exports) == []


def test_an_attempt_that_was_overtaken_cannot_publish(exports: Path) -> None:
    task_id = new_task_id()

    def rows() -> Iterator[tuple[str]]:
        yield ("zombie",)
        write("heir", task_id=task_id, number=2, filename="x")

    with pytest.raises(Retry):
        write_rows(rows(), task_id, 1, filename="x")
    assert (exports / "x.csv").read_bytes() == b"a\r\nheir\r\n"
    assert all_files(exports) == ["x.csv"]


def test_parts_that_belong_to_nobody_are_removed_and_others_left(exports: Path) -> None:
    exports.mkdir()
    old = exports / f".{new_task_id()}.1.part"
    fresh = exports / f".{new_task_id()}.1.part"
    unlike = exports / ".something.part"
    for path in (old, fresh, unlike):
        path.write_bytes(b"half")
    long_ago = SystemClock().now().timestamp() - STALE_AFTER - 60
    os.utime(old, (long_ago, long_ago))
    os.utime(unlike, (long_ago, long_ago))
    write(1, filename="x")
    assert all_files(exports) == sorted([fresh.name, unlike.name, "x.csv"])
