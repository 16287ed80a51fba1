"""Local SQS and DynamoDB servers, and the engine on them: `make serve-aws`.

    python -m local_aws                     tqe serve on ElasticMQ and DynamoDB Local
    python -m local_aws -- worker --app shop:tasks
    python -m local_aws --no-engine         only the servers, queues and table
    python -m local_aws --fetch             only download what the tests' servers need

Everything in the servers is gone when they end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from local_aws.downloads import axe, chromium, prometheus
from local_aws.pairs import PAIRS, LocalAws, start, start_first
from local_aws.servers import SERVERS, NotAvailable, fetch, stop_all

ENV_FILE = Path("local-aws.env")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.fetch:
        return _fetch()
    say("starting SQS and DynamoDB on this machine (the first time they are downloaded)")
    try:
        local = _start(options.servers)
    except NotAvailable as reason:
        say(f"no local servers: {reason}")
        return 1
    try:
        environment = local.environment | local.provision("tasks")
        _write_env_file(environment)
        say(f"{local.pair.title} run: sqs {local.queue.url}, dynamodb {local.table.url}")
        say(f"for other terminals: set -a; . ./{ENV_FILE}; set +a")
        if options.no_engine:
            return _wait_for_a_signal()
        return _run([sys.executable, "-m", "task_queue_engine", *options.command], environment)
    finally:
        ENV_FILE.unlink(missing_ok=True)
        stop_all()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m local_aws",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pairs = "; ".join(f"{name}: {pair.title}" for name, pair in PAIRS.items())
    parser.add_argument(
        "--servers",
        choices=[*PAIRS, "any"],
        default="any",
        help=f"{pairs}; any (default): java, or moto where there is no Java",
    )
    parser.add_argument("--no-engine", action="store_true", help="only the servers, until Ctrl-C")
    parser.add_argument(
        "--fetch", action="store_true", help="download every server, start none, and end"
    )
    parser.add_argument(
        "command", nargs="*", default=["serve"], help="of tqe, after --; default: serve"
    )
    return parser.parse_args(arguments)


def _fetch() -> int:
    missing = 0
    programs: dict[str, Callable[[], object]] = {
        **{name: partial(fetch, name) for name in SERVERS},
        "prometheus": prometheus,
        "chromium": chromium,
        "axe": axe,
    }
    for name, get in programs.items():
        try:
            get()
        except NotAvailable as reason:
            say(f"{name} cannot run here: {reason}")
            missing = 1
    return missing


def _start(name: str) -> LocalAws:
    if name != "any":
        return start(PAIRS[name])
    local, reasons = start_first(("java", "moto"))
    for reason in reasons:
        say(reason)
    return local


def _write_env_file(environment: Mapping[str, str]) -> None:
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in environment.items()]
    ENV_FILE.write_text("".join(lines))


def _wait_for_a_signal() -> int:
    said = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        said.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    said.wait()
    return 0


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Its exit code. It drains first, then the servers end: signals are its own to handle."""
    # Ctrl-C reaches every process of the terminal, the engine too.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    process = subprocess.Popen(command, env=os.environ | environment)
    signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    return code if code >= 0 else 128 - code


def say(text: str) -> None:
    print(f"local-aws: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
