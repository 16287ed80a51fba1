"""What a request to SQS costs the process that makes it, in CPU microseconds.

    python -m benchmarks.aws.client                              # this client and boto3
    python -m benchmarks.aws.client --clients engine boto3 awscrt --json result.json

Half of the requests receive ten messages, half delete ten; `--in-flight` are always under way. The
server is a process of its own on the loopback interface that answers with the same bytes each time,
so that nothing but the client is measured: building, signing and sending a request, reading and
decoding its answer.

- engine: `backends/aws/wire/client.py`, as the engine uses it.
- boto3: the usual way to use it from trio, `trio.to_thread.run_sync` around each call.
- awscrt: AWS's own C runtime for signing, HTTP and TLS, with its callbacks bridged to trio; no
  retries, timeouts or checks, so this is the least that a client on it could cost. It is not a
  dependency: `pip install awscrt`.

Every client runs in a process of its own, all of them in turn and that `--rounds` times; the table
shows medians. CPU is user plus system time of that process, all threads. Machines are noisy:
compare the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio
import trustme

from benchmarks.tables import Progress, table
from task_queue_engine import __version__

CLIENTS = ("engine", "boto3", "awscrt")
REGION = "eu-central-1"
QUEUE = f"https://sqs.{REGION}.amazonaws.com/123456789012/tasks"
RECEIPT = "A" * 300  # about what SQS gives out

RECEIVE: dict[str, Any] = {
    "QueueUrl": QUEUE,
    "MaxNumberOfMessages": 10,
    "WaitTimeSeconds": 20,
    "VisibilityTimeout": 30,
    "MessageSystemAttributeNames": ["ApproximateReceiveCount"],
}
DELETE: dict[str, Any] = {
    "QueueUrl": QUEUE,
    "Entries": [{"Id": str(n), "ReceiptHandle": RECEIPT} for n in range(10)],
}

Send = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


# --- the server -------------------------------------------------------------------------------


def canned(document: object) -> bytes:
    body = json.dumps(document).encode()
    head = (
        "HTTP/1.1 200 OK\r\n"
        "x-amzn-RequestId: 7d8f6bdc-0000-5555-a222-3b2b1c1c1c1c\r\n"
        "Date: Tue, 01 Jan 2030 00:00:00 GMT\r\n"
        "Content-Type: application/x-amz-json-1.0\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def message(number: int) -> dict[str, object]:
    task = {
        "id": f"0190a7c0-0000-7000-8000-{number:012}",
        "type": "email",
        "payload": "user@example.com",
        "status": "PENDING",
        "retry_count": 0,
        "created_at": "2030-01-01T00:00:00Z",
        "updated_at": "2030-01-01T00:00:00Z",
    }
    return {
        "MessageId": f"7d8f6bdc-0000-5555-a222-{number:012}",
        "ReceiptHandle": RECEIPT,
        "MD5OfBody": "0" * 32,
        "Body": json.dumps(task),
        "Attributes": {"ApproximateReceiveCount": "1"},
    }


RECEIVED = canned({"Messages": [message(n) for n in range(10)]})
DELETED = canned({"Successful": [{"Id": str(n)} for n in range(10)], "Failed": []})


class Server(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(RECEIVED if b".receivemessage" in head else DELETED)


async def serve(folder: Path) -> None:
    """Print the plain and the TLS port, then answer until stdin ends."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(Server, "127.0.0.1", 0)
    secured = await loop.create_server(Server, "127.0.0.1", 0, ssl=context)
    ports = [server.sockets[0].getsockname()[1] for server in (plain, secured)]
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


# --- the clients ------------------------------------------------------------------------------


