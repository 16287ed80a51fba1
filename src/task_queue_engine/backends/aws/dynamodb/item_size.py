"""How large an item is, as DynamoDB counts it."""

from __future__ import annotations

from task_queue_engine.backends.aws.dynamodb.item_format import AttributeValue, Item


def item_size(item: Item) -> int:
    """Bytes as DynamoDB counts them (AWS, "DynamoDB item sizes and formats"), a little rounded
    up."""
    return sum(_bytes(name) + _value_size(value) for name, value in item.items())


def _value_size(value: AttributeValue) -> int:
    ((kind, held),) = value.items()
    match kind:
        case "S":
            return _bytes(held)
        case "N":
            return len(held) // 2 + 2
        case "BOOL" | "NULL":
            return 1
        case "L":
            return 3 + sum(1 + _value_size(each) for each in held)
        case "M":
            return 3 + sum(1 + _bytes(name) + _value_size(each) for name, each in held.items())
        case "B":  # base64
            return len(held) * 3 // 4
        case _:
            return sum(len(each) for each in held)


def _bytes(characters: str) -> int:
    return len(characters) if characters.isascii() else len(characters.encode())
