"""What is imported, by whom: time at the start that needs no clock to be seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

import task_queue_engine

# Each takes 30 ms or more, or brings what does.
FRAMEWORK = ("quart", "quart_trio", "quart_schema", "hypercorn", "werkzeug", "flask", "jinja2")
CLIENTS = ("httpx", "boto3", "botocore", "rich")
HANDLERS = ("PIL", "cryptography", "email_validator")
ENGINE = ("trio", "pydantic", "pydantic_settings", "apsw", "msgspec", "asyncio")

# As `tqe` begins, up to the point where it would run.
HELP = """
from task_queue_engine.cli import main
try:
    main(["--help"], prog_name="tqe")
except SystemExit:
    pass
"""
SERVICE = """
import task_queue_engine.cli.commands.services
import task_queue_engine.cli.service
"""
OPERATING = """
import task_queue_engine.cli.commands.tasks
import task_queue_engine.cli.session
"""


def loaded_by(program: str) -> set[str]:
    """Names of all modules in a process that has run it."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print('\\n'.join(['', '', *sys.modules]))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.rpartition("\n\n")[2].split())


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        pytest.param(
            "import task_queue_engine",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, *ENGINE, "click"),
            id="the package",
        ),
        pytest.param(
            "import task_queue_engine; task_queue_engine.TaskRegistry",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, "apsw", "pydantic_settings", "click"),
            id="a registry",
        ),
        pytest.param(
            "import task_queue_engine; task_queue_engine.Engine",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, "click"),
            id="an engine",
        ),
        pytest.param(
            HELP,
            (*FRAMEWORK, *CLIENTS, *HANDLERS, *(set(ENGINE) - {"msgspec"})),
            id="tqe --help",
        ),
        pytest.param(SERVICE, (*FRAMEWORK, *CLIENTS, *HANDLERS), id="tqe worker"),
        pytest.param(OPERATING, (*FRAMEWORK, *CLIENTS, *HANDLERS), id="tqe status"),
    ],
)
def test_what_is_not_needed_is_not_imported(program: str, unwanted: tuple[str, ...]) -> None:
    assert loaded_by(program) & set(unwanted) == set()


def test_the_package_tells_all_its_names() -> None:
    assert set(dir(task_queue_engine)) == set(task_queue_engine.__all__)
    for name in task_queue_engine.__all__:
        assert getattr(task_queue_engine, name) is not None
