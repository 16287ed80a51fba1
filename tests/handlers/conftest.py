from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.handlers.local_web import Internet, LocalWeb, local_web


@pytest.fixture
def web() -> Iterator[LocalWeb]:
    with local_web() as served:
        yield served


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    """No test with this fixture can reach anything beyond this machine."""
    pretended = Internet()
    monkeypatch.setattr(socket, "create_connection", pretended.connect)
    return pretended
