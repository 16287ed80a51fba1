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
    lines = help_.out.partition("Commands:\n")[2].splitlines()[: len(main.lazy)]
    listed = [line.split()[0] for line in lines]
    assert listed == list(main.lazy)


def test_a_command_that_is_none() -> None:
    ran = tqe("statsu")
    said = "No such command 'statsu' (did you mean 'status'?); see tqe --help"
    assert (ran.code, ran.error) == (2, said)
    ran = tqe("nothing-like-it")
    assert (ran.code, ran.error) == (2, "No such command 'nothing-like-it'; see tqe --help")
