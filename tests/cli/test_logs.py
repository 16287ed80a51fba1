"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from task_queue_engine.cli.logs import set_up_logging

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
