"""What a `data-export` task is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from task_queue_engine.task import TaskStatus

ExportFormat = Literal["csv", "json", "jsonl"]
Delimiter = Literal[",", ";", "\t"]
Parameters = list[Any] | dict[str, Any]

MAX_FILE_NAME = 200
"""Bytes in UTF-8, the ending included; file systems take 255."""

# A letter, digit or underscore first: no hidden file, no option of a command line. No separators.
_FILE_NAME = re.compile(r"\w(?:[\w .()+-]*[\w)])?")

# Exclusive: SQLite's integers are signed and have 64 bits.
_MAX_SQLITE_INTEGER = 2**63


def _safe_file_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            "is not a plain file name: letters, digits, '_', '-', '+', '.', spaces and "
            "parentheses, the first a letter, digit or '_', and no '/' or '..'"
        )
    if len(name.encode()) > MAX_FILE_NAME - len(".jsonl"):
        raise ValueError(f"is longer than {MAX_FILE_NAME - len('.jsonl')} bytes")
    return name


def _not_a_number(value: Any) -> Any:
    if isinstance(value, int | float):  # pydantic would count it in seconds since 1970
        raise ValueError("is not a time such as 2030-01-31T12:00:00Z")
    return value


def _sql_parameters(value: Any) -> Parameters | None:
    if isinstance(value, Mapping):
        named = [(f".{name}", member) for name, member in value.items()]
    elif isinstance(value, list):
        named = [(f"[{index}]", member) for index, member in enumerate(value)]
    elif value is None:
        return None
    else:
        raise ValueError("is neither a list (for `?`) nor an object (for `:name`)")
    for name, member in named:
        if not isinstance(member, str | int | float | None):
            raise ValueError(f"{name} is not a string, number, boolean or null")
        if isinstance(member, int) and not -_MAX_SQLITE_INTEGER <= member < _MAX_SQLITE_INTEGER:
            raise ValueError(f"{name} does not fit SQLite's 64-bit integers")
    return dict(value) if isinstance(value, Mapping) else value


Time = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_not_a_number)]


class TaskFilter(BaseModel):
    """Which of the engine's tasks to export; an empty object means all."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    status: Annotated[TaskStatus, Field(strict=False)] | None = None
    type: str | None = None
    since: Time | None = Field(default=None, description="Created at or after this time.")
    until: Time | None = Field(default=None, description="Created before this time.")
    limit: int | None = Field(default=None, ge=1, description="The newest so many.")


class ExportPayload(BaseModel):
    """Rows to be written to a file. Exactly one of `query`, `tasks` and `rows` says which.

    - `query`: one SELECT (or WITH ... SELECT) on the SQLite file the deployment has configured,
      with `parameters`: a list for ``?``, an object for ``:name``.
    - `tasks`: the engine's own tasks, newest first.
    - `rows`: the rows themselves: objects, or lists with their `columns`. With objects, `columns`
      chooses and orders the members; without it, all that occur are taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    query: str | None = Field(default=None, min_length=1, examples=["SELECT * FROM orders"])
    parameters: Annotated[
        Any,
        AfterValidator(_sql_parameters),
        WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "object"}, {"type": "null"}]}),
    ] = None
    tasks: TaskFilter | None = None
    columns: list[str] | None = Field(default=None, min_length=1)
    rows: list[Any] | None = Field(default=None, examples=[[{"name": "Ada", "born": 1815}]])
    format: ExportFormat = "csv"
    delimiter: Delimiter | None = Field(
        default=None, description="Between the cells of csv: a comma (default), semicolon or tab."
    )
    filename: Annotated[str, AfterValidator(_safe_file_name)] | None = Field(
        default=None,
        description="Below the export folder; the format's ending is added where it is missing. "
        "By default the task's id.",
        examples=["orders.csv"],
    )
    overwrite: bool = Field(
        default=False, description="Replace a file of this name that another task wrote."
    )

    @field_validator("columns")
    @classmethod
    def _columns_differ(cls, columns: list[str] | None) -> list[str] | None:
        if columns is not None and (twice := first_duplicate(columns)) is not None:
            raise ValueError(f"names {twice!r} twice")
        return columns

    @field_validator("rows")
    @classmethod
    def _rows_fit(cls, rows: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        columns = info.data.get("columns")
        kinds = {type(row) for row in rows or ()}
        if not kinds <= {dict, list}:
            raise ValueError("has a row that is neither an object nor a list")
        if len(kinds) > 1:
            raise ValueError("mixes objects and lists")
        if kinds == {list}:
            if columns is None:
                raise ValueError("has lists for rows, which need `columns`")
            for index, row in enumerate(rows or ()):
                if len(row) != len(columns):
                    raise ValueError(
                        f"[{index}] has {len(row)} cells where `columns` has {len(columns)}"
                    )
        return rows

    @model_validator(mode="after")
    def _one_source(self) -> ExportPayload:
        given = [name for name in ("query", "tasks", "rows") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise ValueError(f"needs exactly one of query, tasks and rows, and has {said}")
        if self.parameters is not None and self.query is None:
            raise ValueError("has parameters, which only a query takes")
        if self.columns is not None and self.rows is None:
            raise ValueError("has columns, which only rows take")
        if self.delimiter is not None and self.format != "csv":
            raise ValueError("has a delimiter, which only csv takes")
        return self

    def file_name(self, task_id: str) -> str:
        """The base name of the file, with its ending."""
        ending = f".{self.format}"
        name = self.filename or task_id
        return name if name.lower().endswith(ending) else name + ending


def first_duplicate(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
