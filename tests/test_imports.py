"""What is imported, by whom: time at the start that needs no clock to be seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

import pytest

import task_queue_engine

# Each takes 30 ms or more, or brings what does.
FRAMEWORK = ("quart", "quart_trio", "quart_schema", "hypercorn", "werkzeug", "flask", "jinja2")
FRAMEWORK += ("opentelemetry",)  # which no part imports on its own account either
CLIENTS = ("httpx", "boto3", "botocore", "rich", "prometheus_client", "curses")
HANDLERS = ("PIL", "cryptography", "email_validator", "httpcore", "smtplib", "apsw.ext")
ENGINE = ("trio", "pydantic", "pydantic_settings", "apsw", "msgspec", "asyncio")
# What `import httpx` loads by itself: before 0.28 its transport, with trio where that is there.
BY_HTTPX = {"httpcore", "trio"} if version("httpx") < "0.28" else set[str]()

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
SUPERVISOR = """
import task_queue_engine.cli.commands.services
import task_queue_engine.cli.process_group
"""
COMING_WITH_IT = """
from task_queue_engine.handlers import check_settings, registry
check_settings()
"""
OPERATING = """
import task_queue_engine.cli.commands.tasks
import task_queue_engine.cli.commands.metrics
import task_queue_engine.cli.commands.workers
import task_queue_engine.cli.session
"""


def loaded_by(*programs: str) -> list[set[str]]:
    """Names of all modules in a process that runs these one after the other, after each."""
    # Without looks for garbage: they take as long as some of the imports.
    steps = ["import gc, sys; gc.disable()"]
    for program in programs:
        steps += [program, "print(*sys.modules, file=sys.stderr)"]
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([*steps, "gc.freeze()"])],
        capture_output=True,
        text=True,
        check=True,
    )
    return [set(names.split()) for names in ended.stderr.splitlines()]


@dataclass(frozen=True)
class Program:
    text: str
    unwanted: Iterable[str]
    most: int | None = None
    """As counted on Python 3.11, and a tenth more for other versions of Python and libraries."""


@pytest.mark.parametrize(
    "programs",
    [
        # Each does what the one before it does, and more: one process shows it of all.
        pytest.param(
            [
                Program(
                    "import task_queue_engine",
                    (*FRAMEWORK, *CLIENTS, *HANDLERS, *ENGINE, "click"),
                    most=70,
                ),
                Program(
                    "task_queue_engine.TaskRegistry",
                    (*FRAMEWORK, *CLIENTS, *HANDLERS, "apsw", "pydantic_settings", "click"),
                ),
                Program("task_queue_engine.Engine", (*FRAMEWORK, *CLIENTS, *HANDLERS, "click")),
                Program(
                    "import task_queue_engine.backends.aws.backend",
                    (*FRAMEWORK, *HANDLERS, "boto3", "httpx", "apsw"),
                    most=810,
                ),
            ],
            id="the package, a registry, an engine, an engine on AWS",
        ),
        pytest.param(
            [
                Program(
                    # Not rich and click: httpx has them where they are.
                    "import task_queue_engine.client; task_queue_engine.TaskRegistry",
                    {*FRAMEWORK, *HANDLERS, *ENGINE, "boto3"} - {"msgspec", *BY_HTTPX},
                )
            ],
            id="a client",
        ),
        pytest.param(
            [
                Program(
                    HELP,
                    (*FRAMEWORK, *CLIENTS, *HANDLERS, *(set(ENGINE) - {"msgspec"})),
                    most=155,
                ),
                Program(
                    SUPERVISOR,
                    (
                        *FRAMEWORK,
                        *CLIENTS,
                        *HANDLERS,
                        "apsw",
                        "task_queue_engine.registry",
                        "task_queue_engine.backends.base",
                    ),
                    most=500,
                ),
                Program(SERVICE, (*FRAMEWORK, *CLIENTS, *HANDLERS), most=600),
            ],
            id="tqe --help, the supervisor of --processes, tqe worker",
        ),
        pytest.param(
            [
                Program(
                    OPERATING,
                    (
                        *FRAMEWORK,
                        *CLIENTS,
                        *HANDLERS,
                        "task_queue_engine.cli.top",
                        "task_queue_engine.engine.engine",
                    ),
                    most=545,
                ),
                Program(
                    "import task_queue_engine.cli.commands.top", (*FRAMEWORK, *CLIENTS, *HANDLERS)
                ),
            ],
            id="tqe status, tqe top",
        ),
        pytest.param(
            [
                Program(
                    "import task_queue_engine.execution.child",
                    (
                        *FRAMEWORK,
                        *CLIENTS,
                        *HANDLERS,
                        "trio",
                        "apsw",
                        "asyncio",
                        "pydantic_settings",
                    ),
                    most=205,
                ),
                Program(
                    "import task_queue_engine.handlers.export.write_query",
                    (*FRAMEWORK, *CLIENTS, *HANDLERS, "trio", "apsw"),
                    most=400,
                ),
            ],
            id="a worker process, a data export's own process",
        ),
        pytest.param(
            [Program("import task_queue_engine.http.server", (), most=890)], id="the HTTP server"
        ),
    ],
)
def test_what_is_not_needed_is_not_imported(programs: list[Program]) -> None:
    all_loaded = loaded_by(*(program.text for program in programs))
    for program, loaded in zip(programs, all_loaded, strict=True):
        assert loaded & set(program.unwanted) == set(), program.text
        most = program.most
        assert most is None or len(loaded) <= most, f"no more is imported than was: {program.text}"


def test_what_checks_a_payload_is_there_before() -> None:
    """It is checked on an event loop, which an import would hold for a tenth of a second."""
    payloads: list[tuple[str, object]] = [
        ("image-resize", {"source": {"url": "http://example.com/a.png"}, "width": 1}),
        ("image-resize", {"source": "a.png", "width": 1, "format": "webp"}),
        ("data-export", {"query": "SELECT 1"}),
    ]
    checks = [f"registry.get({name!r}).convert_payload({payload!r})" for name, payload in payloads]
    before, *after = loaded_by(COMING_WITH_IT, *checks)
    # Not httpx and Pillow: the checks need them.
    unwanted = {*FRAMEWORK, "boto3", "botocore", "email_validator", "smtplib", "apsw.ext"}
    assert before & unwanted == set()
    assert len(before) <= 785, "no more is imported than was"
    assert dict(zip(checks, after, strict=True)) == dict.fromkeys(checks, before)


def test_no_garbage_is_looked_for_in_what_is_imported() -> None:
    program = f"""{HELP}
import gc
before = sum(each["collections"] for each in gc.get_stats())
{SERVICE}
print(sum(each["collections"] for each in gc.get_stats()) - before)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(ended.stdout.split()[-1]) <= 1


def test_the_package_tells_all_its_names() -> None:
    assert set(dir(task_queue_engine)) == set(task_queue_engine.__all__)
    for name in task_queue_engine.__all__:
        assert getattr(task_queue_engine, name) is not None
