"""Two engine processes on one queue, many tasks: every run is accounted for."""

from __future__ import annotations

import random
import re
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.runner import TIMEOUT, Client, Server
from tests.end_to_end.aws.accounting import (
    listed,
    read_back,
    same_as_metrics,
    same_as_the_api,
    wait_until,
)
from tests.end_to_end.aws.environment import Environment, environment_on
from tests.end_to_end.aws.faults import Trouble, faulty
from tests.end_to_end.background import in_a_thread
from tests.engine.accounting import Account, Note, read_log
from tests.sizes import size

TASKS = size(500, in_full=5_000)
BATCH = 250
BIG = {"WORKER_COUNT": "40", "TQE_PREFETCH": "20"}


def post_batch(client: httpx.Client, url: str, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of it, as its senders are asked to: what a busy server has not confirmed is sent again,
    and its key keeps it one task."""
    missing = [item | {"idempotency_key": secrets.token_hex(8)} for item in batch]
    accepted: list[dict[str, Any]] = []

    def is_accepted() -> bool:
        answer = client.post(f"{url}/tasks/batch", json={"tasks": missing})
        results = answer.json()["results"]
        assert {result["status"] for result in results} <= {200, 201, 503}, results
        accepted.extend(result["task"] for result in results if result["status"] != 503)
        missing[:] = [
            item for item, result in zip(missing, results, strict=True) if result["status"] == 503
        ]
        return not missing

    wait_until(is_accepted)
    return accepted


# --- nothing goes wrong ---------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["elasticmq", "fauxqs"], indirect=True)
def test_each_of_many_tasks_runs_once(environment: Environment) -> None:
    """And what boto3 reads from queues and table is what the API says."""
    accepted: dict[str, dict[str, Any]] = {}
    # Leases that a busy machine does not let lapse: nothing is to go wrong here.
    settings = BIG | {"TQE_VISIBILITY_TIMEOUT": "60"}
    with environment.serve(**settings) as one, environment.serve(**settings) as two:
        with Client(timeout=60) as client:
            for start in range(0, TASKS, BATCH):
                batch: list[dict[str, Any]] = [
                    {"type": "quick", "payload": {"number": number, "to": "ü ☃"}}
                    for number in range(start, start + BATCH - 2)
                ]
                batch += [
                    {"type": "quick", "payload": f"text {start}", "delay_seconds": 2},
                    {"type": "hopeless", "payload": "a"},
                ]
                url = (one, two)[start // BATCH % 2].url
                accepted |= {task["id"]: task for task in post_batch(client, url, batch)}
            assert len(accepted) == TASKS

            def metrics_of(server: Server) -> dict[str, Any]:
                answer: dict[str, Any] = client.get(f"{server.url}/metrics").json()
                return answer

            def ended() -> bool:
                # Each knows at once what it has done itself, and a second later what the other has.
                seen = [metrics_of(server) for server in (one, two)]
                return all(each["completed_tasks"] + each["failed_tasks"] == TASKS for each in seen)

            wait_until(ended, seconds=120)
            wait_until(lambda: environment.in_queue() == (0, 0, 0))
            wait_until(lambda: metrics_of(two)["dead_letters"] == TASKS // BATCH)
            metrics = metrics_of(two)
            claimed = [metrics_of(server)["counters"]["attempts_claimed"] for server in (one, two)]
        tasks = listed(one.url)
        for server in (one, two):
            server.signal()
            assert server.wait() == 0
            assert "Traceback" not in server.log

    found = read_back(environment)
    log = read_log(environment.shop.path / "ran.log")
    account = Account(accepted, {task["id"]: task for task in tasks}, log)
    account.check()
    assert len(tasks) == TASKS
    assert len(account.starts) == TASKS
    assert {note.attempt for note in account.starts} == {1}, "no duplicate run"
    assert sum(claimed) == TASKS
    assert min(claimed) > 0, "both took part"

    same_as_the_api(found["tasks"], tasks)
    same_as_metrics(found["tasks"], len(found["dead_letters"]), metrics)
    assert set(found["queue"].values()) == {0}
    hopeless = {task["id"] for task in tasks if task["type"] == "hopeless"}
    assert {task["id"] for task in tasks if task["status"] == "FAILED"} == hopeless
    for dead_letter in found["dead_letters"]:
        assert any(task_id in dead_letter["body"] for task_id in hopeless)
        attributes = dead_letter["attributes"]
        assert attributes["TaskType"] == "hopeless"
        assert (attributes["Attempts"], attributes["RetryCount"]) == ("1", "1")
        assert attributes["Reason"]
        assert {"Error", "FailedAt"} <= attributes.keys()


# --- everything goes wrong ------------------------------------------------------------------

TYPES = ["quick"] * 60 + ["slow"] * 4 + ["flaky"] * 2 + ["thread"] * 2 + ["hopeless", "hopeless"]
RETRIED = {"flaky"}
"""They start more than once of their own accord."""


@dataclass
class Run:
    environment: Environment
    """Reached directly: the test's own looks are not to go wrong."""
    behind: Environment
    """The same, as the engines reach it."""
    stack: ExitStack
    trouble: Trouble
    servers: list[Server] = field(default_factory=list)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)
    hurt: set[int] = field(default_factory=set)
    """Processes that were killed or frozen."""
    killed: list[Server] = field(default_factory=list)

    def serve(self) -> Server:
        server = self.stack.enter_context(
            self.behind.serve(
                **BIG,
                TQE_APP="soon_seen:tasks",
                TQE_SHUTDOWN_GRACE="5",
                # Looking for what is not there costs the servers most of their time.
                TQE_RECONCILE_INTERVAL="10",
                TQE_METRICS_INTERVAL="5",
            )
        )
        self.servers.append(server)
        return server

    def submit_all(self, number: int, seed: int, over: threading.Event) -> None:
        """Through whichever server answers. Keys make a batch whose answer was lost the same one
        when it is sent again."""
        rng = random.Random(seed)
        with Client(timeout=TIMEOUT) as client:
            for start in range(0, number, BATCH):
                batch: list[dict[str, Any]] = []
                for i in range(start, min(start + BATCH, number)):
                    item = {"type": rng.choice(TYPES), "payload": i, "idempotency_key": f"{i}"}
                    if rng.random() < 0.05:
                        item["delay_seconds"] = rng.uniform(0, 3)
                    batch.append(item)
                while batch:
                    if over.is_set():
                        return
                    batch = self._submit(client, rng, batch)
                for task_id in rng.sample(list(self.accepted), 3):
                    self._cancel(client, rng, task_id)

    def _submit(
        self, client: httpx.Client, rng: random.Random, batch: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Returns what was not taken."""
        try:
            answer = client.post(
                f"{rng.choice(self.servers).url}/tasks/batch", json={"tasks": batch}
            )
        except httpx.TransportError:
            time.sleep(0.05)
            return batch
        if answer.status_code not in (201, 207):
            assert answer.status_code == 503, answer.text[-500:]
            return batch
        results = answer.json()["results"]
        taken = [result["task"] for result in results if result["task"]]
        self.accepted |= {task["id"]: task for task in taken}
        return [item for item, result in zip(batch, results, strict=True) if not result["task"]]

    def _cancel(self, client: httpx.Client, rng: random.Random, task_id: str) -> None:
        try:
            answer = client.delete(f"{rng.choice(self.servers).url}/tasks/{task_id}")
        except httpx.TransportError:
            return
        if answer.is_success and answer.json()["status"] == "CANCELLED":
            self.cancelled[task_id] = answer.json()["attempt"]

    @property
    def log(self) -> list[Note]:
        return read_log(self.environment.shop.path / "ran.log")

    def wait_for_runs(self, number: int, client: threading.Thread) -> None:
        """So many more; or all that was submitted may have run already."""
        goal = len(self.log) + number
        wait_until(lambda: len(self.log) >= goal or not client.is_alive(), seconds=TIMEOUT)

    def kill(self) -> None:
        """One of the servers, as the kernel does when memory runs out; another takes its place."""
        victim = self.servers.pop(0)
        self.hurt.add(victim.process.pid)
        victim.signal(signal.SIGKILL)
        self.killed.append(victim)
        self.serve()

    def freeze(self) -> None:
        """Past its leases."""
        victim = self.servers[0]
        self.hurt.add(victim.process.pid)
        victim.signal(signal.SIGSTOP)
        try:
            time.sleep(3)  # the fault itself: leases last 2 s
        finally:
            victim.signal(signal.SIGCONT)

    def is_done(self) -> bool:
        if self.environment.in_queue() != (0, 0, 0):
            return False
        left = [
            item["id"]["S"]
            for item in self.environment.items()
            if item["status"]["S"] in ("PENDING", "PROCESSING")
        ]
        for task_id in left:  # shown where it never comes to an end
            print("nothing is in the queue for", task_id, self.trouble.hit.get(task_id))
        return not left

    def check(self, number: int) -> Account:
        found = read_back(self.environment)
        account = Account(
            self.accepted, {item["id"]: item for item in found["tasks"]}, self.log, self.cancelled
        )
        account.check()
        assert len(found["tasks"]) == len(self.accepted) == number
        for task_id, runs in account.runs().items():
            if len(runs) > 1:
                assert self._explained(task_id, runs), (runs, self.trouble.hit.get(task_id))
        dead_letters = Counter(
            task_id
            for task_id in self.accepted
            for dead_letter in found["dead_letters"]
            if task_id in dead_letter["body"]
        )
        assert dead_letters.keys() <= {
            task_id for task_id, row in account.rows.items() if row["status"] == "FAILED"
        }
        return account

    def _explained(self, task_id: str, runs: list[Note]) -> bool:
        """A lease that lapsed is a reason, if the engine says so: one of 2 s does on a machine with
        much else to do."""
        return (
            task_id in self.trouble.hit
            or self.accepted[task_id]["type"] in RETRIED
            or task_id in self._lapsed()
            # All but the last were cut short.
            or all(run.pid in self.hurt for run in runs[:-1])
        )

    def _lapsed(self) -> set[str]:
        lines = [line for server in [*self.servers, *self.killed] for line in server.lines]
        return {
            said[1]
            for line in lines
            if (said := re.search(r"task (\S+): the worker that had it died or lost its", line))
        }


@contextmanager
def troubled(path: Path, trouble: Trouble) -> Iterator[Run]:
    """Two servers behind a proxy. SQS's own limit of receives is out of the way: whatever goes
    wrong, a task is to end as its handler says."""
    with (
        environment_on(path, max_receives=100) as environment,
        faulty(environment.servers.queue.url, trouble) as sqs,
        faulty(environment.servers.table.url, trouble) as dynamodb,
        ExitStack() as stack,
    ):
        # A dead letter that was sent and whose message could not be deleted then leaves that hidden
        # for a minute, for as long as the test waits for an empty queue.
        (environment.shop.path / "soon_seen.py").write_text(
            "from crash_tasks import tasks\n"
            "from task_queue_engine.backends.aws.sqs import queue\n"
            "queue._SETTLING_LEASE = 10\n"
        )
        run = Run(environment, environment.behind(sqs=sqs, dynamodb=dynamodb), stack, trouble)
        run.serve()
        run.serve()
        yield run


@pytest.mark.parametrize("seed", [1])
def test_whatever_goes_wrong_none_is_lost_and_duplicates_have_a_reason(
    tmp_path: Path, seed: int
) -> None:
    number = 2 * TASKS  # so many that most kinds of trouble come up
    trouble = Trouble(seed=seed, rate=0.05)
    with troubled(tmp_path, trouble) as run:
        with in_a_thread(partial(run.submit_all, number, seed)) as client:
            run.wait_for_runs(number // 7, client)
            run.kill()
            run.wait_for_runs(number // 7, client)
            run.freeze()
            run.wait_for_runs(number // 7, client)
            run.kill()
            client.join(120)
            assert not client.is_alive()
        wait_until(run.is_done, seconds=60, every=2)
        trouble.rate = 0
        for server in run.servers:
            server.signal()
        for server in run.servers:
            assert server.wait() == 0
            assert "Traceback" not in server.log
        for server in run.killed:
            server.wait()
        account = run.check(number)
    assert len(trouble.done) >= 8, "most faults came up"
    assert any(len(runs) > 1 for runs in account.runs().values()), "and had consequences"
