"""Mail into a folder, while no SMTP server is configured."""

from __future__ import annotations

import errno
import mailbox
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from task_queue_engine.handlers import registry
from task_queue_engine.handlers.email.handler import EmailReceipt, send_email
from task_queue_engine.handlers.files import StagedFile
from task_queue_engine.retry import Retry
from tests.handlers.contexts import SyncContext


def send(data: Any = "user@example.com", context: SyncContext | None = None) -> EmailReceipt:
    return send_email(registry.get("email").convert_payload(data), context or SyncContext())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_mail_is_written_as_a_maildir_reader_expects_it(tmp_path: Path) -> None:
    context = SyncContext()
    receipt = send({"to": "a@example.com", "bcc": "b@example.com", "text": "hi"}, context)
    assert receipt.transport == "outbox"
    assert receipt.accepted == ["a@example.com", "b@example.com"]
    assert not receipt.duplicate
    path = Path(receipt.path or "")
    assert path == tmp_path / "outbox" / "new" / f"{context.task_id}.eml"
    assert b"\r" not in path.read_bytes()

    (message,) = mailbox.Maildir(tmp_path / "outbox", create=False)
    assert message["To"] == "a@example.com"
    assert message["Message-ID"] == receipt.message_id
    # Not sent yet: the sending program needs the line, and takes it out (as `sendmail -t` does).
    assert message["Bcc"] == "b@example.com"


def test_the_folder_is_the_one_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_OUTBOX", str(tmp_path / "var" / "mail"))
    assert (send().path or "").startswith(str(tmp_path / "var" / "mail" / "new"))


def test_mail_is_nobody_elses_to_read(tmp_path: Path) -> None:
    path = Path(send().path or "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_attempt_writes_no_second_mail(tmp_path: Path) -> None:
    first = SyncContext()
    written = Path(send(context=first).path or "")
    before = written.read_bytes()
    again = send(context=SyncContext(task_id=first.task_id, attempt=2))
    assert again.duplicate
    assert again.path == str(written)
    assert written.read_bytes() == before
    assert len(files(tmp_path / "outbox")) == 1


def test_a_mail_that_was_read_meanwhile_is_still_known(tmp_path: Path) -> None:
    first = SyncContext()
    written = Path(send(context=first).path or "")
    read = tmp_path / "outbox" / "cur" / f"{written.name}:2,S"
    written.rename(read)
    again = send(context=SyncContext(task_id=first.task_id, attempt=2))
    assert again.duplicate
    assert again.path == str(read)
    assert len(files(tmp_path / "outbox")) == 1


def test_what_a_killed_attempt_left_is_removed(tmp_path: Path) -> None:
    context = SyncContext(attempt=3)
    tmp = tmp_path / "outbox" / "tmp"
    tmp.mkdir(parents=True)
    (tmp / f".{context.task_id}.2.part").write_bytes(b"half")
    send(context=context)
    assert files(tmp_path / "outbox") == [f"{context.task_id}.eml"]


def test_a_full_disk_is_retried_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: StagedFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(StagedFile, "write", full)
        with pytest.raises(Retry, match="No space left"):
            send()
    assert files(tmp_path / "outbox") == []
