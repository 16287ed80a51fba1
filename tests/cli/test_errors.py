"""What goes wrong before anything happens: one line on stderr, and an exit code that says which."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from task_queue_engine._version import __version__
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.cli import main
from tests.cli.runner import APP, TIMEOUT, Shop, tqe

NO_TASK = "00000000-0000-7000-8000-000000000000"


# --- usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "--colour"), "No such option"),
        (("dance",), "No such command 'dance'"),
        (("status",), "Missing argument 'ID'"),
        (("list", "--limit", "0"), "Invalid value for '--limit'"),
        (("list", "--status", "DONE"), "Invalid value for '--status'"),
        (("submit", "--wait", "5"), "Missing argument 'TYPE'"),
        (("submit", "x", "1", "--wait=-1"), "Invalid value for '--wait'"),
        (("submit", "x", "1", "--run-at", "noon"), "Invalid value for '--run-at'"),
        (("serve", "--port", "70000"), "Invalid value for '--port'"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    ran = tqe(*arguments)
    assert ran.code == 2
    assert said in ran.error
    assert "--help" in ran.error


def test_version_and_help() -> None:
    assert tqe("--version").out == f"tqe {__version__}\n"
    text = tqe("--help").out
    commands = ["serve", "api", "worker", "submit", "status", "list", "cancel", "retry", "dlq"]
    positions = [text.index(f"\n  {command} ") for command in commands]
    assert positions == sorted(positions)
    assert "Exit codes:" in text
    for command in commands:
        assert tqe(command, "--help").code == 0


def test_without_a_command_it_shows_the_help() -> None:
    ran = tqe()
    assert "Commands:" in ran.out + ran.err
    assert ran.code == 2


def test_completion_comes_with_click() -> None:
    ran = tqe(_TQE_COMPLETE="bash_source")
    assert ran.code == 0
    assert "complete" in ran.out


# --- configuration --------------------------------------------------------------------------


def test_a_wrong_variable_is_named() -> None:
    ran = tqe("list", TQE_POLL_WAIT="soon")
    assert ran.code == 2
    assert ran.error.startswith("TQE_POLL_WAIT: ")


def test_a_file_of_settings_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PORT=\xff")
    ran = tqe("list")
    assert ran.code == 2
    assert ran.error.startswith(".env: is not UTF-8")


def test_settings_of_the_command_line_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TQE_URL=ftp://localhost\n")
    assert tqe("list").error.startswith("url: ")


def test_no_database_here(tmp_path: Path) -> None:
    ran = tqe("list")
    assert ran.code == 2
    assert str(tmp_path / "tasks.db") in ran.error
    assert not (tmp_path / "tasks.db").exists(), "looking made none"


def test_submit_may_be_the_first_to_use_a_database(shop: Shop) -> None:
    ran = tqe("submit", "--app", APP, "echo", "1")
    assert ran.code == 0
    assert "is new" in ran.error
    assert [task["status"] for task in shop.tasks()] == ["PENDING"]


def test_a_type_that_only_ones_own_app_has(shop: Shop) -> None:
    """Which was given to `serve`, and forgotten here."""
    ran = tqe("submit", "echo", "1")
    assert ran.code == 2
    assert "unknown task type 'echo'; registered: data-export, email, image-resize" in ran.error
    for way in ("--app", "TQE_APP", "--url", "TQE_URL"):
        assert way in ran.error
    assert not (shop.path / "tasks.db").exists(), "a slip made no database"


def test_a_type_that_the_app_does_not_have(shop: Shop) -> None:
    ran = tqe("submit", "email", "1", TQE_APP=APP)
    assert ran.code == 2
    assert "unknown task type 'email'; registered: block, echo" in ran.error
    assert "--app" not in ran.error


@pytest.mark.parametrize(
    "command", [("list",), ("submit", "echo", "1", "--app", APP), ("metrics",), ("serve",)]
)
def test_variables_that_are_no_settings_are_named(shop: Shop, command: tuple[str, ...]) -> None:
    """Misspelt, they would be ignored without a word."""
    shop.submit("echo", "1")
    (shop.path / ".env").write_text("export TQE_WORKER_COUNT=3\nTQE_IMAGE_ROOT=.\nOTHER=1\n")
    # `make test-long` sets the last one.
    variables = {"TQE_DATABSE": "x", "tqe_queue": "q", "TQE_TEST_LONG": "1"}
    if command == ("serve",):
        # A public address without keys, which is refused: else it would run on. In a process of its
        # own: that of a service ends with it.
        ran = shop.run(*command, TQE_HOST="0.0.0.0", **variables)
        assert ran.code == 2
        assert "TQE_API_KEYS" in ran.err.splitlines()[-1]
    else:
        ran = tqe(*command, **variables)
        assert ran.code == 0
    lines = [line for line in ran.err.splitlines() if "is not a setting" in line]
    assert len(lines) == 3
    text = "\n".join(lines)
    assert "TQE_DATABSE is not a setting and has no effect; did you mean TQE_DATABASE?" in text
    assert "tqe_queue is not a setting and has no effect; did you mean TQE_QUEUE?" in text
    assert "TQE_WORKER_COUNT in .env is not a setting" in text
    assert "did you mean WORKER_COUNT?" in text


def test_settings_of_an_app_are_known(shop: Shop) -> None:
    (shop.path / "own.py").write_text(
        "from task_queue_engine.config import EnvironmentSettings\nfrom pydantic import Field\n"
        "from shop import tasks\n"
        "class Own(EnvironmentSettings):\n"
        "    colour: str = Field('red', validation_alias='TQE_COLOUR')\n"
    )
    ran = tqe("submit", "echo", "1", "--app", "own:tasks", TQE_COLOUR="blue")
    assert (ran.code, ran.err.count("\n")) == (0, 1), "only that the database is new"


# --- where the database is ------------------------------------------------------------------


@pytest.mark.parametrize("command", [("list",), ("submit", "--app", APP, "echo", "1")])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        (os.fsdecode(b"\xff.db"), "is not UTF-8"),
        (".", "is a folder"),
        ("pipe", "is not a file"),
        ("x" * 300, "xxx"),
        ("circle", "circle"),
        ("nowhere/tasks.db", "nowhere"),
        (":memory:", "is not the path of a file"),
    ],
)
def test_a_database_that_cannot_be_is_no_defect(
    shop: Shop, command: tuple[str, ...], path: str, said: str
) -> None:
    os.mkfifo(shop.path / "pipe")
    (shop.path / "circle").symlink_to("circle")
    ran = tqe(*command, TQE_DATABASE=path)
    assert ran.code == 2
    last = ran.err.splitlines()[-1]
    assert said in last
    assert "TQE_DATABASE" in last or "cannot be" in last
    assert "defect" not in ran.err


def test_a_nul_in_the_path(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"TQE_DATABASE=a\0b\n")
    ran = tqe("list")
    assert ran.code == 2
    assert "TQE_DATABASE" in ran.error


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("0001-01-01T00:00:00+01:00", "run_at: is outside the years 1 to 9999"),
        ("9999-12-31T23:59:59-01:00", "run_at: is outside the years 1 to 9999"),
        ("9999-12-31T23:59:59Z", "run_at: is more than a hundred years away"),
        ("2030-01-01T12:00", "run_at: needs a time zone"),
    ],
)
def test_a_time_at_the_end_of_the_calendar(shop: Shop, time: str, said: str) -> None:
    ran = tqe("submit", "--app", APP, "echo", "1", "--run-at", time)
    assert ran.code == 2
    assert said in ran.err.splitlines()[-1]


def test_a_corrupt_database(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").write_bytes(b"not a database, but long enough to look at" * 100)
    ran = tqe("list")
    assert ran.code == 2
    assert "tasks.db" in ran.error


def test_a_locked_database(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = partial(SqliteBackend, busy_timeout=0.05)
    monkeypatch.setattr("task_queue_engine.backends.sqlite.SqliteBackend", impatient)
    shop.submit("echo", "1")
    with closing(apsw.Connection("tasks.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        ran = tqe("submit", "--app", APP, "echo", "1")
    assert ran.code == 5
    assert "locked" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


# --- --app ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("shop", "must be MODULE:REGISTRY"),
        ("shop:", "must be MODULE:REGISTRY"),
        (":tasks", "must be MODULE:REGISTRY"),
        ("no_such_shop:tasks", "there is no module 'no_such_shop'"),
        ("shop.cellar:tasks", "there is no module 'shop.cellar'"),
        ("shop:stock", "shop has no attribute 'stock' ("),
        ("shop:tasks.stock", "shop.tasks has no attribute 'stock' ("),
        ("shop:price", "shop:price is not a TaskRegistry but an int ("),
        ("shop:nothing", "shop:nothing has no tasks registered ("),
        ("shop:nothing", "shop.py)"),
        (
            "needs:tasks",
            "importing needs raised ModuleNotFoundError: No module named 'pie' (needs.py, line 1)",
        ),
        (
            "raises:tasks",
            "importing raises raised ZeroDivisionError: division by zero (raises.py, ",
        ),
        ("outer:tasks", "importing outer raised ZeroDivisionError: division by zero (raises.py, "),
        ("outer:tasks", "(raises.py, line 1)"),
        ("ends:tasks", "importing ends raised SystemExit: 5 (ends.py, line 1)"),
        ("wrong:tasks", "importing wrong raised RegistryError: task type 'a b'"),
        ("wrong:tasks", "(wrong.py, line 2)"),
        ("library:tasks", "(library.py, line 2)"),
        ("open:tasks", "importing open raised SyntaxError: '(' was never closed (open.py, line 1)"),
    ],
)
def test_a_wrong_app_is_one_clear_line(shop: Shop, app: str, said: str) -> None:
    (shop.path / "needs.py").write_text("import pie")
    (shop.path / "raises.py").write_text("1 / 0")
    (shop.path / "outer.py").write_text("import raises")
    (shop.path / "library.py").write_text("import json\njson.loads('no JSON')")
    (shop.path / "open.py").write_text("x = (")
    (shop.path / "ends.py").write_text("raise SystemExit(5)")
    (shop.path / "wrong.py").write_text(
        "from task_queue_engine import TaskRegistry\n@TaskRegistry().task('a b')\ndef f(x): ..."
    )
    for command in (("submit", "echo", "1"), ("serve",)):
        ran = tqe(*command, "--app", app)
        assert ran.code == 2
        assert ran.error.startswith("--app: ")
        assert said in ran.error


def test_debug_shows_where_an_app_is_wrong(shop: Shop) -> None:
    (shop.path / "divides.py").write_text("def f():\n    1 / 0\nf()\n")
    ran = tqe("submit", "echo", "1", "--app", "divides:tasks", "--debug")
    assert ran.code == 2
    assert "divides.py" in ran.err
    assert ran.err.splitlines()[-1].startswith("tqe: --app: importing divides raised")


# --- servers --------------------------------------------------------------------------------


@contextmanager
def other_server(status: int, body: str, **headers: str) -> Iterator[str]:
    """An HTTP server of another program."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ran = tqe("list", "--url", url)
    assert ran.code == 5
    assert f"{url} cannot be reached" in ran.error


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://[::1"])
def test_a_url_that_is_none(url: str) -> None:
    ran = tqe("list", "--url", url)
    assert ran.code == 2
    assert ran.error.startswith("url: ")


