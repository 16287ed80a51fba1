from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from task_queue_engine.handlers.process_limits import address_space_limit

MIB = 2**20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs a system that tells a process its size"
)


def test_more_than_the_limit_cannot_be_allocated_inside_and_can_again_outside() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with address_space_limit(64 * MIB):
        assert len(bytearray(16 * MIB)) == 16 * MIB
        with pytest.raises(MemoryError):
            bytearray(128 * MIB)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(128 * MIB)) == 128 * MIB


def test_the_limit_is_put_back_after_an_error() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), address_space_limit(64 * MIB):
        bytearray(128 * MIB)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_lower_limit_of_the_operator_is_left_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    own = (size + 256 * MIB, before[1])
    resource.setrlimit(resource.RLIMIT_AS, own)
    try:
        with address_space_limit(1024 * MIB):
            assert resource.getrlimit(resource.RLIMIT_AS) == own
        assert resource.getrlimit(resource.RLIMIT_AS) == own
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


ENDLESS = """
import resource, sys
from task_queue_engine.handlers.process_limits import cpu_time_limit
before = resource.getrlimit(resource.RLIMIT_CPU)
with cpu_time_limit(100):
    pass
assert resource.getrlimit(resource.RLIMIT_CPU) == before
with cpu_time_limit(0.1):
    print("working", flush=True)
    "a" * 10_000 in iter(lambda: "b", None)  # one call into C, without end
"""


def test_work_that_takes_more_cpu_time_is_ended_wherever_it_is() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, timeout=60)
    assert ended.stdout == b"working\n", ended.stderr
    assert ended.returncode == -signal.SIGXCPU
