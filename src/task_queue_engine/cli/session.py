"""One run of an operating command: how it reaches the queue and how it prints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import click
import msgspec
import trio

from task_queue_engine.cli.apps import load_app
from task_queue_engine.cli.connect import direct, over_http
from task_queue_engine.cli.logs import set_up_logging
from task_queue_engine.cli.output import emit
from task_queue_engine.cli.settings import CommandSettings
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.registry import TaskRegistry

T = TypeVar("T")


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
        submits: bool = False,
    ) -> T:
        """`work`, given the queue.

        Args:
            app: `--app` of a command that has it.
            submits: the command may be the first to use a database, and needs to know the types of
                tasks where no server does.
        """
        settings = Settings()
        # For an operator who looks something up, an orderly start and end are noise.
        level = "WARNING" if settings.log_level == "INFO" else settings.log_level
        set_up_logging("DEBUG" if self.debug else level, "text")

        reached = self._reach(settings, app=app, submits=submits)

        async def run() -> T:
            async with reached as operations:
                return await work(operations)

        # Ctrl-C ends `work` where it waits, and the engine behind it in its own order.
        return trio.run(run, restrict_keyboard_interrupt_to_checkpoints=True)

    def _reach(
        self, settings: Settings, *, app: str | None, submits: bool
    ) -> AbstractAsyncContextManager[TaskApi]:
        if self.url is not None:
            return over_http(self.url, self.api_key)
        registry = load_app(app or CommandSettings().app) if submits else TaskRegistry()
        self._look_at_database(settings, may_create=submits)
        return direct(registry, settings)

    def _look_at_database(self, settings: Settings, *, may_create: bool) -> None:
        """A database that is not there was most likely looked for in the wrong place."""
        if settings.uses_aws or Path(settings.database).exists():
            return
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
            click.echo(f"tqe: {text}", err=True)
