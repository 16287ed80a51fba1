"""What tasks and workers carry is shown to a terminal, and never sent to it as a command."""

from __future__ import annotations

import json
import time
import unicodedata
from contextlib import closing
from datetime import UTC, datetime

import apsw
import msgspec
import pytest

from task_queue_engine.attempt_record import LogLine
from task_queue_engine.task import TaskError
from task_queue_engine.worker import Worker
from tests.cli.runner import Shop, tqe

WORST = "\x1b]0;owned\x07\x1b[2J\x9b2J\x7f\u202e\u2066\u200f\u2028\r\b"
NUMBER_OF_FAILED = 3


@pytest.fixture
def task_id(shop: Shop) -> str:
    """Of a task that is hostile in all that another program may have written into the file."""
    found = shop.submit("echo", json.dumps({WORST: [WORST]}))
    error = msgspec.json.encode(TaskError(type=WORST, message=WORST, traceback=f"a\n{WORST}"))
    now = datetime.now(UTC)
    micros = int(time.time() * 1e6)
    line = LogLine(time=now, level=WORST, logger=WORST, message=f"{WORST}\n{WORST}")
    worker = Worker(
        id=WORST,
        host=WORST,
        pid=1,
        version=WORST,
        state=WORST,
        queues=(WORST,),
        types=(WORST,),
        slots=1,
        started_at=now,
        last_seen=now,
    )
    with closing(apsw.Connection(str(shop.path / "tasks.db"))) as connection:
        connection.execute(
            "UPDATE tasks SET type = ?1, queue = ?1, worker = ?1, status = ?2, error = ?3, "
            "progress = ?4, attempt = 2, started_at = ?5, finished_at = ?5, due_at = NULL",
            (WORST, NUMBER_OF_FAILED, error, msgspec.json.encode(WORST), micros),
        )
        connection.execute(
            "INSERT INTO attempts VALUES (?, 1, 1, 'failed', ?, ?, ?, ?, ?, NULL, ?, 3)",
            (found, WORST, WORST, micros, micros, error, msgspec.json.encode([line])),
        )
        connection.execute(
            "INSERT INTO dead_letters (queue, task_id, task_type, reason, error, attempts, at) "
            "VALUES ('default', ?, ?, ?, ?, 1, ?)",
            (found, WORST, WORST, error, micros),
        )
        connection.execute(
            "INSERT INTO workers (id, last_seen, pipe, worker) VALUES (?, ?, NULL, ?)",
            (WORST, micros, msgspec.json.encode(worker)),
        )
    return found


@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_reaches_the_terminal(task_id: str, as_json: bool) -> None:
    for command in (
        ["status", task_id],
        ["logs", task_id],
        ["tail", task_id],
        ["list"],
        ["list", "--type", WORST],
        ["list", "--status", WORST],
        ["dlq", "list"],
        ["workers"],
        ["metrics"],
        ["status", WORST],
        ["submit", WORST, "1"],
        ["submit", "echo", WORST],
        ["submit", "echo", "1", "--app", WORST],
        ["list", "--url", f"http://{WORST}"],
    ):
        ran = tqe(*command, *(["--json"] if as_json else []))
        for text in (ran.out, ran.err):
            obeyed = {one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp")}
            assert obeyed <= {"\n"}, (command, text)
        if ran.code == 0 and command[0] not in ("metrics", "submit"):
            assert "\\u001b" in ran.out or "\\x1b" in ran.out, command
        if as_json and ran.code == 0 and command[0] == "status":
            assert ran.json["type"] == WORST  # it is written otherwise, and the same
