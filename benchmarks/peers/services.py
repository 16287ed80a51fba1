"""Where the peers keep their tasks: Redis or a local SQS server, on 127.0.0.1."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

from benchmarks.peers.setup import redis_server
from benchmarks.processes import Process, emptied
from local_aws.servers import running


@dataclass(frozen=True)
class Redis:
    process: Process
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def empty(self) -> None:
        if self._ask("FLUSHALL") != b"+OK":
            raise RuntimeError("Redis did not empty itself")

    def answers(self) -> bool:
        try:
            return self._ask("PING") == b"+PONG"
        except OSError:
            return False

    def _ask(self, word: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(f"{word}\r\n".encode())
            return connection.recv(1024).strip()


@contextmanager
def redis(folder: Path, *, durable: bool) -> Iterator[Redis]:
    """A server of its own.

    Args:
        durable: appendonly with appendfsync everysec; without it all is in memory alone.

    Raises:
        NotAvailable: there is none, and it cannot be installed.
    """
    port = _free_port()
    command = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    if durable:
        command += ["--appendonly", "yes", "--appendfsync", "everysec"]
    with (
        emptied(folder) as own,
        Process([*command, "--dir", str(own)], {"PATH": os.environ["PATH"]}, own) as process,
    ):
        server = Redis(process, port)
        process.wait_for(server.answers, "Redis", seconds=20)
        yield server


def redis_version() -> str:
    """`Redis 7.0.15`; without a number where there is none yet."""
    program = shutil.which("redis-server")
    if program is None:
        return "Redis"
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    return " ".join(["Redis", *(word[2:] for word in said.split() if word.startswith("v="))])


def new_queue(suffix: str = "") -> tuple[dict[str, str], int]:
    """A new queue on the local SQS server: what finds it in the environment, and the server's pid.

    Raises:
        NotAvailable: the server cannot run here.
    """
    server = running("fauxqs")
    key, secret = server.credentials
    name = f"bench-{secrets.token_hex(4)}{suffix}"
    client = boto3.client(
        "sqs",
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )
    client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "600"})
    return {
        "BENCH_BROKER": server.url,
        "BENCH_QUEUE": name,
        "AWS_REGION": server.region,
        "AWS_DEFAULT_REGION": server.region,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }, server.pid or 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
