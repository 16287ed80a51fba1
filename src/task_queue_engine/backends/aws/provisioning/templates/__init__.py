"""The queues and the table as a template, for teams that create their infrastructure with
CloudFormation or Terraform. The same as `provision` makes: the tests compare them.

The files beside this one are the templates; `@{queue}`, `@{dead}` and `@{table}` are the names.
"""

from __future__ import annotations

from importlib.resources import files
from string import Template

from task_queue_engine.backends.aws.provisioning.resources import Names


class _Template(Template):
    delimiter = "@"  # both languages have a meaning of their own for "$"


def cloudformation(names: Names) -> str:
    """As JSON. Deleting the stack keeps the table; its outputs are the `.env` lines."""
    return _filled("cloudformation.json", names)


def terraform(names: Names) -> str:
    """In HCL, for the AWS provider 5 or later."""
    return _filled("terraform.tf", names)


def _filled(file: str, names: Names) -> str:
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    return _Template(text).substitute(queue=names.queue, dead=names.dead, table=names.table)
