"""The watchdog ends the process where it is not stopped in time, and not before it is armed."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from task_queue_engine.cli.watchdog import Watchdog
from tests.cli.runner import TIMEOUT

LONG = 3600.0
SHORT = 0.01


class Bitten:
    """Takes the place of the end of the process."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> None:
        self.event.set()

    def soon(self) -> bool:
        return self.event.wait(TIMEOUT)


@pytest.fixture
def bitten() -> Bitten:
    return Bitten()


def test_it_ends_the_process_after_its_timeout(
    bitten: Bitten, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = Watchdog(timeout=SHORT, hurried_timeout=LONG, end=bitten)
    watchdog.start()
    watchdog.arm()
    assert bitten.soon()
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert f"{__file__}:" in record.getMessage(), "where the main thread is"
    assert "in soon" in record.getMessage()


def test_later_signals_do_not_put_the_end_off(bitten: Bitten) -> None:
    watchdog = Watchdog(timeout=0.2, hurried_timeout=LONG, end=bitten)
    watchdog.start()
    began = time.monotonic()
    while not bitten.event.wait(0.01):
        watchdog.arm()
        assert time.monotonic() - began < TIMEOUT


def test_hurry_brings_the_end_nearer(bitten: Bitten) -> None:
    watchdog = Watchdog(timeout=LONG, hurried_timeout=SHORT, end=bitten)
    watchdog.start()
    watchdog.arm()
    watchdog.hurry()
    assert bitten.soon()


def test_it_does_nothing_unless_armed_and_can_be_called_off(bitten: Bitten) -> None:
    never_armed = Watchdog(timeout=0, hurried_timeout=0, end=bitten)
    called_off = Watchdog(timeout=LONG, hurried_timeout=LONG, end=bitten)
    for watchdog in (never_armed, called_off):
        watchdog.start()
    called_off.arm()
    for watchdog in (never_armed, called_off):
        watchdog.stop()
    assert not bitten.event.is_set()


def test_a_log_that_hangs_does_not_hold_it_up(
    bitten: Bitten, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_queue_engine.cli.watchdog._LAST_WORDS", SHORT)
    hangs = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hangs.wait(TIMEOUT)

    logger = logging.getLogger("task_queue_engine.watchdog")
    handler = Stuck()
    logger.addHandler(handler)
    try:
        watchdog = Watchdog(timeout=SHORT, hurried_timeout=LONG, end=bitten)
        watchdog.start()
        watchdog.arm()
        assert bitten.event.wait(TIMEOUT / 2)
    finally:
        hangs.set()
        logger.removeHandler(handler)