@pytest.mark.parametrize(
    ("status", "body", "headers", "code", "said"),
    [
        (404, "<h1>Not Found</h1>", {}, 2, "404 Not Found: is a Task Queue Engine server there?"),
        (200, "<h1>Welcome</h1>", {}, 2, "did not answer as a Task Queue Engine server does"),
        (302, "", {"Location": "https://example.com/"}, 2, "redirects are not followed"),
        (502, "<h1>Bad Gateway</h1>", {}, 5, "502 Bad Gateway"),
        (500, "oops", {}, 5, "500 Internal Server Error"),
        (503, "{}", {"Content_Type": "application/problem+json"}, 5, "503 Service Unavailable"),
    ],
)
def test_another_kind_of_server(
    status: int, body: str, headers: dict[str, str], code: int, said: str
) -> None:
    with other_server(status, body, **headers) as url:
        ran = tqe("status", NO_TASK, "--url", url)
    assert ran.code == code
    assert said in ran.error


@pytest.mark.parametrize(
    ("url", "variable", "value"),
    [
        ("http://tasks.example", "ALL_PROXY", "socks4://proxy:1080"),
        ("http://tasks.example", "HTTP_PROXY", "http://[::1"),
        ("https://tasks.example", "SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("https://tasks.example", "SSL_CERT_DIR", "/nowhere"),
    ],
)
def test_an_environment_that_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str, value: str
) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)
    ran = tqe("list", "--url", url, **{variable: value})
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert variable in line


