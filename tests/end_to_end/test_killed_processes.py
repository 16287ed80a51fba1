"""Real processes on one file, killed, stopped and restarted at any moment while work comes in:
whatever happens, every task that was accepted ends, once, and for a reason its handler confirms."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest

from task_queue_engine.task import TaskStatus
from tests.cli.runner import TIMEOUT, Client, Server, Shop, eventually
from tests.end_to_end.background import in_a_thread
from tests.engine.accounting import Account, Note, read_log

SUBMISSIONS = 120
TROUBLES = 4
TYPES = (["quick"] * 5 + ["slow", "slow", "flaky", "flaky", "thread", "hopeless"]) * 2 + ["poison"]
"""Each attempt of a poison costs a worker process, and another has to be started."""


@dataclass
class Run:
    """Two servers on one file, and what they promised."""

    shop: Shop
    rng: random.Random
    stack: ExitStack
    servers: list[Server] = field(default_factory=list)
    ended: list[Server] = field(default_factory=list)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)
    """Task id: its last attempt that may have started."""
    ids_of_keys: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def serve(self) -> Server:
        return self.stack.enter_context(
            self.shop.serve(
                TQE_APP="crash_tasks:tasks",
                WORKER_COUNT="4",
                TQE_PREFETCH=str(self.rng.choice([0, 2])),
                TQE_VISIBILITY_TIMEOUT="1",
                TQE_RECONCILE_INTERVAL="0.2",
                TQE_SHUTDOWN_GRACE="0.1",
            )
        )

    def replace(self, index: int) -> None:
        old = self.servers[index]
        self.servers[index] = self.serve()
        self.ended.append(old)

    # --- clients ----------------------------------------------------------------------------

    def submit_all(self, seed: int, over: threading.Event) -> None:
        """In a thread of its own, whatever becomes of the servers meanwhile."""
        rng = random.Random(seed)
        with Client(timeout=TIMEOUT) as client:
            for _ in range(SUBMISSIONS):
                if over.is_set():
                    return
                body: dict[str, Any] = {"type": rng.choice(TYPES), "payload": "anything"}
                headers = {}
                if rng.random() < 0.3:
                    body["delay_seconds"] = rng.uniform(0, 1.5)
                elif rng.random() < 0.3:
                    key = f"key-{rng.randrange(8)}"
                    headers["Idempotency-Key"] = key
                    body = {"type": "quick", "payload": key}
                task = self._post(client, rng, body, headers)
                self.accepted[task["id"]] = task
                if headers:
                    self.ids_of_keys[body["payload"]].add(task["id"])
                if rng.random() < 0.15:
                    self._cancel(client, rng)

    def _post(
        self, client: httpx.Client, rng: random.Random, body: object, headers: dict[str, str]
    ) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                url = f"{rng.choice(self.servers).url}/tasks"
                answer = client.post(url, json=body, headers=headers)
            except httpx.TransportError:
                time.sleep(0.01)  # neither server listens at the moment
                continue
            if answer.is_success:
                task: dict[str, Any] = answer.json()
                return task
            assert answer.status_code == 503, answer.text
        raise AssertionError("no server takes submissions")

    def _cancel(self, client: httpx.Client, rng: random.Random) -> None:
        task_id = rng.choice(list(self.accepted))
        try:
            answer = client.delete(f"{rng.choice(self.servers).url}/tasks/{task_id}")
        except httpx.TransportError:
            return
        if answer.is_success and answer.json()["status"] == "CANCELLED":
            self.cancelled[task_id] = answer.json()["attempt"]

    # --- troubles ---------------------------------------------------------------------------

    def kill(self, index: int) -> None:
        self.servers[index].signal(signal.SIGKILL)
        self.replace(index)

    def terminate(self, index: int) -> None:
        self.servers[index].signal(signal.SIGTERM)
        assert self.servers[index].wait() == 0
        self.replace(index)

    def freeze(self, index: int) -> None:
        """Until its leases have lapsed and the other has taken over what it held."""
        self.servers[index].signal(signal.SIGSTOP)
        frozen_at = time.time()
        try:
            eventually(lambda: time.time() > frozen_at + 1.2 or self.is_done)
        finally:
            self.servers[index].signal(signal.SIGCONT)

    # --- looking ----------------------------------------------------------------------------

    @property
    def log(self) -> list[Note]:
        return read_log(self.shop.path / "ran.log")

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        connection = apsw.Connection(str(self.shop.path / "tasks.db"))
        connection.set_busy_timeout(5000)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    @property
    def is_done(self) -> bool:
        ((left,),) = self.ask(
            "SELECT (SELECT count(*) FROM tasks WHERE finished_at IS NULL) "
            "+ (SELECT count(*) FROM messages)"
        )
        return bool(left == 0)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shutil.copy(Path(__file__).with_name("crash_tasks.py"), tmp_path)
    return Shop(tmp_path)


@pytest.mark.parametrize("seed", [1])
def test_whatever_happens_to_processes_every_accepted_task_ends(shop: Shop, seed: int) -> None:
    rng = random.Random(seed)
    with ExitStack() as stack:
        run = Run(shop, rng, stack)
        run.servers += [run.serve(), run.serve()]
        with in_a_thread(partial(run.submit_all, seed)) as client:
            for _ in range(TROUBLES):
                goal = len(run.log) + rng.randrange(30)
                eventually(lambda goal=goal: len(run.log) >= goal or not client.is_alive())
                rng.choice([run.kill, run.kill, run.freeze, run.terminate])(rng.randrange(2))
            client.join(TIMEOUT)
            assert not client.is_alive()
        eventually(lambda: run.is_done)
        for server in run.servers:
            server.signal()
            assert server.wait() == 0
        for server in run.ended + run.servers:
            assert "Traceback" not in server.log
    _check(run)


def _check(run: Run) -> None:
    names = [status.value for status in TaskStatus]
    rows = {
        id_: {"status": names[status], "attempt": attempt}
        for id_, status, attempt in run.ask("SELECT id, status, attempt FROM tasks")
    }
    assert len(run.accepted) > SUBMISSIONS / 2
    Account(run.accepted, rows, run.log, run.cancelled).check()
    assert all(len(ids) == 1 for ids in run.ids_of_keys.values())

    counted = {name: n for name, n in run.ask("SELECT name, n FROM counters") if n}
    counted.pop("pings", None)
    dead_letters = len(run.ask("SELECT id FROM dead_letters"))
    statuses = Counter(row["status"] for row in rows.values())
    assert counted == {**statuses, "dead:default": dead_letters}
    assert run.ask("PRAGMA integrity_check") == [("ok",)]
