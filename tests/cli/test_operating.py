"""submit, status, list, cancel, retry, dlq, metrics: straight to the backend and over HTTP.

One server for the module, with a database that the direct commands open beside it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.cli.commands.tasks import _history
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import ApiError
from task_queue_engine.task import is_task_id
from tests.cli.runner import APP, TIMEOUT, Ran, Server, Shop, eventually, request, tqe

Tqe = Callable[..., Ran]


@pytest.fixture(scope="module")
def busy_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def running(busy_shop: Shop) -> Iterator[Server]:
    with busy_shop.serve() as server:
        yield server


@pytest.fixture(params=["direct", "http"])
def run(
    request: pytest.FixtureRequest,
    busy_shop: Shop,
    running: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Tqe:
    """Runs a command against the server's queue, one way or the other."""
    if request.param == "http":
        monkeypatch.setenv("TQE_URL", running.url)
    else:
        monkeypatch.chdir(busy_shop.path)
        monkeypatch.setenv("TQE_APP", APP)
    return tqe


def submit(run: Tqe, *arguments: str) -> str:
    ran = run("submit", *arguments)
    assert ran.code == 0, ran.err
    return ran.out.strip()


def ended(run: Tqe, *arguments: str) -> str:
    """The id of a task that was submitted and has ended."""
    ran = run("submit", *arguments, "--wait", f"{TIMEOUT:g}", "--json")
    task_id: str = ran.json["id"]
    return task_id


def api(server: Server, path: str) -> bytes:
    answer = request("GET", server.url + path)
    assert answer.status_code == 200
    return answer.content


# --- submit ---------------------------------------------------------------------------------


def test_submit_prints_the_id_and_nothing_else(run: Tqe) -> None:
    ran = run("submit", "echo", "hello")
    assert ran.code == 0
    assert is_task_id(ran.out.removesuffix("\n"))
    assert ran.err == ""


def test_submit_with_json_prints_the_task(run: Tqe) -> None:
    ran = run("submit", "echo", '{"a": [1, null]}', "--json", "--max-attempts", "2")
    assert ran.json["payload"] == {"a": [1, None]}
    assert ran.json["max_attempts"] == 2


def test_submit_wait_shows_the_result(run: Tqe) -> None:
    ran = run("submit", "ship", '{"number": 7}', "--wait", f"{TIMEOUT:g}")
    assert ran.code == 0
    assert re.search(r'^result +"PKG-7"$', ran.out, re.M)
    as_json = run("submit", "ship", '{"number": 8}', "--wait", "--json")
    assert (as_json.code, as_json.json["result"], as_json.err) == (0, "PKG-8", "")


@pytest.mark.parametrize("spelled", [("--wait", "echo", "5"), ("--wait=20", "echo", "5")])
def test_wait_may_stand_before_the_arguments(run: Tqe, spelled: tuple[str, ...]) -> None:
    ran = run("submit", *spelled, "--json")
    assert (ran.json["result"], ran.json["status"]) == (5, "COMPLETED")


def test_submit_wait_ends_with_1_where_the_task_fails(run: Tqe) -> None:
    ran = run("submit", "--wait", "fail", "out of stock")
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "out of stock" in ran.err.splitlines()[-1]
    as_json = run("submit", "--wait", "fail", "out of stock", "--json")
    assert (as_json.code, as_json.json["status"]) == (1, "FAILED")


def test_submit_wait_ends_with_4_when_the_time_is_over(run: Tqe) -> None:
    ran = run("submit", "echo", "1", "--delay", "3600", "--wait", "0.1", "--json")
    assert ran.code == 4
    assert ran.json["status"] == "PENDING"
    assert "has not ended within 0.1 s" in ran.error
    assert run("cancel", ran.json["id"]).code == 0


