"""The local servers themselves: they answer, on the loopback address alone, and they end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local_aws import servers
from tests.backends.aws.sqs.queues import boto
from tests.local_servers import require
from tests.processes import is_running

DYNAMODB = ["dynamodb-local", "moto", "ministack"]
SQS = ["elasticmq", "moto", "fauxqs", "ministack"]


@pytest.mark.parametrize("name", DYNAMODB)
def test_dynamodb_answers(name: str) -> None:
    client = boto("dynamodb", require(name))
    assert "TableNames" in client.list_tables()


@pytest.mark.parametrize("name", SQS)
def test_sqs_answers(name: str) -> None:
    client = boto("sqs", require(name))
    url = client.create_queue(QueueName="test-servers")["QueueUrl"]
    assert client.send_message(QueueUrl=url, MessageBody="hello")["MessageId"]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", servers.SERVERS)
def test_it_listens_on_the_loopback_address_alone(name: str) -> None:
    port = int(require(name).url.rpartition(":")[2])
    listening = {
        fields[1].rpartition(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in map(str.split, Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert listening
    assert listening <= loopback


def test_servers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    if not servers._die_with_parent():
        pytest.skip("this system has no setpriv")
    program = (
        "import time; from local_aws import servers; "
        "print(servers._Process('moto')._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    wait_for_the_end_of(pid)


ASKS = "import sys; from tests.local_servers import running; print(running(sys.argv[1]).pid)"
SHARES = f"""
import subprocess, sys
from tests.local_servers import share
share()
for name in ("moto", "no such server", "moto"):
    subprocess.run([sys.executable, "-c", {ASKS!r}, name], stderr=subprocess.DEVNULL)
print("done", flush=True)
sys.stdin.read()
"""


def test_a_shared_server_ends_with_the_process_that_shares_it() -> None:
    if not servers._die_with_parent():
        pytest.skip("this system has no setpriv")
    program = subprocess.Popen(
        [sys.executable, "-c", SHARES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with program:
        assert program.stdout is not None
        said = list(iter(lambda: program.stdout.readline().strip(), "done"))
        assert len(said) == 2, "one of the three asked for what there is not"
        assert said[0] == said[1]
        pid = int(said[0])
        assert is_running(pid), "though those that asked have ended"
        program.kill()
    wait_for_the_end_of(pid)


def wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline, "the server outlived its test process"
        time.sleep(0.02)
