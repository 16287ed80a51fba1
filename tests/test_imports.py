"""What is imported, by whom: time at the start that needs no clock to be seen."""

from __future__ import annotations

import subprocess
import sys
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
from task_queue_engine.handlers import check_settings
check_settings()
"""
AWS = """
import task_queue_engine.engine.engine
import task_queue_engine.backends.aws.backend
"""
OPERATING = """
import task_queue_engine.cli.commands.tasks
import task_queue_engine.cli.commands.metrics
import task_queue_engine.cli.commands.workers
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
    ("program", "unwanted", "most"),
    [
        # The most as counted on Python 3.11, and a tenth more for other versions of Python and
        # libraries.
        pytest.param(
            "import task_queue_engine",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, *ENGINE, "click"),
            70,
            id="the package",
        ),
        pytest.param(
            "import task_queue_engine; task_queue_engine.TaskRegistry",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, "apsw", "pydantic_settings", "click"),
            None,
            id="a registry",
        ),
        pytest.param(
            "import task_queue_engine; task_queue_engine.Engine",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, "click"),
            None,
            id="an engine",
        ),
        pytest.param(
            # Not rich and click: httpx has them where they are.
            "import task_queue_engine.client; task_queue_engine.TaskRegistry",
            tuple({*FRAMEWORK, *HANDLERS, *ENGINE, "boto3"} - {"msgspec", *BY_HTTPX}),
            None,
            id="a client",
        ),
        pytest.param(
            HELP,
            (*FRAMEWORK, *CLIENTS, *HANDLERS, *(set(ENGINE) - {"msgspec"})),
            155,
            id="tqe --help",
        ),
        pytest.param(SERVICE, (*FRAMEWORK, *CLIENTS, *HANDLERS), 600, id="tqe worker"),
        pytest.param(
            OPERATING,
            (*FRAMEWORK, *CLIENTS, *HANDLERS, "task_queue_engine.cli.top"),
            590,
            id="tqe status",
        ),
        pytest.param(
            "import task_queue_engine.cli.commands.top",
            (*FRAMEWORK, *CLIENTS, *HANDLERS),
            None,
            id="tqe top",
        ),
        pytest.param(
            SUPERVISOR,
            (
                *FRAMEWORK,
                *CLIENTS,
                *HANDLERS,
                "apsw",
                "task_queue_engine.registry",
                "task_queue_engine.backends.base",
            ),
            500,
            id="the supervisor of --processes",
        ),
        pytest.param(
            # Not httpx and Pillow: checks of payloads need them, see below.
            COMING_WITH_IT,
            (*FRAMEWORK, "boto3", "botocore", "email_validator", "smtplib", "apsw.ext"),
            785,
            id="the task types that come with the package",
        ),
        pytest.param(
            AWS, (*FRAMEWORK, *HANDLERS, "boto3", "httpx", "apsw"), 810, id="an engine on AWS"
        ),
        pytest.param(
            "import task_queue_engine.execution.child",
            (*FRAMEWORK, *CLIENTS, *HANDLERS, "trio", "apsw", "asyncio", "pydantic_settings"),
            205,
            id="a worker process",
        ),
        pytest.param("import task_queue_engine.http.server", (), 890, id="the HTTP server"),
    ],
)
def test_what_is_not_needed_is_not_imported(
    program: str, unwanted: tuple[str, ...], most: int | None
) -> None:
    loaded = loaded_by(program)
    assert loaded & set(unwanted) == set()
    assert most is None or len(loaded) <= most, "no more is imported than was"


def test_what_checks_a_payload_is_there_before() -> None:
    """It is checked on an event loop, which an import would hold for a tenth of a second."""
    payloads: list[tuple[str, object]] = [
        ("image-resize", {"source": {"url": "http://example.com/a.png"}, "width": 1}),
        ("image-resize", {"source": "a.png", "width": 1, "format": "webp"}),
        ("data-export", {"query": "SELECT 1"}),
    ]
    program = f"""{COMING_WITH_IT}
import sys
from task_queue_engine.handlers import registry
checks = [(registry.get(task_type), payload) for task_type, payload in {payloads!r}]
for definition, payload in checks:
    before = set(sys.modules)
    definition.convert_payload(payload)
    print(payload, sorted(set(sys.modules) - before))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines() == [f"{payload} []" for _, payload in payloads]


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
