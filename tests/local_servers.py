"""One fixture for each local server, and what happens where it cannot run."""

from __future__ import annotations

import os

import pytest

from local_aws.servers import LocalServer, NotAvailable, running


def require(name: str) -> LocalServer:
    """The server of this name; the test that asks is skipped where this machine cannot run it.

    With `TQE_TEST_SERVERS=all` it fails instead: nothing may be left out.
    """
    try:
        return running(name)
    except NotAvailable as reason:
        if os.environ.get("TQE_TEST_SERVERS") == "all":
            pytest.fail(f"TQE_TEST_SERVERS=all, but {reason}", pytrace=False)
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def dynamodb_local() -> LocalServer:
    return require("dynamodb-local")


@pytest.fixture(scope="session")
def elasticmq() -> LocalServer:
    return require("elasticmq")


@pytest.fixture(scope="session")
def moto_server() -> LocalServer:
    return require("moto")


@pytest.fixture(scope="session")
def fauxqs() -> LocalServer:
    return require("fauxqs")


@pytest.fixture(scope="session")
def ministack() -> LocalServer:
    return require("ministack")