def test_failed_attempts_are_counted_as_attempts(run: Tqe) -> None:
    """And not as retries, of which there is one less."""
    ran = run("submit", "fail", "no", "--wait", "20", "--max-attempts", "1")
    assert "attempts   1 failed of at most 1" in ran.out
    listed = run("list", "--id", ran.out.split()[1]).out.splitlines()
    assert "FAILED ATTEMPTS" in listed[0]
    assert listed[0].endswith("ERROR")
    assert listed[1].endswith(": no"), "a list of failures says why"


def test_a_task_that_needs_no_payload(run: Tqe) -> None:
    task = run("submit", "echo", "--wait", "20", "--json").json
    assert (task["payload"], task["result"]) == ({}, {})
    assert "payload: object missing required field `number`" in run("submit", "ship").err


def test_a_payload_that_is_no_json_by_mistake(run: Tqe) -> None:
    said = "payload: expected `object`, got `str`"
    assert run("submit", "ship", "number:7").error == (
        f"{said}; 'number:7' is not JSON, and was taken as a string"
    )
    assert run("submit", "ship", '"seven"').error == said


def test_a_delayed_task(run: Tqe) -> None:
    later = run("submit", "echo", "1", "--run-at", "2040-01-01T12:00:00+01:00", "--json").json
    assert later["run_at"] == "2040-01-01T11:00:00Z"
    assert "due       2040-01-01T11:00:00Z" in run("status", later["id"]).out
    (row,) = [line for line in run("list").out.splitlines() if line.startswith(later["id"])]
    assert re.search(r" in \d+ d$", row)
    without_zone = run("submit", "echo", "1", "--run-at", "2040-01-01T12:00:00")
    assert without_zone.code == 2
    assert without_zone.error.startswith("run_at: ")
    assert run("cancel", later["id"]).code == 0


def test_an_idempotency_key(run: Tqe) -> None:
    key = f'"{os.urandom(8).hex()}" \\ '
    first = run("submit", "echo", "1", "--idempotency-key", key)
    again = run("submit", "echo", "1", "--idempotency-key", key)
    assert first.out == again.out
    assert "before" in again.error
    reused = run("submit", "echo", "2", "--idempotency-key", key)
    assert reused.code == 2
    assert first.out.strip() in reused.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", "1"), "type: unknown task type 'nothing'"),
        (("ship", '{"number": "seven"}'), "payload.number: "),
        (("echo", "null"), "payload: "),
        (("echo", ""), "payload: "),
        (("echo", "1", "--delay", "-1"), "delay_seconds: "),
        (("echo", "1", "--delay", "nan"), "delay_seconds: "),
        (("echo", "1", "--max-attempts", "0"), "max_attempts: "),
        (("echo", "1", "--timeout", "0"), "timeout_seconds: "),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    run: Tqe, arguments: tuple[str, ...], said: str
) -> None:
    ran = run("submit", *arguments)
    assert ran.code == 2
    assert ran.error.startswith(said)
    assert ran.out == ""


# --- status and list ------------------------------------------------------------------------


def test_status_as_json_is_what_the_api_says(run: Tqe, running: Server) -> None:
    task_id = ended(run, "echo", '{"one": 1.0, "ü": "\\u0007"}')
    ran = run("status", task_id, "--json")
    task = api(running, f"/tasks/{task_id}").removesuffix(b"}")
    attempts = api(running, f"/tasks/{task_id}/attempts")
    parts = json.loads(attempts)
    assert ran.out.encode().startswith(task + b',"attempts":')
    assert ran.json == json.loads(task + b"}") | {
        "attempts": parts["attempts"],
        "attempts_omitted": parts["omitted"],
    }


