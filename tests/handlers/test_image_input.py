from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.image import input as image_input
from task_queue_engine.handlers.image.input import check_relative, read_below
from task_queue_engine.retry import Discard


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-but-longer").mkdir()
    (tmp_path / "root-but-longer" / "secret").write_bytes(b"secret")
    inside = tmp_path / "root"
    (inside / "photos").mkdir(parents=True)
    (inside / "photos" / "a.jpg").write_bytes(b"a picture")
    return inside


def read(root: Path, path: str, max_bytes: int = 100) -> bytes:
    return read_below(root, path, max_bytes=max_bytes)


def test_a_file_below_the_root_is_read(root: Path) -> None:
    assert read(root, "photos/a.jpg") == b"a picture"
    assert read(root, "./photos//a.jpg") == b"a picture"


def test_the_root_itself_may_be_behind_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path / "link", "photos/a.jpg") == b"a picture"


def test_links_that_stay_below_the_root_are_followed(root: Path) -> None:
    (root / "latest.jpg").symlink_to("photos/a.jpg")
    (root / "album").symlink_to(root / "photos")
    assert read(root, "latest.jpg") == b"a picture"
    assert read(root, "album/a.jpg") == b"a picture"


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("../secret", "must not contain '..'"),
        ("photos/../../secret", "must not contain '..'"),
        ("photos/..", "must not contain '..'"),
        ("/etc/passwd", "must be relative"),
        ("//etc/passwd", "must be relative"),
        ("", "must not be empty"),
        ("a\x00.jpg", "NUL"),
        ("x" * 4097, "longer than"),
    ],
)
def test_spellings_that_lead_out_are_refused(path: str, complaint: str, root: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_relative(path)
    with pytest.raises(Discard, match=complaint):
        read(root, path)


@pytest.mark.parametrize("target", ["../secret", "../root-but-longer/secret", "/etc/passwd"])
def test_links_out_of_the_root_are_refused(target: str, root: Path) -> None:
    (root / "link").symlink_to(target)
    with pytest.raises(Discard, match="leads out of TQE_IMAGE_ROOT"):
        read(root, "link")


def test_a_linked_directory_out_of_the_root_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "album").symlink_to(tmp_path)
    with pytest.raises(Discard, match="leads out of TQE_IMAGE_ROOT"):
        read(root, "album/secret")


@pytest.mark.parametrize("swapped", ["photos", "photos/a.jpg"])
def test_a_link_swapped_in_after_the_check_is_not_followed(
    swapped: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"secret")
    resolve = image_input._resolve_below

    def resolve_then_swap(base: Path, path: str) -> tuple[str, ...]:
        parts = resolve(base, path)
        (root / swapped).rename(tmp_path / "moved away")
        (root / swapped).symlink_to(tmp_path if swapped == "photos" else tmp_path / "secret")
        return parts

    monkeypatch.setattr(image_input, "_resolve_below", resolve_then_swap)
    with pytest.raises(Discard, match=r"cannot be read|not a regular file"):
        read(root, "photos/a.jpg")


@pytest.mark.parametrize("path", ["missing.jpg", "photos/a.jpg/b.jpg", "dangling"])
def test_a_missing_file_is_refused_without_saying_where_the_root_is(path: str, root: Path) -> None:
    (root / "dangling").symlink_to("nowhere")
    with pytest.raises(Discard, match="no such file below TQE_IMAGE_ROOT") as caught:
        read(root, path)
    assert str(root) not in str(caught.value)


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(Discard, match="cannot be read") as caught:
        read(root, "loop")
    assert str(root) not in str(caught.value)


def test_a_name_too_long_for_the_file_system_is_refused(root: Path) -> None:
    with pytest.raises(Discard, match="cannot be read"):
        read(root, "x" * 300)


def test_only_regular_files_are_read(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "socket"))
        for path in ("pipe", "socket", "photos", "."):
            with pytest.raises(Discard, match="not a regular file"):
                read(root, path)
        with pytest.raises(Discard, match="leads out"):
            read(root, "device")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device to refuse")
def test_a_device_below_the_root_is_refused() -> None:
    with pytest.raises(Discard, match="not a regular file"):
        read(Path("/dev"), "zero")


def test_a_file_of_exactly_the_limit_is_read_and_one_byte_more_refused(root: Path) -> None:
    assert len(read(root, "photos/a.jpg", max_bytes=9)) == 9
    with pytest.raises(Discard, match="larger than the limit of 8 bytes"):
        read(root, "photos/a.jpg", max_bytes=8)


def test_a_missing_root_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file") as caught:
        read(tmp_path / "nowhere", "a.jpg")
    assert caught.value.variable == "TQE_IMAGE_ROOT"


def test_nothing_stays_open(root: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    os.mkfifo(root / "photos" / "pipe")
    for path in ("photos/a.jpg", "photos/pipe", "missing", "photos"):
        with suppress(Discard):
            read(root, path)
    still_open = []
    for descriptor in descriptors.iterdir():
        with suppress(OSError):  # another thread's, closed meanwhile
            still_open.append(str(descriptor.readlink()))
    assert not [target for target in still_open if target.startswith(str(root))]
