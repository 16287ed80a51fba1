"""serve, api, worker."""

from __future__ import annotations

import functools
import logging
from typing import Any

import click

from task_queue_engine.cli.apps import DEFAULT_APP, load_app
from task_queue_engine.cli.container_init import put_init_in_front
from task_queue_engine.cli.environment import warn_of_unknown_variables
from task_queue_engine.cli.failures import expected_error
from task_queue_engine.cli.logs import set_up_logging
from task_queue_engine.cli.options import SERVICE, Command, app_option, debug_option
from task_queue_engine.cli.settings import CommandSettings
from task_queue_engine.config import Settings
from task_queue_engine.engine.loggers import protect_loggers

logger = logging.getLogger("task_queue_engine.service")

_host = click.option("--host", metavar="ADDRESS", help="Where to listen. [TQE_HOST]")
_port = click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="PORT", help="0: any free one. [PORT]"
)
_workers = click.option(
    "--workers",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Tasks to run at one time. [WORKER_COUNT]",
)


def _service(command: Command) -> Command:
    """Options of everything that runs until it is stopped."""

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
    """Run the HTTP API and the workers in one process.

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
@_workers
@_service
def worker(workers: int | None, **common: Any) -> None:
    """Run workers without HTTP."""
    _run({"WORKER_COUNT": workers}, http=False, work=True, **common)


def _run(
    overrides: dict[str, Any],
    *,
    app: str | None,
    as_json: bool,
    debug: bool,
    http: bool,
    work: bool,
) -> None:
    put_init_in_front()
    overrides |= {
        "TQE_LOG_FORMAT": "json" if as_json else None,
        "TQE_LOG_LEVEL": "DEBUG" if debug else None,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = Settings(**given)
    set_up_logging(settings.log_level, settings.log_format)
    spec = app or CommandSettings().app
    registry = load_app(spec)
    protect_loggers()  # the app may have configured logging, and disabled what there was
    warn_of_unknown_variables()
    if spec == DEFAULT_APP:
        # Better now than when the first task needs them.
        from task_queue_engine.handlers import check_settings

        check_settings()

    # Only here: the web framework behind it takes longer to import than most commands to run.
    from task_queue_engine.cli.service import ServiceConfig, run_service

    click.get_current_context().meta[SERVICE] = True
    try:
        run_service(ServiceConfig(registry=registry, settings=settings, workers=work, http=http))
    except Exception as error:  # raised again: only the log is this command's
        if expected_error(error) is None:
            logger.critical("the engine has a defect and has ended", exc_info=error)
        raise
