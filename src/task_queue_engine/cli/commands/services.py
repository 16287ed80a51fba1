"""serve, api, worker."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import click

from task_queue_engine.backends.sqlite_path import check_path
from task_queue_engine.cli.container_init import put_init_in_front
from task_queue_engine.cli.cores import available_cores
from task_queue_engine.cli.environment import warn_of_unknown_variables
from task_queue_engine.cli.failures import ServiceEnded, expected_error
from task_queue_engine.cli.logs import set_up_logging
from task_queue_engine.cli.membership import Membership
from task_queue_engine.cli.options import MEMBER, SERVICE, Command, app_option, debug_option
from task_queue_engine.cli.settings import DEFAULT_APP, CommandSettings
from task_queue_engine.cli.tracing import set_up_tracing
from task_queue_engine.config import MAX_SERVICE_PROCESSES, Settings
from task_queue_engine.engine.loggers import protect_loggers

logger = logging.getLogger("task_queue_engine.service")

_host = click.option("--host", metavar="ADDRESS", help="Where to listen. [TQE_HOST]")
_port = click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="PORT", help="0: any free one. [PORT]"
)
_worker_port = click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Serve /health, /ready, /metrics and /scale there; 0: at any free one. [TQE_WORKER_PORT]",
)
_workers = click.option(
    "--workers",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Tasks to run at one time. [WORKER_COUNT]",
)
_processes = click.option(
    "--processes",
    type=click.IntRange(0, MAX_SERVICE_PROCESSES),
    metavar="N",
    help="Run so many processes of this, each with its own workers, behind one port; 0: one for "
    "each core. [TQE_SERVICE_PROCESSES]",
)


def _service(command: Command) -> Command:
    """Options of everything that runs until it is stopped."""

    @_processes
    @app_option
    @click.option("--json", "as_json", is_flag=True, help="Log JSON lines. [TQE_LOG_FORMAT=json]")
    @debug_option
    @functools.wraps(command)
    def with_options(*args: Any, **options: Any) -> Any:
        return command(*args, **options)

    return with_options


@click.command()
@_host
@_port
@_workers
@_service
def serve(host: str | None, port: int | None, workers: int | None, **common: Any) -> None:
    """Run the HTTP API and the workers.

    SIGTERM or Ctrl-C: nothing more is taken, running tasks may end (TQE_SHUTDOWN_GRACE), all
    others go back to the queue. A second one: at once.
    """
    _run({"TQE_HOST": host, "PORT": port, "WORKER_COUNT": workers}, http=True, work=True, **common)


@click.command()
@_host
@_port
@_service
def api(host: str | None, port: int | None, **common: Any) -> None:
    """Run the HTTP API alone; `tqe worker` elsewhere does the work."""
    _run({"TQE_HOST": host, "PORT": port}, http=True, work=False, **common)


@click.command()
@_host
@_worker_port
@_workers
@_service
def worker(host: str | None, port: int | None, workers: int | None, **common: Any) -> None:
    """Run workers without the HTTP API.

    With --port they serve /health, /ready, /metrics and /scale there, and nothing else.
    """
    _run(
        {"TQE_HOST": host, "TQE_WORKER_PORT": port, "WORKER_COUNT": workers},
        http=False,
        work=True,
        **common,
    )


def _run(
    overrides: dict[str, Any],
    *,
    processes: int | None,
    app: str | None,
    as_json: bool,
    debug: bool,
    http: bool,
    work: bool,
) -> None:
    member = Membership.from_environment()
    put_init_in_front()
    overrides |= {
        "TQE_SERVICE_PROCESSES": processes,
        "TQE_LOG_FORMAT": "json" if as_json else None,
        "TQE_LOG_LEVEL": "DEBUG" if debug else None,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = Settings(**given)
    set_up_logging(
        settings.log_level, settings.log_format, process=None if member is None else member.name
    )
    monitoring = not http and settings.worker_port is not None
    if (http or monitoring) and settings.keys_file is not None:
        # Before anything is opened. It is read again where it is used.
        from task_queue_engine.http.key_file import read_key_file

        read_key_file(settings.keys_file)
    if member is not None:
        click.get_current_context().meta[MEMBER] = member
        settings = _share_of(settings, member)
    elif (count := _count(settings)) > 1:
        _supervise(settings, count, http=http, monitoring=monitoring)
        return
    set_up_tracing(os.environ)
    # Only here: a supervisor runs no task.
    from task_queue_engine.cli.apps import load_app

    spec = app or CommandSettings().app
    registry = load_app(spec)
    protect_loggers()  # the app may have configured logging, and disabled what there was
    if member is None or member.number == 1:
        warn_of_unknown_variables()
    if spec == DEFAULT_APP:
        # Better now than when the first task needs them.
        from task_queue_engine.handlers import check_settings

        check_settings()

    # Only here: the web framework behind it takes longer to import than most commands to run.
    from task_queue_engine.cli.service import ServiceConfig, run_service

    click.get_current_context().meta[SERVICE] = True
    config = ServiceConfig(
        registry=registry,
        settings=settings,
        workers=work,
        http=http,
        monitoring=monitoring,
        membership=member,
    )
    try:
        run_service(config)
    except Exception as error:  # raised again: only the log is this command's
        if expected_error(error) is None:
            logger.critical("the engine has a defect and has ended", exc_info=error)
        raise


def _count(settings: Settings) -> int:
    """How many processes to run."""
    return settings.service_processes or available_cores()


def _supervise(settings: Settings, count: int, *, http: bool, monitoring: bool) -> None:
    if not settings.uses_aws:
        check_path(settings.database)
    # Only here: a process on its own needs nothing of it.
    from task_queue_engine.cli.process_group import run_processes

    ended = run_processes(settings, count=count, http=http, monitoring=monitoring)
    if ended.line is not None:
        raise ServiceEnded(ended.line, ended.code)
    click.get_current_context().exit(ended.code)


def _share_of(settings: Settings, member: Membership) -> Settings:
    """Worker processes for `process=True` handlers are by default as many as there are cores, for
    all processes of the group together."""
    if "processes" in settings.model_fields_set:
        return settings
    share = max(1, settings.processes // member.size)
    return settings.model_copy(update={"processes": share})
