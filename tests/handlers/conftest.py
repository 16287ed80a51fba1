from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handlers.local_web import Internet, LocalWeb, local_web


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env file of the machine reaches a handler, nor a file the machine."""
    for name in os.environ:
        if name.startswith(("SMTP_", "TQE_", "SSL_CERT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


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
