"""Virtual time for every test that uses a clock that jumps, itself or through a fixture; and what
this machine could not run."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial

import hypothesis
import pytest
from botocore.loaders import JSONFileLoader

from tests.local_servers import (
    dynamodb_local,
    elasticmq,
    fauxqs,
    ministack,
    moto_server,
    share,
)
from tests.sizes import size
from tests.virtual_time import run_on_virtual_time

# Fixtures for tests of all folders.
__all__ = ["dynamodb_local", "elasticmq", "fauxqs", "ministack", "moto_server"]


_JUMPING_CLOCKS = {"autojump_clock", "socket_clock"}
# Folders and files whose tests wait for other programs most of their time.
_WAITING = {"end_to_end", "local_aws", "test_handlers_doc.py", "test_readme.py", "testing"}
# Files whose tests take long and do not wait.
_LONG = {"test_browser.py", "test_model.py"}


def pytest_configure(config: pytest.Config) -> None:
    # Shells let what they run in the background ignore Ctrl-C, and the processes of the tests would
    # inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile(
        "busy",
        deadline=None,
        max_examples=size(50, in_full=500),
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("busy")
    # Each of its sessions reads the models of all its services anew, and tests have one each.
    load = functools.cache(partial(JSONFileLoader.load_file, JSONFileLoader()))
    JSONFileLoader.load_file = lambda _, path: load(path)
    # Programs under test are started hundreds of times, and each would compile all of its modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if config.getoption("dist", "no") != "no":  # it hands the tests out to processes of its own
        share()
    else:
        # What is collected stays to the end: no collection of garbage has to walk through it.
        gc.disable()


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    """It would take part in the tests after it, and keep the process from ending."""
    before = set(threading.enumerate())
    yield
    left = _working_threads() - before
    assert not left, f"threads that go on: {sorted(thread.name for thread in left)}"


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    left = _working_threads()
    if left:
        config.pluginmanager.getplugin("capturemanager").suspend_global_capture()
        print(f"ended although these go on: {[thread.name for thread in left]}", flush=True)
        os._exit(1)


def _working_threads() -> set[threading.Thread]:
    """Those that an interpreter waits for when it ends."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    }


# Last, since pytest-trio's own hook marks every async test with a `run`.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not _JUMPING_CLOCKS.isdisjoint(getattr(item, "fixturenames", ())):
            run = partial(_run, item)
            item.add_marker(pytest.mark.trio(run=run), append=False)
    # For several processes that share the tests: none is left with the longest at the end, and
    # hardly ever do all of them wait.
    waiting = [item for item in items if not _WAITING.isdisjoint(item.path.parts)]
    working = [item for item in items if _WAITING.isdisjoint(item.path.parts)]
    working.sort(key=lambda item: _LONG.isdisjoint(item.path.parts))
    items[:] = _spread(waiting, among=working)


def _spread(some: list[pytest.Item], *, among: list[pytest.Item]) -> list[pytest.Item]:
    """Evenly, the last of them when a quarter of the others is to come."""
    if not some:
        return among
    step = len(among) * 3 // 4 // len(some)
    spread: list[pytest.Item] = []
    for number, item in enumerate(some):
        spread += [item, *among[number * step : (number + 1) * step]]
    return spread + among[len(some) * step :]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    # The youngest every 700, as is usual, would take a fiftieth of the time of all tests.
    gc.set_threshold(5_000)


def _run(item, function, *, clock, instruments):
    clock = clock or next(map(item.funcargs.get, _JUMPING_CLOCKS & item.funcargs.keys()))
    return run_on_virtual_time(function, clock=clock, instruments=instruments)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
    )
    if left_out:
        terminalreporter.section("left out")
    for reason, tests in left_out.items():
        terminalreporter.write_line(f"{tests} tests: {reason}")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command line sets up logging for its process, which in some tests is that of all; and a
    `dictConfig` disables loggers."""
    handlers, level = list(logging.root.handlers), logging.root.level
    engine = logging.getLogger("task_queue_engine")
    engines = list(engine.handlers), engine.level, engine.propagate
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    engine.handlers[:], engine.propagate = engines[0], engines[2]
    for logger, before in ((logging.root, level), (engine, engines[1])):
        if logger.level != before:  # setting it walks through all loggers
            logger.setLevel(before)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