def test_the_attempts_of_a_task_and_what_its_handler_logged(run: Tqe) -> None:
    task_id = ended(run, "says", '"one\\ntwo \\u001b[2J"')
    ran = run("status", task_id)
    header, first, second = ran.out.splitlines()[-3:]
    assert header.split() == [
        "ATTEMPT",
        "OUTCOME",
        "STARTED",
        "TOOK",
        "WORKER",
        "VERSION",
        "LOGGED",
        "ERROR",
    ]
    assert first.split()[:2] == ["1", "retried"]
    assert first.endswith("1 line  ValueError: one two \\x1b[2J")
    assert second.split()[:2] == ["2", "succeeded"]

    logs = run("logs", task_id)
    assert logs.code == 0
    assert [line.partition(" ")[2] for line in logs.out.splitlines()] == [
        "1 INFO    shop: one",
        " two \\x1b[2J",
        "2 INFO    shop: one",
        " two \\x1b[2J",
    ]
    assert run("logs", task_id, "--attempt", "2").out.splitlines() == logs.out.splitlines()[2:]
    (line,) = run("logs", task_id, "--attempt", "1", "--json").json
    assert line == {
        "time": line["time"],
        "level": "INFO",
        "logger": "shop",
        "message": "one\ntwo \x1b[2J",
        "attempt": 1,
    }


def test_a_task_whose_handler_logged_nothing(run: Tqe) -> None:
    ran = run("logs", ended(run, "echo", "1"))
    said = (
        "no log lines are kept: its handler has logged none, or its attempt runs "
        "(tqe tail follows it)"
    )
    assert (ran.code, ran.out, ran.error) == (0, "", said)


async def test_a_server_that_knows_of_no_attempts_yet() -> None:
    class Older:
        async def history(self, task_id: str) -> AttemptHistory:
            # What a client makes of it where nothing is at that path: tests/client.
            raise ApiError("not found", status=404)

    assert await _history(cast("TaskApi", Older()), "7") == AttemptHistory(attempts=())


def test_status_waits_like_submit(run: Tqe) -> None:
    task_id = submit(run, "fail", "no")
    assert run("status", task_id, "--wait").code == 1
    assert run("status", task_id).code == 0, "looking is no failure"


def test_what_tasks_carry_cannot_steer_the_terminal(run: Tqe) -> None:
    ran = run("submit", "--wait", "fail", '"\\u001b[2Jboo\\u009b2J"')
    assert "boo" in ran.out
    assert not {"\x1b", "\x9b"} & set(ran.out + ran.err)


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "retry"])
@pytest.mark.parametrize("task_id", ["00000000-0000-7000-8000-000000000000", "../metrics", "ü"])
def test_an_unknown_id(run: Tqe, command: str, task_id: str) -> None:
    ran = run(command, task_id)
    assert ran.code == 3
    assert task_id in ran.error


def test_an_id_in_capitals_is_the_same_id(run: Tqe) -> None:
    task_id = submit(run, "echo", "1")
    assert run("status", task_id.upper(), "--json").json["id"] == task_id


def test_list_filters_and_pages(run: Tqe, running: Server) -> None:
    ids = [ended(run, "fail", f"no-{number}") for number in range(3)][::-1]
    first = run("list", "--type", "fail", "--status", "failed", "--limit", "2", "--json")
    assert [task["id"] for task in first.json["tasks"]] == ids[:2]
    assert first.out.encode() == api(running, "/tasks?type=fail&status=FAILED&limit=2") + b"\n"
    cursor = first.json["next_cursor"]
    second = run("list", "--type", "fail", "--limit", "1", "--cursor", cursor, "--json")
    assert [task["id"] for task in second.json["tasks"]] == ids[2:]

    text = run("list", "--type", "fail", "--limit", "2")
    header, *rows = text.out.splitlines()
    assert header.split()[:3] == ["ID", "TYPE", "STATUS"]
    assert [row.split()[:3] for row in rows] == [[task_id, "fail", "FAILED"] for task_id in ids[:2]]
    assert cursor in text.error


def test_list_all_walks_every_page(run: Tqe, running: Server) -> None:
    body = {"tasks": [{"type": "echo", "payload": number} for number in range(250)]}
    request("POST", f"{running.url}/tasks/batch", json=body).raise_for_status()
    expected = {task["id"] for task in run("list", "--limit", "10000", "--json").json["tasks"]}
    assert len(expected) >= 250
    lines = run("list", "--all", "--json").out.splitlines()
    assert {json.loads(line)["id"] for line in lines} == expected
    header, *rows = run("list", "--all").out.splitlines()
    assert header.startswith("ID")
    assert {row.split()[0] for row in rows} == expected


