from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.image.output import write_output
from task_queue_engine.handlers.image.settings import ImageSettings
from task_queue_engine.retry import Discard, Retry


def write(
    directory: Path,
    data: bytes = b"new",
    *,
    name: str = "a.jpg",
    task_id: str = "task-1",
    attempt: int = 1,
    overwrite: bool = False,
) -> Path:
    return write_output(
        directory,
        name,
        data,
        limits=ImageSettings().folder_limits(),
        task_id=task_id,
        attempt=attempt,
        overwrite=overwrite,
    )


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_the_file_is_written_and_nothing_else(tmp_path: Path) -> None:
    written = write(tmp_path / "new" / "images")
    assert written == tmp_path / "new" / "images" / "a.jpg"
    assert written.read_bytes() == b"new"
    assert names(written.parent) == {"a.jpg"}


def test_a_relative_directory_gives_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write(Path("images")) == tmp_path / "images" / "a.jpg"


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(f"{path.name} while {sorted(names(tmp_path))}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path)
    assert synced == [
        ".task-1.1.part while ['.task-1.1.part']",
        f"{tmp_path.name} while ['a.jpg']",
    ]


def test_a_repeated_attempt_replaces_its_own_file(tmp_path: Path) -> None:
    first = write(tmp_path, b"first")
    try:
        os.getxattr(first, "user.task_queue_engine.task")
    except (OSError, AttributeError):
        pytest.skip("needs a file system with extended attributes")
    write(tmp_path, b"second", attempt=2)
    assert (tmp_path / "a.jpg").read_bytes() == b"second"


def test_another_tasks_file_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path, b"theirs", task_id="task-0")
    with pytest.raises(Discard, match=r"a\.jpg exists and another task wrote it; overwrite: true"):
        write(tmp_path)
    assert (tmp_path / "a.jpg").read_bytes() == b"theirs"
    assert names(tmp_path) == {"a.jpg"}


def test_another_tasks_file_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, b"theirs", task_id="task-0")
    write(tmp_path, overwrite=True)
    assert (tmp_path / "a.jpg").read_bytes() == b"new"


def test_without_attributes_the_same_content_counts_as_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_supported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", not_supported, raising=False)
    monkeypatch.setattr(os, "getxattr", not_supported, raising=False)
    write(tmp_path, b"same")
    write(tmp_path, b"same", attempt=2)
    with pytest.raises(Discard, match="exists"):
        write(tmp_path, b"same, and more", attempt=3)


def test_without_hard_links_names_are_still_taken_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_supported(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", not_supported)
    write(tmp_path, b"theirs", task_id="task-0")
    with pytest.raises(Discard, match="exists"):
        write(tmp_path)
    assert names(tmp_path) == {"a.jpg"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_in_the_way_is_never_written_through(overwrite: bool, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    directory = tmp_path / "images"
    directory.mkdir()
    (directory / "a.jpg").symlink_to(outside)
    (directory / ".task-1.1.part").symlink_to(outside)
    if overwrite:
        assert not write(directory, overwrite=True).is_symlink()
    else:
        with pytest.raises(Discard, match="exists"):
            write(directory)
    assert outside.read_bytes() == b"precious"


def test_a_link_to_the_same_content_is_not_ones_own_file(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"new")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "outside")
    with pytest.raises(Discard, match="exists"):
        write(tmp_path / "images")


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(Discard, match="is a directory"):
        write(tmp_path, overwrite=True)
    assert names(tmp_path) == {"a.jpg"}


def test_what_killed_attempts_left_is_removed_and_others_parts_are_not(tmp_path: Path) -> None:
    for part in (".task-1.1.part", ".task-1.2.part", ".task-1.3.part", ".task-2.1.part"):
        (tmp_path / part).write_bytes(b"half")
    write(tmp_path, attempt=3)
    assert names(tmp_path) == {"a.jpg", ".task-2.1.part"}


def test_an_attempt_that_was_overtaken_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def overtaken(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        write(tmp_path, b"of attempt 2", attempt=2)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", overtaken)
    with pytest.raises(Retry):
        write(tmp_path, b"of attempt 1", attempt=1)
    assert (tmp_path / "a.jpg").read_bytes() == b"of attempt 2"


def test_a_full_disk_is_worth_a_retry_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Retry, match=r"TQE_IMAGE_OUTPUT .*: the disk is full"):
        write(tmp_path)
    assert names(tmp_path) == set()


def test_a_directory_that_cannot_be_one_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"a file")
    for directory in (tmp_path / "images", tmp_path / "images" / "deeper"):
        with pytest.raises(ConfigurationError) as caught:
            write(directory)
        assert caught.value.variable == "TQE_IMAGE_OUTPUT"
