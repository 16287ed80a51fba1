"""A client that goes on in a thread beside what a test does to the servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.cli.runner import TIMEOUT


@contextmanager
def in_a_thread(work: Callable[[threading.Event], None]) -> Iterator[threading.Thread]:
    """`work` runs from here on, and ends with the block: it is given an event that is set then.

    Work that outlives a failed test takes part in those after it, and a process ends with its last
    thread.
    """
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name="client of the test")
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join(2 * TIMEOUT)  # a request under way has one of its own
