"""One fixture for each local server, and what happens where it cannot run.

Processes that share the tests share the servers too: the process that hands the tests out starts a
server when the first test asks for it, and the servers end with that process. One server for each
of them would start, and get up to speed, as often as there are processes.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener

import pytest

from local_aws import servers
from local_aws.servers import LocalServer, NotAvailable

_VARIABLE = "SHARED_TEST_SERVERS"

# The socket to ask. It is taken away: programs under test inherit the environment.
_shared = os.environ.pop(_VARIABLE, None)


def share() -> None:
    """Answer, from now on, all processes that this one starts."""
    listener = Listener(family="AF_UNIX")  # in a folder of its own, for this user alone
    os.environ[_VARIABLE] = str(listener.address)
    # One thread from first to last: a server dies with the thread that has started it.
    threading.Thread(target=_answer, args=(listener,), daemon=True).start()


def _answer(listener: Listener) -> None:
    while True:
        with suppress(EOFError, OSError), listener.accept() as connection:
            name = connection.recv()
            try:
                connection.send(servers.running(name))
            except Exception as error:  # noqa: BLE001 - it is for the test that asks
                connection.send(error)


def running(name: str) -> LocalServer:
    """As `local_aws.servers.running`, and it raises the same."""
    if _shared is None:
        return servers.running(name)
    connection: Connection
    with Client(_shared) as connection:
        connection.send(name)
        answer: LocalServer | Exception = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


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
