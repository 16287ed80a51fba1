"""An action on many tasks whose process is killed in its middle goes on in another one."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from pathlib import Path

import apsw
import msgspec
import pytest
import trio

from task_queue_engine import (
    ActionProgress,
    ActionRequest,
    Engine,
    Settings,
    Submission,
    TaskAction,
    TaskRegistry,
)
from task_queue_engine.backends.base import Counts
from tests.cli.runner import TIMEOUT, Server, Shop

NUMBER = 5_000
"""Fifty pieces: most are left when the kill comes."""


def of(shop: Shop, *, workers: bool) -> Engine:
    settings = Settings(_env_file=None, database=str(shop.path / "tasks.db"))
    tasks = TaskRegistry()
    tasks.task("echo")(_echo)
    return Engine(tasks, settings, consume=workers)


async def _echo(payload: object) -> object:
    return payload


async def begin(shop: Shop) -> str:
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(of(shop, workers=False).run)
        await engine.submit_many(
            [Submission(task="echo", payload=n, delay=3600) for n in range(NUMBER)]
        )
        task = await engine.start_action(ActionRequest(action=TaskAction.CANCEL))
        await engine.stop()
    assert task is not None
    return task.id


def kill_in_its_middle(server: Server, database: Path, action_id: str) -> int:
    """Returns how many were cancelled by then."""
    connection = apsw.Connection(str(database))
    connection.set_busy_timeout(5_000)
    deadline = time.monotonic() + TIMEOUT
    with closing(connection):
        while time.monotonic() < deadline:
            connection.execute("BEGIN IMMEDIATE")  # from here on the server's next write waits
            ((progress, done),) = connection.execute(
                "SELECT CAST(progress AS TEXT), (SELECT n FROM counters WHERE name = 'CANCELLED') "
                "FROM tasks WHERE id = ?",
                (action_id,),
            ).fetchall()
            if progress is not None and msgspec.json.decode(progress)["done"] > 0:
                server.signal(signal.SIGKILL)
                server.wait()
                return int(done)
            connection.execute("ROLLBACK")
            time.sleep(0.002)
    raise AssertionError("the action does not begin")


async def go_on(shop: Shop, action_id: str) -> tuple[ActionProgress, Counts]:
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(of(shop, workers=True).run)
        result = await engine.result(action_id, timeout=TIMEOUT)
        history = await engine.history(action_id)
        assert "crashed" in [each.outcome.value for each in history.attempts]
        counts = (await engine.metrics()).counts
        await engine.stop()
    return msgspec.convert(result, ActionProgress), counts


def test_kill_in_the_middle_of_an_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    action_id = trio.run(begin, shop)
    with shop.serve(TQE_VISIBILITY_TIMEOUT="3", TQE_DATABASE="tasks.db") as server:
        done = kill_in_its_middle(server, tmp_path / "tasks.db", action_id)
        assert 0 < done < NUMBER, "this is to be a kill in the middle"
    said, counts = trio.run(go_on, shop, action_id)
    assert (said.done, said.failed, said.skipped, said.of) == (NUMBER, 0, 0, NUMBER)
    assert counts is not None
    assert (counts.cancelled, counts.pending) == (NUMBER, 0)
