"""A pytest plugin: runs the tests that a mutant names, by their exact names, and notes of each what
came of it. `-p tests.mutants.selection --source FOLDER --notes FILE --select FILE::NAME[@BACKEND]`
"""

from __future__ import annotations

from pathlib import Path

import pytest

import task_queue_engine

CONFORMANCE = "tests/backends/conformance/test_conformance.py"
"""Where the tests below src/ run, for each backend."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--source", type=Path, help="the package has to come from here")
    parser.addoption("--notes", type=Path, help="gets a line for each test begun or failed")
    parser.addoption("--select", action="append", help="FILE::NAME, with @BACKEND in the suite")


def pytest_configure(config: pytest.Config) -> None:
    source = config.getoption("--source")
    if not Path(task_queue_engine.__file__).is_relative_to(source):
        pytest.exit(f"{task_queue_engine.__file__} is not below {source}", returncode=2)
    config.pluginmanager.register(_Selection(config))


class _Selection:
    def __init__(self, config: pytest.Config) -> None:
        self._selected: list[str] = config.getoption("--select")
        self._notes: Path = config.getoption("--notes")
        self._names: dict[str, str] = {}
        """Of the items, by their ids."""
        self._failed: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._names = {item.nodeid: _name(item) for item in items}
        items[:] = [item for item in items if self._names[item.nodeid] in self._selected]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        name = self._names[item.nodeid]
        if name in self._failed:
            pytest.skip("fails for other parameters")
        self._note("began", name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            name = self._names[report.nodeid]
            self._failed.add(name)
            why = [line for line in report.longreprtext.splitlines() if "Error" in line]
            self._note("failed", f"{name} {why[-1].strip(' |') if why else ''}")

    def pytest_sessionfinish(self) -> None:
        self._note("ended", "")

    def _note(self, what: str, name: str) -> None:
        with self._notes.open("a", encoding="utf-8") as notes:
            notes.write(f"{what} {name}\n")


def _name(item: pytest.Item) -> str:
    file = item.path.relative_to(item.config.rootpath).as_posix()
    name = f"{file}::{getattr(item, 'originalname', item.name)}"
    if file != CONFORMANCE:
        return name
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return f"{name}@{parameters.get('harness')}"
