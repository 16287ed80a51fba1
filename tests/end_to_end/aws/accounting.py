"""A run on AWS, looked at from outside: what ran, what is in queue and table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.runner import Client
from tests.end_to_end.aws.environment import Environment

READ_BACK = Path(__file__).with_name("read_back.py")


def read_back(environment: Environment) -> dict[str, Any]:
    """By the boto3 script, which cannot import this package."""
    ran = subprocess.run(
        [sys.executable, "-I", str(READ_BACK)],
        env={"PATH": os.environ["PATH"]} | environment.variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def listed(url: str) -> list[dict[str, Any]]:
    """All tasks, page by page, as the API lists them."""
    tasks: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 100}
    with Client(timeout=30) as client:
        while True:
            page = client.get(f"{url}/tasks", params=query).json()
            tasks += page["tasks"]
            if page["next_cursor"] is None:
                return tasks
            query["cursor"] = page["next_cursor"]


def same_as_the_api(items: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> None:
    """Every item has what the API says of its task, by the same names."""
    by_id = {task["id"]: task for task in tasks}
    assert len(by_id) == len(tasks) == len(items)
    for item in items:
        task = by_id[item["id"]]
        for name, value in task.items():
            # What is not set is not in an item.
            assert item.get(name, _UNSET.get(name)) == value, (name, item, task)


_UNSET = {"cancel_requested": False, "attempt": 0}


def same_as_metrics(
    items: list[dict[str, Any]], dead_letters: int, metrics: dict[str, Any]
) -> None:
    counted = Counter(item["status"] for item in items)
    assert metrics["total_tasks"] == len(items)
    for status in ("PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"):
        assert metrics[f"{status.lower()}_tasks"] == counted[status], status
    assert metrics["dead_letters"] == dead_letters
    assert (metrics["queue_depth"], metrics["in_flight"]) == (0, 0)


def wait_until(condition: Callable[[], bool], *, seconds: float = 60, every: float = 0.1) -> None:
    """For what takes real servers a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(every)
