"""One run of an operating command: how it reaches the queue and how it prints."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import click
import msgspec
import trio

from task_queue_engine.backends.sqlite_path import check_path
from task_queue_engine.cli.apps import load_app
from task_queue_engine.cli.connect import direct, over_http
from task_queue_engine.cli.environment import warn_of_unknown_variables
from task_queue_engine.cli.logs import set_up_logging
from task_queue_engine.cli.output import emit, printable
from task_queue_engine.cli.settings import DEFAULT_APP, CommandSettings
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import ConfigurationError, UnknownTaskType
from task_queue_engine.registry import TaskRegistry

T = TypeVar("T")


def _app_with(task_type: str, option: str | None) -> TaskRegistry:
    """Raises UsageError where the types that come with the package were looked in for want of
    others, UnknownTaskType where an app was given and does not have it."""
    spec = option or CommandSettings().app
    registry = load_app(spec)
    try:
        registry.get(task_type)
    except UnknownTaskType as error:
        if spec != DEFAULT_APP:
            raise
        raise click.UsageError(
            f"{error}. These come with the package: say where your own are with --app or TQE_APP "
            "(MODULE:REGISTRY), or which server has them with --url or TQE_URL"
        ) from None
    return registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the options common to all operating commands came to."""

    url: str | None
    """None: straight to the backend."""
    api_key: str | None
    as_json: bool
    debug: bool

    @classmethod
    def open(cls, *, url: str | None, api_key: str | None, as_json: bool, debug: bool) -> Self:
        """With the environment's answer where an option was not given."""
        settings = CommandSettings()
        if api_key is None and settings.api_key is not None:
            api_key = settings.api_key.get_secret_value()
        return cls(url=url or settings.url, api_key=api_key, as_json=as_json, debug=debug)

    def run(
        self,
        work: Callable[[TaskApi], Awaitable[T]],
        *,
        app: str | None = None,
        submits: str | None = None,
    ) -> T:
        """`work`, given the queue.

        Args:
            app: `--app` of a command that has it.
            submits: a task of this type: the command may be the first to use a database, and needs
                to know the type where no server does.
        """
        settings = Settings()
        # For an operator who looks something up, an orderly start and end are noise.
        level = "WARNING" if settings.log_level == "INFO" else settings.log_level
        set_up_logging("DEBUG" if self.debug else level, "text")

        reached = self._reach(settings, app=app, submits=submits)
        warn_of_unknown_variables()

        async def run() -> T:
            async with reached as operations:
                return await work(operations)

        # Ctrl-C ends `work` where it waits, and the engine behind it in its own order.
        return trio.run(run, restrict_keyboard_interrupt_to_checkpoints=True)

    def _reach(
        self, settings: Settings, *, app: str | None, submits: str | None
    ) -> AbstractAsyncContextManager[TaskApi]:
        if self.url is not None:
            return over_http(self.url, self.api_key)
        registry = TaskRegistry() if submits is None else _app_with(submits, app)
        self._look_at_database(settings, may_create=submits is not None)
        return direct(registry, settings)

    def _look_at_database(self, settings: Settings, *, may_create: bool) -> None:
        """A database that is not there was most likely looked for in the wrong place."""
        # Not Path.exists: it raises for a name that is too long. What is wrong with a path that is
        # there, or cannot be one, the backend says.
        if settings.uses_aws or os.path.exists(settings.database):  # noqa: PTH110
            return
        check_path(settings.database)
        path = Path(settings.database).absolute()
        if not may_create:
            raise ConfigurationError(
                f"there is no database at {path}; another directory, or --url of a server?",
                variable="TQE_DATABASE",
            )
        self.note(f"{path} is new: no server uses it yet")

    # --- printing ---------------------------------------------------------------------------

    def show(self, value: Any, text: Callable[[], str]) -> None:
        """The result, on stdout: with --json `value` as the API encodes it, else what `text`
        gives."""
        emit(msgspec.json.encode(value) if self.as_json else text())

    def note(self, text: str) -> None:
        """Something beside the result, for the operator and no script: on stderr."""
        if not self.as_json:
            click.echo(f"tqe: {printable(text)}", err=True)
