"""Typed payloads: between the JSON that is stored and the type a handler is annotated with.

Dataclasses, msgspec Structs, TypedDicts and builtin types are converted by msgspec; pydantic
models, and what contains them, by pydantic. A mismatch is an InvalidTask that names the member.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import msgspec.inspect
import pydantic

from task_queue_engine.errors import InvalidTask

Converter = Callable[[Any], Any]

# msgspec ends its messages with the path of the offending member: "... - at `$.to[0]`".
_MSGSPEC_PATH = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")


def _is_pydantic(annotation: Any) -> bool:
    return hasattr(annotation, "__pydantic_validator__")


def _is_beyond_msgspec(annotation: Any) -> bool:
    """Whether a class unknown to msgspec is somewhere in it. msgspec takes such a type without
    complaint, and refuses every value later."""
    try:
        left: list[Any] = [msgspec.inspect.type_info(annotation)]
    except TypeError:
        return True
    seen: set[int] = set()
    while left:
        part = left.pop()
        if isinstance(part, msgspec.inspect.CustomType):
            return True
        if id(part) in seen:
            continue
        seen.add(id(part))
        for name in part.__struct_fields__:
            value = getattr(part, name)
            members = value if isinstance(value, tuple) else (value,)
            left += [
                member
                for member in members
                if isinstance(member, msgspec.inspect.Type | msgspec.inspect.Field)
            ]
    return False


def make_converter(annotation: Any, *, field: str = "payload") -> Converter:
    """A function from JSON data to `annotation`.

    Raises TypeError at once where neither msgspec nor pydantic understands the annotation; the
    function itself raises InvalidTask.
    """
    if annotation is Any:
        return _identity
    if _is_pydantic(annotation) or _is_beyond_msgspec(annotation):
        return _pydantic_converter(annotation, field)

    def convert(data: Any) -> Any:
        try:
            return msgspec.convert(data, annotation)
        except msgspec.ValidationError as error:
            what, path = _split_path(str(error))
            raise InvalidTask(_lower_first(what), field=field + path) from None

    return convert


def to_json_types(value: Any) -> Any:
    """`value` as dicts, lists, strings and numbers. Objects msgspec does not know pass through
    and are refused, by name, when they are encoded."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if value is None or isinstance(value, str | int | float | dict | list):
        return value
    try:
        return msgspec.to_builtins(value)
    except (TypeError, ValueError):
        return value


def _split_path(message: str) -> tuple[str, str]:
    found = _MSGSPEC_PATH.search(message)
    return (message[: found.start()], found["path"]) if found else (message, "")


def _identity(data: Any) -> Any:
    return data


def _pydantic_converter(annotation: Any, field: str) -> Converter:
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
    except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticUndefinedAnnotation):
        name = getattr(annotation, "__name__", None) or str(annotation)
        raise TypeError(f"{name} is, or contains, a type that JSON cannot become") from None

    def convert(data: Any) -> Any:
        try:
            return adapter.validate_python(data)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
            )
            # pydantic's prefix to what a validator of the model itself raised.
            what = first["msg"].removeprefix("Value error, ")
            raise InvalidTask(_lower_first(what), field=field + path) from None

    return convert


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
