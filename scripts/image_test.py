#!/usr/bin/env python3
"""Build the container image and see that it does what it should: `make image-test`.

    scripts/image_test.py [--keep]

Needs a Docker daemon (20.10 or newer) and its command; compose files are run where `docker
compose` 2.24 is there. Takes a few minutes and leaves nothing behind but the image
task-queue-engine:test.

    DOCKER            the command (default: docker)
    BASE_IMAGE        a stand-in for the Dockerfile's base, where that cannot be fetched
    DOCKER_NETWORK    of builds and containers: "host" where the daemon has no bridge

How pip reaches its index inside the build is the builder's business: proxies and certificates of
the daemon, or of BASE_IMAGE.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "task-queue-engine:test"
PREFIX = "tqe-image-test"
PORT = 18080
OTLP_PORT = 4318
URL = f"http://127.0.0.1:{PORT}"
KEY = "only-for-this-one-run-of-the-tests"

MOST_MEGABYTES = 80
"""That the image may add to its base. It is 78: ADR 0032 says what of."""

# As in docker-compose.yml.
HARDENED = [
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges:true",
    "--memory=1g",
    "--pids-limit=512",
]

DOCKER = os.environ.get("DOCKER", "docker")
NETWORK = os.environ.get("DOCKER_NETWORK", "")


def docker(*args: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [DOCKER, *args], capture_output=True, text=True, timeout=900, check=False, **options
    )
    if check and done.returncode:
        sys.exit(f"docker {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}"[-4000:])
    return done


def output(*args: str) -> str:
    return docker(*args).stdout.strip()


def run(name: str, *args: str, command: tuple[str, ...] = ()) -> str:
    """A container of this name, in the background."""
    network = [f"--network={NETWORK}"] if NETWORK else [f"--publish=127.0.0.1:{PORT}:{PORT}"]
    settings = [f"--env=TQE_API_KEYS={KEY}", f"--env=PORT={PORT}"]
    name = f"{PREFIX}-{name}"
    docker("run", "--detach", f"--name={name}", *network, *settings, *args, IMAGE, *command)
    return name


def call(path: str, body: Any = None) -> Any:
    request = urllib.request.Request(f"{URL}{path}", headers={"Authorization": f"Bearer {KEY}"})
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(what: str, happens: Callable[[], Any], seconds: float = 60) -> Any:
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            found = happens()
        except (OSError, ValueError) as error:
            found, why = None, f": {error}"
        else:
            why = ""
        if found:
            return found
        if time.monotonic() > give_up_at:
            sys.exit(f"{what}: not within {seconds:g} s{why}")
        time.sleep(0.3)  # a container has no event for what happens in it, and a look is a process


def ready() -> Any:
    return call("/ready")


def state(name: str, part: str) -> str:
    return output("inspect", "--format", f"{{{{.State.{part}}}}}", name)


def stop(name: str) -> str:
    """SIGTERM; the exit status."""
    docker("stop", "--time=60", name)
    return state(name, "ExitCode")


def submit(number: int) -> list[str]:
    item = {"type": "email", "payload": "image-test@example.com"}
    answer = call("/tasks/batch", {"tasks": [item] * number})
    return [result["task"]["id"] for result in answer["results"]]


def completed(ids: list[str]) -> bool:
    return all(call(f"/tasks/{task_id}")["status"] == "COMPLETED" for task_id in ids)


# --- what is looked at ----------------------------------------------------------------------


def build() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    base = os.environ.get("BASE_IMAGE", "")
    if base:
        dockerfile = re.sub(r"(?m)^FROM python:\S+", f"FROM {base}", dockerfile)
    network = [f"--network={NETWORK}"] if NETWORK else []
    docker(
        *["build", *network, f"--tag={IMAGE}", "--file=-", str(ROOT)],
        input=dockerfile,
        env=os.environ | {"DOCKER_BUILDKIT": "1"},
    )
    named = re.findall(r"(?m)^FROM (\S+) AS base", dockerfile)
    megabytes = (size(IMAGE) - size(named[0])) / 1e6
    print(f"  adds {megabytes:.1f} MB to its base")
    assert megabytes <= MOST_MEGABYTES, f"more than {MOST_MEGABYTES}"


def size(image: str) -> int:
    return int(output("image", "inspect", "--format", "{{.Size}}", image))


def contents() -> None:
    """No installer, no root, nothing of the project writable."""
    inside = (
        "id -u; python3 -m pip --version 2>/dev/null && echo pip; "
        "find /opt/tqe -name tests -type d; find /opt/tqe -writable -not -type l"
    )
    found = output("run", "--rm", "--network=none", "--entrypoint=sh", IMAGE, "-c", inside)
    assert found == "10001", found


def no_keys() -> None:
    done = docker("run", "--rm", "--network=none", IMAGE, check=False)
    assert done.returncode == 2, done
    assert "TQE_API_KEYS" in done.stderr
    assert "TQE_KEYS_FILE" in done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr


def life() -> None:
    """Healthy, hardened, works, sends traces, and stops with 0 when told to."""
    collector = f"--env=OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{OTLP_PORT}"
    name = run("life", "--init", *HARDENED, collector, f"--volume={PREFIX}-life:/data")
    until("ready", ready)
    until("healthy", lambda: docker("exec", name, "healthcheck").returncode == 0)
    # It refuses what is sent to it, and writes down what that was.
    listen = f"python3 -m http.server --bind 127.0.0.1 {OTLP_PORT} 2> asked"
    docker("exec", "--detach", name, "sh", "-c", listen)
    pages()
    smoke()
    asked = ("exec", name, "cat", "asked")
    until("spans are sent", lambda: "POST /v1/traces" in docker(*asked, check=False).stdout)
    assert stop(name) == "0"


def pages() -> None:
    """Templates and static files are in the image."""
    for path, kind in (
        ("/dashboard/login", "text/html"),
        ("/dashboard/static/dashboard.css", "text/css"),
        ("/docs", "text/html"),
    ):
        with urllib.request.urlopen(f"{URL}{path}", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith(kind), (path, answer.headers)


def worker() -> None:
    """One with TQE_WORKER_PORT has a healthcheck; a file of named keys is enough."""
    make = docker("run", "--rm", IMAGE, "keys", "new", "probe", "--role=read", "--json").stdout
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        keys = Path(folder, "keys.toml")
        keys.write_text(json.loads(make)["entry"], encoding="utf-8")
        keys.chmod(0o644)
        keyed = [f"--volume={keys}:/run/secrets/keys.toml:ro", "--env=TQE_API_KEYS="]
        keyed.append("--env=TQE_KEYS_FILE=/run/secrets/keys.toml")
        name = run(
            "worker",
            *["--init", *HARDENED, *keyed, f"--env=TQE_WORKER_PORT={PORT}", "--env=PORT=8080"],
            f"--volume={PREFIX}-worker:/data",
            command=("worker",),
        )
        until("healthy", lambda: not docker("exec", name, "healthcheck", check=False).returncode)
        assert stop(name) == "0"


def smoke() -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "smoke_test.py"), URL],
        env=os.environ | {"TQE_API_KEYS": KEY},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=200,
    )


def killed() -> None:
    """The container is killed in the middle of work, its volume stays, and nothing is lost."""
    settings = ["--init", *HARDENED, f"--volume={PREFIX}-killed:/data"]
    settings.append("--env=TQE_VISIBILITY_TIMEOUT=5")
    name = run("killed", *settings)
    until("ready", ready)
    ids = submit(100) + submit(100)
    docker("kill", "--signal=KILL", name)
    assert state(name, "ExitCode") == "137"
    docker("rm", name)
    name = run("killed-again", *settings)
    until("ready", ready)
    until("all tasks completed", lambda: completed(ids))
    assert stop(name) == "0"


def stopped_at_work() -> None:
    """A stop in the middle of work ends with 0, and what had not started is there afterwards."""
    settings = ["--init", *HARDENED, f"--volume={PREFIX}-stopped:/data"]
    name = run("stopped", *settings, "--env=WORKER_COUNT=1")
    until("ready", ready)
    ids = [task_id for _ in range(5) for task_id in submit(100)]
    assert stop(name) == "0"
    name = run("stopped-again", *settings)
    until("ready", ready)
    until("all tasks completed", lambda: completed(ids))
    attempts = {call(f"/tasks/{task_id}")["attempt"] for task_id in ids[-50:]}
    assert attempts == {1}, "a stop costs no attempt"
    assert stop(name) == "0"


def zombies() -> None:
    """An orphan that dies in the container is reaped by the container's init, and where the runtime
    has put none in front by the program itself."""
    reaps("without-init")
    reaps("with-init", "--init")


def reaps(name: str, *options: str) -> None:
    name = run(name, *options, *HARDENED, f"--volume={PREFIX}-zombies:/data")
    until("ready", ready)
    # A shell whose own child outlives it: an orphan that the first process inherits.
    for _ in range(3):
        docker("exec", name, "sh", "-c", "(sleep 0.2 &) ; exit 0")
    until("every orphan has ended and was reaped", lambda: not orphans(name))
    assert stop(name) == "0"


LIST = """
import pathlib
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        print(process.joinpath("stat").read_text().rstrip())
    except (FileNotFoundError, ProcessLookupError):
        pass
