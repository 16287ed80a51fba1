"""Local servers that speak SQS and DynamoDB: `running("elasticmq").url`.

Each is started at its first use, on 127.0.0.1 and a port of its own choosing, shared by all that
happens in the process and ended with it. Queues and tables keep tests apart, not servers. What a
machine cannot run raises `NotAvailable`; `tests.local_servers` makes that a skip.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from local_aws.downloads import NotAvailable, maven, node_package, npm, virtual_environment

__all__ = ["SERVERS", "LocalServer", "NotAvailable", "fetch", "running", "stop_all"]

START_TIMEOUT: Final = 60.0
"""Seconds; a machine that is busy with other tests starts a JVM slowly."""
STOP_TIMEOUT: Final = 5.0

_LAUNCHERS = Path(__file__).with_name("launchers")
# Quick to start and small. Nearly all that a request makes is garbage at its end: half the heap for
# the young saves one in ten of the processor's seconds.
_JAVA_OPTIONS = ("-Xmx384m", "-Xms384m", "-Xmn200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_LISTENING = re.compile(rb"https?://127\.0\.0\.1:(?P<port>[0-9]+)")


@dataclass(frozen=True, slots=True)
class LocalServer:
    name: str
    url: str
    """`http://127.0.0.1:PORT`, for every service the server has."""
    region: str = "us-east-1"
    credentials: tuple[str, str] = ("testing", "testing")
    """Access key id and secret: the servers take any."""
    pid: int | None = None
    """Of its process."""


@dataclass(slots=True, kw_only=True)
class _Command:
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    port: int | None = None
    """None: the server says which one it took."""


def _dynamodb_local() -> _Command:
    java = _java(compiler=True)
    jars = maven("dynamodb-local", "software.amazon.dynamodb:DynamoDBLocal:3.3.1")
    return _Command(
        arguments=[
            java,
            *_JAVA_OPTIONS,
            f"-Djava.library.path={jars}",
            "-cp",
            f"{jars}/*",
            str(_LAUNCHERS / "LoopbackDynamoDb.java"),
            "-inMemory",
            "-sharedDb",
            "-disableTelemetry",
        ]
    )


def _elasticmq() -> _Command:
    java = _java()
    jars = maven("elasticmq", "org.elasticmq:elasticmq-server_2.13:1.6.11")
    return _Command(
        arguments=[
            java,
            *_JAVA_OPTIONS,
            "-Drest-sqs.bind-hostname=127.0.0.1",
            "-Drest-sqs.bind-port=0",
            "-Dgenerate-node-address=true",
            "-Drest-stats.enabled=false",
            "-cp",
            f"{jars}/*",
            "org.elasticmq.server.Main",
        ]
    )


def _moto() -> _Command:
    return _Command(arguments=[sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])


def _fauxqs() -> _Command:
    modules = npm("fauxqs", "fauxqs@2.4.1", node_package("24.21.0"))
    (node,) = modules.glob("node-*/bin/node")
    application = modules / "fauxqs" / "dist" / "app.js"
    return _Command(arguments=[str(node), str(_LAUNCHERS / "fauxqs.mjs"), str(application)])


def _ministack() -> _Command:
    python = virtual_environment("ministack", "ministack==1.5.33")
    port = _free_port()  # it must know its port beforehand, for the URLs of queues
    return _Command(
        arguments=[
            str(python),
            "-m",
            "hypercorn",
            "ministack.app:app",
            "--bind",
            f"127.0.0.1:{port}",
            "--workers",
            "0",  # no second process, which could outlive this one
            "--keep-alive",
            "75",
        ],
        environment={
            "MINISTACK_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "LOG_LEVEL": "WARNING",
        },
        port=port,
    )


SERVERS: Final[dict[str, Callable[[], _Command]]] = {
    "dynamodb-local": _dynamodb_local,
    "elasticmq": _elasticmq,
    "moto": _moto,
    "fauxqs": _fauxqs,
    "ministack": _ministack,
}


class _Process:
    def __init__(self, name: str) -> None:
        command = SERVERS[name]()
        self._folder = Path(tempfile.mkdtemp(prefix=f"tqe-{name}-"))
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_die_with_parent(), *command.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=_environment() | command.environment,
                # Ctrl-C reaches the tests alone: they end their servers when they are done.
                start_new_session=True,
            )
        try:
            port = self._wait_until_ready(name, command.port)
        except BaseException:
            self.stop()
            raise
        self.server = LocalServer(name, f"http://127.0.0.1:{port}", pid=self._process.pid)

    def _wait_until_ready(self, name: str, port: int | None) -> int:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise RuntimeError(f"{name} ended with {code}:\n{self._last_lines()}")
            if port is None and (found := _LISTENING.search(self._log.read_bytes())):
                port = int(found["port"])
            if port is not None and _accepts(port):
                return port
            time.sleep(0.05)  # a server announces itself in its log alone
        raise RuntimeError(f"{name} was not ready after {START_TIMEOUT} s:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        with suppress(ProcessLookupError):  # whatever it has started
            os.killpg(self._process.pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)


_running: dict[str, _Process] = {}
_missing: dict[str, str] = {}
_lock = threading.Lock()


def running(name: str) -> LocalServer:
    """The server of this name (a key of `SERVERS`), started where it is not running yet.

    Blocks for seconds at the first use, for longer where it must be fetched first.

    Raises:
        NotAvailable: this machine cannot run it; the message says why.
    """
    with _lock:
        if name in _missing:
            raise NotAvailable(_missing[name])
        if name not in _running:
            try:
                _running[name] = _Process(name)
            except NotAvailable as reason:
                _missing[name] = f"{name} cannot run here: {reason}"
                raise NotAvailable(_missing[name]) from None
        return _running[name].server


def fetch(name: str) -> None:
    """Download what the server of this name needs, and do not start it.

    Raises:
        NotAvailable: this machine cannot run it; the message says why.
    """
    SERVERS[name]()


@atexit.register
def stop_all() -> None:
    with _lock:
        while _running:
            _running.popitem()[1].stop()


def _environment() -> dict[str, str]:
    """Ours without anything about AWS: a server must not find credentials or endpoints there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _die_with_parent() -> list[str]:
    """Where the system can do it, a server dies with a test process that was killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _java(*, compiler: bool = False) -> str:
    found = shutil.which("java")
    if found is None:
        raise NotAvailable("Java 17 is not installed")
    if compiler and shutil.which("javac") is None:
        raise NotAvailable("a JDK 17 is needed, and only a Java runtime is installed")
    # To stderr: openjdk version "17.0.15" 2025-04-15
    said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=30).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < 17:
        raise NotAvailable("Java 17 or later is needed")
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
