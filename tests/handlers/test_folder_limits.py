"""What the folders of results may hold, for how long, and who may read it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from task_queue_engine.clock import SystemClock
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers import folder_limits, registry
from task_queue_engine.handlers.email.handler import send_email
from task_queue_engine.handlers.export.file import write_export
from task_queue_engine.handlers.export.rows import RowSource
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.image.output import write_output
from task_queue_engine.handlers.image.settings import ImageSettings
from task_queue_engine.retry import Retry
from task_queue_engine.task import new_task_id
from tests.handlers.contexts import SyncContext
from tests.handlers.exporting import accept, all_files, attempt


def write_csv(text: str, **options: Any) -> str:
    rows: Iterator[Any] = iter([(text,)])
    payload = accept({"rows": [], **options})
    return write_export(RowSource(("a",), rows), payload, ExportSettings(), attempt()).path


def write_image(text: str) -> str:
    settings = ImageSettings()
    path = write_output(
        settings.directory,
        f"{new_task_id()}.png",
        text.encode(),
        limits=settings.folder_limits(),
        task_id=new_task_id(),
        attempt=1,
        overwrite=False,
    )
    return str(path)


def write_mail(text: str) -> str:
    payload = registry.get("email").convert_payload({"to": "a@example.com", "text": text})
    return send_email(payload, SyncContext()).path or ""


class Kind(NamedTuple):
    write: Any
    folder: str
    """Where results go by default."""
    variable: str
    """Of the folder."""
    prefix: str

    @property
    def limit(self) -> str:
        return f"{self.prefix}_MAX_TOTAL_BYTES"

    @property
    def retention(self) -> str:
        return f"{self.prefix}_RETENTION"


KINDS = [
    Kind(write_csv, "exports", "TQE_EXPORT_DIR", "TQE_EXPORT"),
    Kind(write_image, "images", "TQE_IMAGE_OUTPUT", "TQE_IMAGE"),
    Kind(write_mail, "outbox/new", "TQE_OUTBOX", "TQE_OUTBOX"),
]


@pytest.fixture(params=KINDS, ids=["export", "image", "mail"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rest between two looks at a folder, as for a process that has just started."""
    monkeypatch.setattr(folder_limits, "_REST", 0)


def make_old(path: str, seconds: float) -> None:
    then = SystemClock().now().timestamp() - seconds
    os.utime(path, (then, then))


# --- how much ---------------------------------------------------------------------------------


def test_a_full_folder_fails_the_task_for_now_and_names_the_limit(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kind.limit, "10000")
    first = kind.write("x" * 6000)
    with pytest.raises(Retry, match=kind.limit):
        kind.write("y" * 6000)
    assert all_files(Path(first).parent) == [Path(first).name]
    # What failed has taken no room.
    kind.write("z" * 1000)
    monkeypatch.setenv(kind.limit, "0")
    kind.write("y" * 6000)


@pytest.mark.usefixtures("always_looking")
def test_room_that_was_made_is_used(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kind.limit, "10000")
    first = kind.write("x" * 6000)
    Path(first).unlink()
    kind.write("y" * 6000)


def test_what_others_write_counts_too(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kind.limit, "10000")
    Path(kind.folder).mkdir(parents=True)
    (Path(kind.folder) / "other.bin").write_bytes(bytes(9500))
    with pytest.raises(Retry, match=kind.limit):
        kind.write("x" * 1000)


def test_the_last_of_a_disk_is_not_for_results(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.statvfs(tmp_path)

    class AlmostFull:
        f_frsize = real.f_frsize
        f_blocks = 10 * 2**30 // real.f_frsize
        f_bavail = 500 * 2**20 // real.f_frsize

    monkeypatch.setattr(os, "fstatvfs", lambda fd: AlmostFull)
    with pytest.raises(Retry, match="left of its disk"):
        kind.write("x")


# --- how long ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("always_looking")
def test_results_past_their_retention_go_when_another_is_written(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = kind.write("old"), kind.write("young")
    make_old(old, 7200)
    make_old(young, 1800)
    kind.write("kept for ever by default")
    assert Path(old).exists()

    monkeypatch.setenv(kind.retention, "3600")
    new = kind.write("new")
    assert not Path(old).exists()
    assert Path(young).exists()
    assert Path(new).exists()


@pytest.mark.usefixtures("always_looking")
def test_what_no_task_has_written_is_left_alone(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kind.retention, "3600")
    Path(kind.folder).mkdir(parents=True)
    own = Path(kind.folder) / "notes.txt"
    own.write_text("mine")
    make_old(str(own), 1_000_000)
    kind.write("new")
    assert own.exists()


@pytest.mark.usefixtures("always_looking")
def test_expired_results_make_room(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kind.limit, "10000")
    monkeypatch.setenv(kind.retention, "3600")
    make_old(kind.write("x" * 6000), 7200)
    kind.write("y" * 6000)


@pytest.mark.usefixtures("always_looking")
def test_one_task_does_not_tidy_up_without_end(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_limits, "_MAX_REMOVALS", 2)
    written = [kind.write("x") for _ in range(5)]
    for path in written:
        make_old(path, 7200)
    monkeypatch.setenv(kind.retention, "3600")
    left = []
    for _ in range(3):
        kind.write("y")
        left.append(sum(Path(path).exists() for path in written))
    assert left == [3, 1, 0]


@pytest.mark.usefixtures("always_looking")
def test_mail_that_was_read_expires_too(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path("outbox/cur") / (Path(write_mail("x")).name + ":2,S")
    Path(read).touch()
    make_old(str(read), 7200)
    monkeypatch.setenv("TQE_OUTBOX_RETENTION", "3600")
    write_mail("y")
    assert not read.exists()


# --- who may read it --------------------------------------------------------------------------


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("through_a_link", [False, True])
def test_nothing_is_for_the_world(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, through_a_link: bool
) -> None:
    folder = tmp_path / "a" / "b" / "results"
    if through_a_link:
        (tmp_path / "real").mkdir(mode=0o755)
        (tmp_path / "link").symlink_to(tmp_path / "real")
        folder = tmp_path / "link" / "results"
    monkeypatch.setenv(kind.variable, str(folder))
    written = Path(kind.write("x")).resolve()
    made = [written, *written.parents]
    made = made[: made.index(tmp_path / ("real" if through_a_link else ""))]
    assert len(made) >= 2
    assert [path for path in made if stat.S_IMODE(path.stat().st_mode) & 0o007] == []


def test_a_folder_that_is_a_link_to_nothing_is_a_mistake_of_the_settings(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    monkeypatch.setenv(kind.variable, str(tmp_path / "link"))
    with pytest.raises(ConfigurationError) as failed:
        kind.write("x")
    assert failed.value.variable == kind.variable
    assert not (tmp_path / "nothing").exists()


@pytest.mark.usefixtures("no_umask")
def test_a_result_that_replaces_one_has_its_own_mode(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    target = tmp_path / "exports" / "x.csv"
    target.write_text("old")
    target.chmod(0o666)
    write_csv("new", filename="x", overwrite=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
