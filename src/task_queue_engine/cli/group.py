"""The top command: what every command does about errors, and the commands in their order."""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from task_queue_engine.cli.failures import (
    ExitCode,
    exit_code_of,
    expected_error,
    first_of,
    is_broken_pipe,
    is_interrupt,
)
from task_queue_engine.cli.leaving import leave
from task_queue_engine.cli.options import DEBUG, MEMBER, SERVICE
from task_queue_engine.errors import ApiError, TaskQueueError

if TYPE_CHECKING:
    from task_queue_engine.cli.membership import Membership

logger = logging.getLogger("task_queue_engine.cli")

# What is imported stays: looks for garbage in it, of which Python makes a hundred during a start,
# were a tenth of the start's CPU. A start makes fewer objects than this; a service sets its own
# number when it is up.
_GARBAGE_EVERY = 200_000


class Lazy(NamedTuple):
    """A command that is not imported yet."""

    where: str
    """``module:name``, below `cli.commands`."""
    help: str
    """The first sentence of its own, for the list of commands."""

    def load(self) -> click.Command:
        module, _, name = self.where.partition(":")
        found = getattr(importlib.import_module(f"{__package__}.commands.{module}"), name)
        assert isinstance(found, click.Command)  # noqa: S101 - as this package wrote it
        return found


class Program(click.Group):
    """Every error one line on stderr and an exit code, see `failures`.

    Args:
        lazy: its commands by name, in their order.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = self.lazy[cmd_name].load()
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name.startswith("-") or name in self.lazy or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        # click would look for similar names among the commands that were imported: none.
        from difflib import get_close_matches

        close = get_close_matches(name, self.lazy, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise click.UsageError(f"No such command {name!r}{meant}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, without importing them."""
        room = formatter.width - 6 - max(map(len, self.lazy))
        rows = [
            (name, click.Command(name, help=command.help).get_short_help_str(room))
            for name, command in self.lazy.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra["standalone_mode"] = False
        gc.set_threshold(_GARBAGE_EVERY)
        atexit.register(gc.freeze)  # nor does the last look find what the system does not take back
        if sys.stdout is None:  # closed by the parent process: `tqe ... >&-`
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
        try:
            returned = super().main(*args, **extra)
            code = returned if isinstance(returned, int) else ExitCode.OK
            sys.stdout.flush()
        except click.UsageError as error:
            if isinstance(error, NoArgsIsHelpError):
                error.show()  # the help
                sys.exit(ExitCode.USAGE)
            code = _fail(_with_hint(error), ExitCode.USAGE)
        except click.ClickException as error:
            code = _fail(error.format_message(), ExitCode.USAGE)
        except (click.Abort, KeyboardInterrupt):
            code = _fail("interrupted", ExitCode.INTERRUPTED)
        except OSError as error:
            code = _report(error, debug=False)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> int:
        code = self._invoke(ctx)
        if SERVICE in ctx.meta:
            leave(code)
        return code

    def _invoke(self, ctx: click.Context) -> int:
        try:
            super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - reported
            debug = DEBUG in ctx.meta or logging.getLogger().isEnabledFor(logging.DEBUG)
            return _report(error, debug=debug, member=ctx.meta.get(MEMBER))
        return ExitCode.OK


def _report(error: BaseException, *, debug: bool, member: Membership | None = None) -> int:
    """Report what went wrong, by way of the supervisor where there is one; returns the exit
    code."""
    if is_broken_pipe(error):
        _give_up_stdout()
        return ExitCode.BROKEN_PIPE
    if is_interrupt(error):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    if debug:
        traceback.print_exception(error)
    line, code = _line_of(error, debug=debug)
    if member is not None:
        member.refuse(line)
        return code
    return _fail(line, code)


def _line_of(error: BaseException, *, debug: bool) -> tuple[str, int]:
    expected = expected_error(error)
    if expected is not None:
        return f"{expected}{_hint(expected)}", exit_code_of(expected)
    first = first_of(error)
    if isinstance(first, OSError):  # no room on the device, no such directory, ...
        return str(first), ExitCode.FAILED
    hint = "" if debug else " (--debug shows where)"
    return f"a defect: {type(first).__name__}: {first}{hint}", ExitCode.FAILED


def _fail(line: str, code: int) -> int:
    # Only here: what it knows to print takes longer to import than a help to show.
    from task_queue_engine.cli.logs import writes_json
    from task_queue_engine.cli.output import printable

    line = printable(" ".join(line.split()))
    if writes_json():
        logger.critical(line)
    else:
        click.echo(f"tqe: {line}", err=True)
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    return code


def _with_hint(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "tqe"
    return f"{error.format_message().rstrip('.')}; see {path} --help"


def _hint(error: TaskQueueError) -> str:
    missing_key = isinstance(error, ApiError) and error.status == 401
    return " (--api-key or TQE_API_KEY)" if missing_key else ""


def _give_up_stdout() -> None:
    """Its reader has gone. What is still in the buffer must not raise again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
