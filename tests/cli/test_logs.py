"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from task_queue_engine.cli.logs import set_up_logging
from task_queue_engine.execution.attempt_logs import AttemptLog, running
from task_queue_engine.execution.log_format import LogFormat
from task_queue_engine.task import Task

logger = logging.getLogger("task_queue_engine.poller")


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "text")
    logger.info("received %d", 3)
    logger.debug("not at this level")
    (line,) = capsys.readouterr().err.splitlines()
    moment, rest = line.split(maxsplit=1)
    assert moment.endswith("Z")
    assert rest == "INFO    poller: received 3"


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it\nfailed", extra={"task_id": "7", "odd": object})
    (line,) = capsys.readouterr().err.splitlines()
    logged = json.loads(line)
    assert logged["level"] == "ERROR"
    assert logged["logger"] == "task_queue_engine.poller"
    assert logged["message"] == "it\nfailed"
    assert "ValueError: two" in logged["exception"]
    assert logged["task_id"] == "7"
    assert logged.keys() == {"time", "level", "logger", "message", "exception", "task_id", "odd"}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_handlers_line_says_which_attempt_it_is_of(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat
) -> None:
    set_up_logging("INFO", log_format)
    now = datetime(2030, 1, 1, tzinfo=UTC)
    task = Task(
        id="7", type="email", queue="q", attempt=3, payload=1, created_at=now, updated_at=now
    )
    outside = running.set(AttemptLog(task))
    try:
        logging.getLogger("shop.mails").info("sent %d", 3, extra={"to": "a@b"})
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("not sent")
    finally:
        running.reset(outside)
    logging.getLogger("shop.mails").info("of no attempt")
    out = capsys.readouterr().err
    if log_format == "json":
        sent, failed, other = map(json.loads, out.splitlines())
        labels = {"task_id": "7", "task_type": "email", "attempt": 3, "queue": "q"}
        del sent["time"]
        assert sent == labels | {
            "level": "INFO",
            "logger": "shop.mails",
            "message": "sent 3",
            "to": "a@b",
        }
        assert failed.items() >= labels.items()
        assert other.keys() == {"time", "level", "logger", "message"}
        return
    sent, failed, *traceback, other = [line.partition("Z ")[2] or line for line in out.splitlines()]
    assert sent == "INFO    shop.mails: sent 3 task_id=7 task_type=email attempt=3 queue=q"
    assert failed == "ERROR   poller: not sent task_id=7 task_type=email attempt=3 queue=q"
    assert traceback[-1] == "ValueError: no"
    assert other == "INFO    shop.mails: of no attempt"


def test_set_up_again_it_replaces_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "text")
    set_up_logging("INFO", "json")
    logger.info("once")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "once"


@pytest.mark.parametrize(("level", "loud"), [("INFO", False), ("DEBUG", True)])
def test_libraries_are_heard_only_when_debugging(
    capsys: pytest.CaptureFixture[str], level: str, loud: bool
) -> None:
    set_up_logging(level, "text")
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    assert ("HTTP Request" in capsys.readouterr().err) is loud


def test_a_message_that_is_broken_does_not_stop_anything(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging("INFO", "json")
    logger.info("lone surrogate \udcff")
    sys.stderr.flush()
    logger.info("and on")
    assert "and on" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_no_level_shows_what_credential_services_answer(
    level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(level, "text")
    logging.getLogger("botocore.parsers").debug("Response body: %s", "a secret key")
    assert "secret" not in capsys.readouterr().err
