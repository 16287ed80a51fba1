"""Writes as PartiQL statements with parameters, for BatchExecuteStatement.

The text of a statement depends only on which attributes it touches, so the few shapes there are
get put together once. No `OR`: it would say "no run_at, or run_at has come" in one condition, but
not every server of the protocol understands it (hence the attribute `not_before`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, assert_never

from task_queue_engine.backends.aws.dynamodb.conditional_writes import (
    Condition,
    Delete,
    Insert,
    Update,
    Write,
)
from task_queue_engine.backends.aws.dynamodb.item_format import AttributeValue, text

_RELATIONS = {
    "=": "=?",
    "<=": "<=?",
    ">=": ">=?",
    "missing": " IS MISSING",
    "exists": " IS NOT MISSING",
}

_Shape = tuple[tuple[str, str], ...]


def statement(table: str, write: Write) -> dict[str, Any]:
    """One member of `Statements`. A refused write answers with the item as it is."""
    parameters: list[AttributeValue]
    match write:
        case Insert(item=item):
            said = _insert(table, tuple(item))
            parameters = list(item.values())
        case Update():
            said = _update(
                table,
                tuple(write.sets),
                write.increments,
                write.removes,
                _shape(write.conditions),
                write.returning,
            )
            parameters = [*write.sets.values(), text(write.task_id), *_values(write.conditions)]
        case Delete():
            said = _delete(table, _shape(write.conditions))
            parameters = [text(write.task_id), *_values(write.conditions)]
        case _:
            assert_never(write)
    return {
        "Statement": said,
        "Parameters": parameters,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _shape(conditions: tuple[Condition, ...]) -> _Shape:
    return tuple((condition.attribute, condition.relation) for condition in conditions)


def _values(conditions: tuple[Condition, ...]) -> list[AttributeValue]:
    return [condition.value for condition in conditions if condition.value is not None]


@lru_cache(maxsize=256)
def _insert(table: str, names: tuple[str, ...]) -> str:
    members = ",".join(f"'{name}':?" for name in names)
    return f'INSERT INTO "{table}" VALUE {{{members}}}'


@lru_cache(maxsize=1024)
def _update(
    table: str,
    sets: tuple[str, ...],
    increments: tuple[str, ...],
    removes: tuple[str, ...],
    conditions: _Shape,
    returning: bool,
) -> str:
    clauses = [f'UPDATE "{table}"']
    clauses += [f'SET "{name}"=?' for name in sets]
    clauses += [f'SET "{name}"="{name}"+1' for name in increments]
    clauses += [f'REMOVE "{name}"' for name in removes]
    clauses.append(_where(conditions))
    if returning:
        clauses.append("RETURNING ALL NEW *")
    return " ".join(clauses)


@lru_cache(maxsize=16)
def _delete(table: str, conditions: _Shape) -> str:
    return f'DELETE FROM "{table}" {_where(conditions)} RETURNING ALL OLD *'  # noqa: S608  # all names are ours


def _where(conditions: _Shape) -> str:
    tests = ['"id"=?', *(f'"{name}"{_RELATIONS[relation]}' for name, relation in conditions)]
    return "WHERE " + " AND ".join(tests)