def test_list_by_error_time_and_id(run: Tqe) -> None:
    task_id = ended(run, "fail", "a rare reason")
    for filters in (
        ("--error", "RARE reason"),
        ("--id", task_id.upper()),
        ("--id", task_id[:20], "--queue", "default", "--after", "2020-01-01T00:00Z"),
    ):
        found = [task["id"] for task in run("list", *filters, "--json").json["tasks"]]
        assert task_id in found, filters
    assert run("list", "--before", "2020-01-01T00:00Z", "--json").json["tasks"] == []
    for wrong, says in (("--after", "is not a time"), ("--id", "id: must be")):
        ran = run("list", wrong, "yesterday")
        assert ran.code == 2
        assert says in ran.error


def test_bulk(run: Tqe) -> None:
    waiting = [submit(run, "echo", f"{n}", "--delay", "3600") for n in range(3)]
    which = ("--type", "echo", "--status", "PENDING")
    assert run("bulk", "cancel", *which, "--dry-run").out == "cancel would be for 3 tasks\n"
    refused = run("bulk", "cancel", *which)
    assert refused.code == 2
    assert "--yes" in refused.error
    assert run("status", waiting[0], "--json").json["status"] == "PENDING"

    ran = run("bulk", "cancel", *which, "--yes", "--wait", "--json")
    assert ran.json["result"] | {"ids": 0} == {
        "done": 3, "failed": 0, "skipped": 0, "of": 3, "ids": 0,
    }  # fmt: skip
    assert run("status", waiting[0], "--json").json["status"] == "CANCELLED"
    for shown in (run("status", ran.json["id"]).out, run("tail", ran.json["id"]).out):
        assert "3 done, 0 failed, 0 skipped, of 3" in shown
        assert waiting[0] not in shown, "an action may have a thousand ids"
    ran = run("bulk", "cancel", *waiting, "--yes", "--wait")
    assert ran.out.splitlines()[0] == "0 done, 0 failed, 3 skipped, of 3"
    assert "it is CANCELLED already" in ran.out
    undo = run("bulk", "undo", waiting[0])
    assert (undo.code, undo.error) == (2, "undo_of: is not the id of an action's task")


def test_bulk_says_where_there_is_nothing(run: Tqe) -> None:
    ran = run("bulk", "retry", "--type", "unheard-of", "--yes")
    assert (ran.code, ran.out) == (0, "no task passes: nothing to do\n")
    assert run("bulk", "retry", "--yes").code == 2, "a filter, ids, or --all"
    assert run("bulk", "explode", "--all").code == 2


def test_delete(run: Tqe) -> None:
    task_id = submit(run, "echo", "1", "--delay", "3600")
    refused = run("delete", task_id)
    assert refused.code == 6
    assert "only what has ended can be deleted" in refused.error
    run("cancel", task_id)
    assert run("delete", task_id).out == f"{task_id} is deleted\n"
    assert run("delete", task_id).code == 3


def test_list_with_a_bad_cursor(run: Tqe) -> None:
    ran = run("list", "--cursor", "nonsense")
    assert ran.code == 2
    assert ran.error.startswith("cursor: ")


# --- cancel and retry -----------------------------------------------------------------------


def test_cancel_and_retry(run: Tqe) -> None:
    task_id = submit(run, "echo", "1", "--delay", "3600")
    assert "cancelled" in run("cancel", task_id).out
    assert run("status", task_id, "--wait").code == 1
    again = run("cancel", task_id)
    assert (again.code, "CANCELLED" in again.error) == (6, True)

    assert "PENDING" in run("retry", task_id).out
    assert run("status", task_id, "--wait", f"{TIMEOUT:g}").code == 0
    completed = run("retry", task_id)
    assert completed.code == 6
    assert "only FAILED and CANCELLED tasks can be retried" in completed.error


