"""Prometheus and promtool."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from local_aws.downloads import NotAvailable, prometheus


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of both; what needs them is skipped where they cannot be had, as local servers
    are."""
    try:
        return prometheus()
    except NotAvailable as reason:
        if os.environ.get("TQE_TEST_SERVERS") == "all":
            pytest.fail(f"TQE_TEST_SERVERS=all, but {reason}", pytrace=False)
        pytest.skip(f"prometheus cannot run here: {reason}")
