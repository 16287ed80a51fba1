"""The conformance suite as the author of a backend uses it: from outside, with the module that its
guide shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from task_queue_engine.testing import conformance

GOOD = """
from task_queue_engine.testing import MemoryBackend

class MyBackend(MemoryBackend):
    def __init__(self, path, *, clock):
        super().__init__(clock=clock, is_one_transaction=True)
"""

DELETES_BY_ANY_RECEIPT = (
    GOOD
    + """
    def queue(self, name):
        queue = super().queue(name)

        async def delete(deliveries):
            for delivery in deliveries:
                self.state.queue(name).messages.pop(delivery.message_id, None)
            return [Done() for _ in deliveries]

        queue.delete = delete
        return queue

from task_queue_engine.backends.base import Done
"""
)


def example() -> str:
    """The test module of the guide."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", conformance.__doc__ or "", re.M)
    return textwrap.dedent(next(block for block in blocks if "async def harness" in block))


def run(folder: Path, backend: str, module: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "my_backend.py").write_text(backend)
    (folder / "test_my_backend.py").write_text(module)
    # The plugins that the extra `testing` brings, and no others of this environment.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "trio", "-p", "hypothesispytest", *options]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_backend_passes_with_the_module_of_the_guide(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD, example(), "-W", "error", "--strict-markers")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    (passed,) = re.findall(r"^(\d+) passed", done.stdout, re.M)
    assert int(passed) > 250


def test_the_suite_runs_in_trio_mode_too(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD, example(), "-o", "trio_mode=true", "-k", "TestClaim")
    assert done.returncode == 0, done.stdout


def test_a_broken_backend_is_caught_and_the_failure_says_how(tmp_path: Path) -> None:
    """And one that does not promise this is not asked for it."""
    honest = example().replace(
        "clock=clock,\n", "clock=clock, promises=Promises(notices_stale_receipts=False),\n"
    )
    assert honest != example()
    (tmp_path / "test_honest.py").write_text(honest)
    # -vv: a line for each test, in spite of -q.
    done = run(tmp_path, DELETES_BY_ANY_RECEIPT, example(), "-k", "TestQueue and stale", "-vv")
    assert done.returncode == 1
    failed = "TestQueue::test_a_receipt_is_stale_once_the_message_was_received_again[delete]"
    assert f"FAILED test_my_backend.py::{failed}" in done.stdout
    assert "assert [Done()] == [LeaseLost()]" in done.stdout
    outcomes = re.findall(r"^test_honest\.py::\S+ ([A-Z]+)", done.stdout, re.M)
    assert set(outcomes) == {"PASSED", "SKIPPED"}, done.stdout


def test_every_test_of_the_suite_is_in_what_is_imported() -> None:
    folder = Path(conformance.__file__).parent
    written = sum(
        len(re.findall(r"^(?:async )?def test_", file.read_text(), re.M))
        for file in folder.glob("*.py")
    )
    classes = [getattr(conformance, name) for name in conformance.__all__ if "Test" in name]
    assert sum(name.startswith("test_") for each in classes for name in vars(each)) == written