async def engine_client(stack: AsyncExitStack, args: argparse.Namespace) -> Send:
    from task_queue_engine.backends.aws.wire.client import AwsClient

    client = AwsClient(region=REGION, endpoints={"sqs": args.url, "dynamodb": args.url})
    await stack.enter_async_context(client.open())

    async def send(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        return await client.call(
            "sqs", operation, parameters, long_poll=operation == "ReceiveMessage"
        )

    return send


async def boto3_client(stack: AsyncExitStack, args: argparse.Namespace) -> Send:
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=args.in_flight, retries={"mode": "standard"})
    client = boto3.client("sqs", region_name=REGION, endpoint_url=args.url, config=config)
    methods = {
        "ReceiveMessage": client.receive_message,
        "DeleteMessageBatch": client.delete_message_batch,
    }
    limiter = trio.CapacityLimiter(args.in_flight)

    async def send(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            return methods[operation](**parameters)

        return await trio.to_thread.run_sync(call, limiter=limiter)

    return send


async def awscrt_client(stack: AsyncExitStack, args: argparse.Namespace) -> Send:
    import msgspec
    from awscrt import auth, http
    from awscrt import io as crt_io

    group = crt_io.EventLoopGroup(1)
    bootstrap = crt_io.ClientBootstrap(group, crt_io.DefaultHostResolver(group))
    secured = None
    if args.url.startswith("https"):
        options = crt_io.TlsContextOptions()
        bundle = await trio.Path(os.environ["AWS_CA_BUNDLE"]).read_bytes()
        options.override_default_trust_store(bundle)
        secured = crt_io.ClientTlsContext(options).new_connection_options()
        secured.set_server_name("localhost")
    sockets = crt_io.SocketOptions()
    sockets.domain = crt_io.SocketDomain.IPv4
    port = int(args.url.rpartition(":")[2])
    idle = [
        http.HttpClientConnection.new("127.0.0.1", port, bootstrap, sockets, secured).result(10)
        for _ in range(args.in_flight)
    ]
    provider = auth.AwsCredentialsProvider.new_static(
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    )
    token = trio.lowlevel.current_trio_token()

    async def send(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        body = msgspec.json.encode(parameters)
        headers = http.HttpHeaders(
            [
                ("Host", f"localhost:{port}"),
                ("Content-Type", "application/x-amz-json-1.0"),
                ("Content-Length", str(len(body))),
                ("X-Amz-Target", f"AmazonSQS.{operation}"),
            ]
        )
        request = http.HttpRequest("POST", "/", headers, io.BytesIO(body))
        config = auth.AwsSigningConfig(credentials_provider=provider, region=REGION, service="sqs")
        auth.aws_sign_request(request, config).result(1)
        chunks: list[bytes] = []
        task = trio.lowlevel.current_task()
        connection = idle.pop()
        stream = connection.request(
            request, None, lambda http_stream, chunk, **_: chunks.append(chunk)
        )
        stream.completion_future.add_done_callback(
            lambda _: token.run_sync_soon(trio.lowlevel.reschedule, task)
        )
        stream.activate()
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        idle.append(connection)
        return msgspec.json.decode(b"".join(chunks))

    return send


# --- measuring --------------------------------------------------------------------------------


async def run_client(args: argparse.Namespace) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        maker = {"engine": engine_client, "boto3": boto3_client, "awscrt": awscrt_client}
        send = await maker[args.client](stack, args)

        async def work(requests: int) -> None:
            for number in range(requests):
                if number % 2:
                    answer = await send("DeleteMessageBatch", DELETE)
                    assert len(answer["Successful"]) == 10
                else:
                    answer = await send("ReceiveMessage", RECEIVE)
                    assert len(answer["Messages"]) == 10

        async def all_of(requests: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(args.in_flight):
                    nursery.start_soon(work, requests // args.in_flight)

        await all_of(20 * args.in_flight)  # connects, and warms caches
        wall, cpu = time.perf_counter(), time.process_time()
        await all_of(args.requests)
        done = args.requests // args.in_flight * args.in_flight
        return {
            "cpu_us": (time.process_time() - cpu) / done * 1e6,
            "requests_per_second": done / (time.perf_counter() - wall),
        }


def measure(args: argparse.Namespace, client: str, url: str, bundle: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.aws.client", "--client", client, "--url", url]
    command += ["--requests", str(args.requests), "--in-flight", str(args.in_flight)]
    environment = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"} | {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the client {client} failed with exit code {done.returncode}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


Results = dict[str, dict[str, dict[str, float]]]


def measure_all(args: argparse.Namespace, progress: Progress) -> Results:
    samples: dict[str, dict[str, list[dict[str, float]]]] = {
        kind: {client: [] for client in args.clients} for kind in ("plain", "TLS")
    }
    with tempfile.TemporaryDirectory(prefix="tqe-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks.aws.client", "--serve", folder]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            if server.stdout is None:
                raise SystemExit("no pipe to the server")
            plain, secured = json.loads(server.stdout.readline())
            urls = {"plain": f"http://localhost:{plain}", "TLS": f"https://localhost:{secured}"}
            for _ in range(args.rounds):
                for kind, url in urls.items():
                    for client in args.clients:
                        result = measure(args, client, url, Path(folder) / "ca.pem")
                        samples[kind][client].append(result)
                        progress.advance(1)
            server.communicate()
    return {
        kind: {
            client: {key: statistics.median(sample[key] for sample in taken) for key in taken[0]}
            for client, taken in clients.items()
        }
        for kind, clients in samples.items()
    }


def show(results: Results) -> None:
    rows: list[list[str]] = []
    for kind, clients in results.items():
        for client, result in clients.items():
            of_boto3 = (
                f"{result['cpu_us'] / clients['boto3']['cpu_us']:.1%}" if "boto3" in clients else ""
            )
            cpu, rate = f"{result['cpu_us']:,.0f}", f"{result['requests_per_second']:,.0f}"
            rows.append([kind, client, cpu, of_boto3, rate])
    header = ("", "client", "us/request", "of boto3", "requests/s")
    print(table("CPU of one SQS request", header, rows, left=2))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws.client", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=["engine", "boto3"])
    parser.add_argument("--requests", type=int, default=4_000, help="a client and round (4000)")
    parser.add_argument("--in-flight", type=int, default=16, help="at once (16)")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many (3)")
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or not 1 <= args.in_flight <= args.requests:
        parser.error("--rounds and --in-flight need at least 1, --requests at least --in-flight")
    return args


def main() -> None:
    args = parse_arguments()
    if args.serve:
        asyncio.run(serve(args.serve))
        return
    if args.client:
        print(json.dumps(trio.run(run_client, args)))
        return
    with Progress("measurements", args.rounds * 2 * len(args.clients)) as progress:
        results = measure_all(args, progress)
    show(results)
    if args.json:
        document = {
            "version": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "requests": args.requests,
            "in_flight": args.in_flight,
            "rounds": args.rounds,
            "results": results,
        }
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
