"""Virtual time for every test that uses `autojump_clock`, itself or through a fixture; and what
this machine could not run."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from tests.local_servers import (
    dynamodb_local,
    elasticmq,
    fauxqs,
    left_out,
    ministack,
    moto_server,
)
from tests.virtual_time import run_on_virtual_time

# Fixtures for tests of all folders.
__all__ = ["dynamodb_local", "elasticmq", "fauxqs", "ministack", "moto_server"]


def pytest_configure() -> None:
    # Shells let what they run in the background ignore Ctrl-C, and the processes of the tests would
    # inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Last, since pytest-trio's own hook marks every async test with a `run`.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "autojump_clock" in getattr(item, "fixturenames", ()):
            run = partial(_run, item)
            item.add_marker(pytest.mark.trio(run=run), append=False)


def _run(item, function, *, clock, instruments):
    return run_on_virtual_time(
        function, clock=clock or item.funcargs["autojump_clock"], instruments=instruments
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if left_out:
        terminalreporter.section("left out")
    for reason, tests in left_out.items():
        terminalreporter.write_line(f"{tests} tests: {reason}")
