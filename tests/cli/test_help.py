"""The list of commands, which is printed without importing them."""

from __future__ import annotations

import click
import pytest

from task_queue_engine.cli import main
from task_queue_engine.cli.group import Lazy, Program
from tests.cli.runner import tqe

assert isinstance(main, Program)


@pytest.mark.parametrize(("name", "command"), main.lazy.items(), ids=list(main.lazy))
def test_the_list_says_what_the_command_says(name: str, command: Lazy) -> None:
    listed = click.Command(name, help=command.help).get_short_help_str(500)
    assert listed == command.load().get_short_help_str(500)
    assert command.load().name == name


def test_all_commands_are_listed() -> None:
    help_ = tqe("--help")
    assert help_.code == 0
    listed = [line.split()[0] for line in help_.out.partition("Commands:\n")[2].splitlines()[:12]]
    assert listed == list(main.lazy)


def test_a_command_that_is_none() -> None:
    ran = tqe("statsu")
    assert ran.code == 2
    # Some versions of click say which one may have been meant.
    assert ran.error.startswith("No such command 'statsu'")
    assert ran.error.endswith("; see tqe --help")
    assert "\n" not in ran.error