"""
"""`docker top` would not do: it lists the control group, in which a zombie is not any more."""


def orphans(name: str) -> list[str]:
    """Lines of what the shells have left, alive or a zombie, and of any other zombie."""
    lines = output("exec", name, "python3", "-c", LIST).splitlines()
    assert any(line.startswith("1 (") for line in lines), lines
    return [line for line in lines if re.match(r"\d+ \((sh|sleep)\) |\d+ \(.*\) Z ", line)]


def compose() -> None:
    found = compose_command()
    if not found:
        print("  left out: there is no `docker compose` (version 2.24 or newer)")
        return
    for file in ("docker-compose.yml", "docker-compose.aws.yml"):
        print(f"  {file}", flush=True)
        composed([*found, "--progress=quiet", f"--project-name={PREFIX}", f"--file={file}"])


def composed(command: list[str]) -> None:
    """Every service comes up, healthy where it says how; the engine works, and stops with 0."""
    environment = os.environ | {"TQE_API_KEYS": KEY, "PORT": str(PORT)}

    def call_compose(*args: str, given: str = "") -> str:
        options: dict[str, Any] = {"cwd": ROOT, "env": environment, "text": True, "timeout": 300}
        done = subprocess.run(
            [*command, *args], input=given, stdout=subprocess.PIPE, check=False, **options
        )
        if done.returncode:
            subprocess.run([*command, "logs", "--tail=20"], check=False, **options)
            sys.exit(f"compose {' '.join(args)}: {done.returncode}")
        return str(done.stdout)

    services = json.loads(call_compose("config", "--format=json"))["services"]
    try:
        # A service that others wait for to complete may end, and any other may not.
        up = ["up", "--detach", "--no-build", "--wait", "--wait-timeout=150"]
        call_compose("--file=-", *up, given=override(services))
        smoke()
        (engine,) = call_compose("ps", "--quiet", "engine").split()
        call_compose("stop")
        assert state(engine, "ExitCode") == "0", state(engine, "ExitCode")
    finally:
        call_compose("down", "--volumes")


def override(services: dict[str, Any]) -> str:
    """What is not as the compose file has it: the image is the one under test; and where the daemon
    has no bridge all services are on the host's network, and find each other at 127.0.0.1."""
    lines = ["services:"]
    for name, service in services.items():
        fields = [f"image: {IMAGE}"] if service["image"] == "task-queue-engine:local" else []
        if NETWORK:
            hosts = json.dumps(dict.fromkeys(services, "127.0.0.1"))
            fields += [f"network_mode: {NETWORK}", f"extra_hosts: {hosts}", "ports: !reset []"]
            fields += [f'environment: {{PORT: "{PORT}"}}']
        lines.append(f"  {name}: {{{', '.join(fields)}}}")
    return "\n".join(lines)


def compose_command() -> list[str]:
    """Of the second version: the first one knows neither `required: false` of an env_file nor
    `!reset`."""
    for command in ([DOCKER, "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            asked = [*command, "version", "--short"]
            said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
            if not said.returncode and not said.stdout.startswith("1."):
                return command
    return []


def clean() -> None:
    names = output("ps", "--all", "--quiet", f"--filter=name={PREFIX}").split()
    if names:
        docker("rm", "--force", "--volumes", *names)
    volumes = output("volume", "ls", "--quiet", f"--filter=name={PREFIX}").split()
    if volumes:
        docker("volume", "rm", *volumes)


def main() -> None:
    if shutil.which(DOCKER) is None or docker("info", check=False).returncode:
        sys.exit("image-test needs Docker: a daemon that runs, and the command `docker` (DOCKER=)")
    clean()
    try:
        for look in (
            build,
            contents,
            no_keys,
            life,
            worker,
            killed,
            stopped_at_work,
            zombies,
            compose,
        ):
            print(f"{look.__name__.replace('_', ' ')} ...", flush=True)
            look()
    finally:
        if "--keep" not in sys.argv:
            clean()
    print("the image is fine")


if __name__ == "__main__":
    main()