# --- ends from outside ----------------------------------------------------------------------


def test_ctrl_c_while_waiting(shop: Shop) -> None:
    with shop.command("submit", "--app", APP, "--wait", "--", "echo", "1") as process:
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        assert "waiting" in lines[-1]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, err
    assert (out, err.strip()) == ("", "tqe: interrupted")
    assert [task["status"] for task in shop.tasks()] == ["PENDING"]


def test_a_reader_that_stops_reading_is_no_error(shop: Shop) -> None:
    tqe("submit", "--app", APP, "echo", json.dumps("x" * 200_000))
    tqe_list = f"{sys.executable} -m task_queue_engine list --json"
    script = f"{tqe_list} | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert done.stdout == '{"tasks":[141\n'
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("--help",)])
def test_no_room_for_the_output(shop: Shop, arguments: tuple[str, ...]) -> None:
    shop.submit("echo", "1")
    with Path("/dev/full").open("w") as full:
        ran = shop.run(*arguments, stdout=full)
    assert ran.code == 1
    assert ran.err == "tqe: [Errno 28] No space left on device\n"


def test_output_that_was_closed_beforehand(shop: Shop) -> None:
    script = f"{sys.executable} -m task_queue_engine submit --app {APP} echo 1 >&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (0, "")
    assert [task["status"] for task in shop.tasks()] == ["PENDING"]


def test_a_terminal_that_cannot_show_every_character(shop: Shop) -> None:
    task_id = shop.submit("echo", '"Grüße"')
    for arguments in (("list", "--json"), ("status", task_id)):
        ran = CliRunner(charset="ascii").invoke(main, arguments)
        assert (ran.exit_code, ran.stderr) == (0, "")
        assert task_id in ran.stdout
    assert "Gr\\xfc\\xdfe" in ran.stdout


def test_a_defect_is_one_line_too(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.submit("echo", "1")

    async def broken(*_: object) -> None:
        raise RuntimeError("a screw\nis loose")

    monkeypatch.setattr("task_queue_engine.engine.engine.Engine.get", broken)
    ran = tqe("status", NO_TASK)
    assert ran.code == 1
    assert ran.error == "a defect: RuntimeError: a screw is loose (--debug shows where)"
    assert "Traceback" in tqe("status", NO_TASK, "--debug").err
    assert "Traceback" in tqe("status", NO_TASK, TQE_LOG_LEVEL="DEBUG").err
