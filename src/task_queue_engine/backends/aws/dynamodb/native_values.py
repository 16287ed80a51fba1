"""DynamoDB's own types, in which other programs' items may hold their payloads."""

from __future__ import annotations

from typing import Any


def native(value: dict[str, Any]) -> Any:
    """What another program meant by an attribute value (`{"N": "1"}`), as JSON types."""
    ((kind, held),) = value.items()
    match kind:
        case "NULL":
            return None
        case "N":
            return _number(held)
        case "L":
            return [native(each) for each in held]
        case "M":
            return {name: native(each) for name, each in held.items()}
        case "NS":
            return [_number(each) for each in held]
        case _:  # S, BOOL, SS, and B and BS as the base64 that they are in JSON
            return held


def _number(digits: str) -> int | float:
    return int(digits) if digits.lstrip("-").isdigit() else float(digits)