def test_cancel_of_a_running_task(run: Tqe, busy_shop: Shop) -> None:
    name = os.urandom(4).hex()
    task_id = submit(run, "gate", f'"{name}"')
    eventually(Path(busy_shop.path, f"{name}.running").exists)
    assert run("cancel", task_id, "--json").json["cancel_requested"] is True
    assert run("status", task_id, "--wait", f"{TIMEOUT:g}", "--json").json["status"] == "CANCELLED"


# --- dead letters ---------------------------------------------------------------------------


def dead_letter_of(run: Tqe, task_id: str) -> str | None:
    found = [
        dead_letter["id"]
        for dead_letter in run("dlq", "list", "--limit", "500", "--json").json["dead_letters"]
        if dead_letter["task_id"] == task_id
    ]
    return found[0] if found else None


def test_dead_letters_are_listed_and_redriven(run: Tqe, running: Server) -> None:
    task_id = ended(run, "fail", "broken")
    eventually(lambda: dead_letter_of(run, task_id) is not None)
    dead_letter = dead_letter_of(run, task_id)
    assert dead_letter is not None
    assert re.search(r"discarded .*: broken$", run("dlq", "list").out, re.M)
    listed = run("dlq", "list", "--limit", "1", "--json").out.encode()
    assert listed == api(running, "/dead-letters?limit=1") + b"\n"

    redriven = run("dlq", "redrive", dead_letter, dead_letter, "--json").json
    assert (redriven["redriven"], redriven["skipped"], redriven["remaining"]) == (1, 0, 0)
    assert run("status", task_id, "--wait").code == 1, "it failed once more"

    unknown = run("dlq", "redrive", dead_letter)
    assert unknown.code == 3


def test_redrive_wants_to_know_which(run: Tqe) -> None:
    assert run("dlq", "redrive").code == 2
    assert run("dlq", "redrive", "--all", "some-id").code == 2


def test_redrive_all_and_purge(run: Tqe) -> None:
    task_id = ended(run, "fail", "broken")
    eventually(lambda: dead_letter_of(run, task_id) is not None)
    assert run("dlq", "redrive", "--all", "--json").json["redriven"] >= 1
    assert run("status", task_id, "--wait").code == 1
    eventually(lambda: dead_letter_of(run, task_id) is not None)

    unasked = run("dlq", "purge")
    assert unasked.code == 2
    assert "--yes" in unasked.error
    assert dead_letter_of(run, task_id) is not None
    assert run("dlq", "purge", "--yes", "--json").json["purged"] >= 1
    assert dead_letter_of(run, task_id) is None
    assert run("status", task_id).code == 0, "the task stays"


# --- metrics --------------------------------------------------------------------------------


def test_metrics(run: Tqe, running: Server) -> None:
    ended(run, "echo", "1")
    view = run("metrics", "--json").json
    of_server = json.loads(api(running, "/metrics"))
    assert view.keys() == of_server.keys()
    assert view["total_tasks"] == of_server["total_tasks"] >= 1
    text = run("metrics").out
    assert re.search(rf"^tasks +{view['total_tasks']} \(of all queues\)$", text, re.M)
    waiting = re.search(r"^  waiting +(\d+) \(due now\)$", text, re.M)
    assert waiting is not None
    assert bool(re.search(r"^  oldest +due for \d+ s$", text, re.M)) is (int(waiting[1]) > 0)
    assert view["waiting"] + view["delayed"] == view["queue_depth"]


def test_a_server_s_metrics_tell_of_its_workers(running: Server) -> None:
    ran = tqe("metrics", "--url", running.url)
    assert re.search(r"^workers +5 \(\d busy\), of the process that answered$", ran.out, re.M)
    assert re.search(r"^tasks submitted +\d+$", ran.out, re.M)
