from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock


@pytest.fixture
async def backend(autojump_clock: MockClock) -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend(clock=TrioClock())
    async with backend.open():
        yield backend
