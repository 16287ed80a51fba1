"""Writes as PutItem, UpdateItem and DeleteItem with condition expressions, for servers without
PartiQL. Aliases stand for all names: many of ours are reserved words of DynamoDB's.
"""

from __future__ import annotations

from typing import Any, assert_never

from task_queue_engine.backends.aws.dynamodb.conditional_writes import (
    Condition,
    Delete,
    Insert,
    Update,
    Write,
)
from task_queue_engine.backends.aws.dynamodb.item_format import AttributeValue


def request(write: Write) -> tuple[str, dict[str, Any]]:
    """The operation, and its parameters but for the table's name."""
    match write:
        case Insert(item=item):
            return "PutItem", {
                "Item": item,
                "ConditionExpression": "attribute_not_exists(id)",
            }
        case Update():
            return "UpdateItem", _update(write)
        case Delete(task_id=task_id):
            aliases = _Aliases()
            parameters = {
                "Key": {"id": {"S": task_id}},
                "ConditionExpression": _condition(aliases, write.conditions),
                "ReturnValues": "ALL_OLD",
            }
            return "DeleteItem", parameters | aliases.parameters()
        case _:
            assert_never(write)


def _update(write: Update) -> dict[str, Any]:
    aliases = _Aliases()
    sets = [f"{aliases.name(name)} = {aliases.value(value)}" for name, value in write.sets.items()]
    for name in write.increments:
        alias = aliases.name(name)
        sets.append(f"{alias} = {alias} + {aliases.value({'N': '1'})}")
    clauses = []
    if sets:
        clauses.append("SET " + ", ".join(sets))
    if write.removes:
        clauses.append("REMOVE " + ", ".join(aliases.name(name) for name in write.removes))
    return {
        "Key": {"id": {"S": write.task_id}},
        "UpdateExpression": " ".join(clauses),
        # The other conditions imply it today; without it a missing item would be created.
        "ConditionExpression": "attribute_exists(id) AND " + _condition(aliases, write.conditions),
        "ReturnValues": "ALL_NEW" if write.returning else "NONE",
    } | aliases.parameters()


def _condition(aliases: _Aliases, conditions: tuple[Condition, ...]) -> str:
    tests = []
    for condition in conditions:
        alias = aliases.name(condition.attribute)
        if condition.value is not None:
            tests.append(f"{alias} {condition.relation} {aliases.value(condition.value)}")
        else:
            function = {"missing": "attribute_not_exists", "exists": "attribute_exists"}
            tests.append(f"{function[condition.relation]}({alias})")
    return " AND ".join(tests)


class _Aliases:
    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, AttributeValue] = {}

    def name(self, attribute: str) -> str:
        return self._names.setdefault(attribute, f"#{len(self._names)}")

    def value(self, value: AttributeValue) -> str:
        alias = f":{len(self._values)}"
        self._values[alias] = value
        return alias

    def parameters(self) -> dict[str, Any]:
        names = {alias: name for name, alias in self._names.items()}
        parameters: dict[str, Any] = {"ExpressionAttributeNames": names}
        if self._values:
            parameters["ExpressionAttributeValues"] = self._values
        return parameters
