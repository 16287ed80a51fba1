"""Whether a value that went through JSON has come back as what it was.

JSON has fewer types than Python, so two differences are none:

- What was given as JSON and became something richer (a string a datetime, an object a model) has
  been converted as its annotation says.
- Where the annotation leaves the type open (`Any`, `dict`), a value has its JSON form: a tuple is a
  list, a datetime a string, a dataclass an object.

All else is: a member that was lost, a subclass that came back as its base, bytes decoded by another
rule, an integer rounded by a float, keys that have become one.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from task_queue_engine.errors import InvalidTask


def check_same(given: Any, back: Any, path: str, annotation: Any = Any) -> None:
    """Raises InvalidTask where `back`, read as `annotation` from the JSON of `given`, differs."""
    _Comparison(annotation).check(given, back, path)


class _Comparison:
    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._named: frozenset[type] | None = None

    def check(self, given: Any, back: Any, path: str) -> None:
        if given is back:
            return
        if isinstance(given, Enum) and not isinstance(back, Enum):
            self.check(given.value, back, path)
        elif isinstance(given, str | int | float | None):
            if not _same_scalar(given, back):
                raise _changed(path, given, back)
        elif isinstance(given, Mapping):
            self._check_mapping(given, back, path)
        elif isinstance(given, list | tuple):
            self._check_sequence(given, back, path)
        elif isinstance(given, set | frozenset):
            same = given == back if isinstance(back, set | frozenset) else len(given) == len(back)
            if not same:
                raise _changed(path, given, back)
        elif hasattr(given, "get_secret_value"):
            revealed = back.get_secret_value() if hasattr(back, "get_secret_value") else back
            self.check(given.get_secret_value(), revealed, path)
        elif (members := _members(given)) is not None:
            self._check_object(given, members, back, path)
        elif not self._same_leaf(given, back):
            raise _changed(path, given, back)

    def _check_mapping(self, given: Mapping[Any, Any], back: Any, path: str) -> None:
        if not isinstance(back, Mapping):
            return  # JSON that has become an object
        if len(given) > len(back):
            raise InvalidTask("has keys that become one in JSON", field=path)
        if len(given) < len(back):
            raise _changed(path, given, back)
        # In the same order: JSON keeps it. A key that is no text has its JSON form.
        for (key, member), (as_key, other) in zip(given.items(), back.items(), strict=True):
            if isinstance(key, str) and isinstance(as_key, str) and not str.__eq__(key, as_key):
                raise _changed(path, key, as_key)
            self.check(member, other, f"{path}.{key!s:.60}")

    def _check_sequence(self, given: Iterable[Any], back: Any, path: str) -> None:
        if not isinstance(back, list | tuple):
            return  # an array that has become a set, or an object
        items = list(given)
        if len(items) != len(back):
            raise _changed(path, given, back)
        for index, (item, other) in enumerate(zip(items, back, strict=True)):
            self.check(item, other, f"{path}[{index}]")

    def _check_object(self, given: Any, members: Mapping[str, Any], back: Any, path: str) -> None:
        others = _members(back)
        if others is None:
            if not self._may_be_json(given, back):
                raise _changed(path, given, back)
            return
        if _class(given) is not _class(back) or members.keys() != others.keys():
            raise _changed(path, given, back)
        for name, member in members.items():
            self.check(member, others[name], f"{path}.{name}")

    def _same_leaf(self, given: Any, back: Any) -> bool:
        if isinstance(back, str | int | float | list | dict | None):
            return self._may_be_json(given, back)
        if getattr(type(given), "__eq__", None) is object.__eq__:
            return type(given) is type(back) and vars(given) == vars(back)
        if isinstance(given, datetime | time) and isinstance(back, datetime | time):
            # Equal at the same moment; what a handler prints is the local time.
            return given == back and given.utcoffset() == back.utcoffset()
        if isinstance(given, date) != isinstance(back, date):
            return False
        return bool(given == back)

    def _may_be_json(self, given: Any, back: Any) -> bool:
        """Whether `given` may have come back in its JSON form: where nothing in the annotation
        promises its type."""
        if not isinstance(back, str | int | float | list | dict | None):
            return False
        if self._named is None:
            self._named = frozenset(_classes(self._annotation))
        return not isinstance(given, tuple(self._named))


def _changed(path: str, given: Any, back: Any) -> InvalidTask:
    one, other = type(given).__name__, type(back).__name__
    became = f"another {one}" if one == other else f"a {other}"
    return InvalidTask(f"is a {one} that JSON brings back as {became}", field=path)


def _same_scalar(given: str | float | None, back: Any) -> bool:
    """A subclass is what it is a subclass of."""
    if isinstance(given, str):
        return not isinstance(back, str) or str.__eq__(given, back)
    if given is None or isinstance(given, bool) or isinstance(back, bool):
        return given is back
    if not isinstance(back, int | float):
        return back is not None  # a number that has become a Decimal, a duration, an enum
    if isinstance(given, float) and math.isnan(given):
        return math.isnan(back)
    if given != back:  # exact between an integer and a float
        return False
    # -0.0 is not 0.0; an integer has one zero.
    return not isinstance(given, float) or math.copysign(1, given) == math.copysign(1, back)


def _class(value: Any) -> Any:
    """Of a generic model its origin: `Box` and `Box[int]` are one class with and without checks."""
    generic = getattr(type(value), "__pydantic_generic_metadata__", None)
    return (generic and generic["origin"]) or type(value)


def _members(value: Any) -> dict[str, Any] | None:
    """What a structured object holds, by attribute; None for what is none."""
    kind: Any = type(value)
    if _is_model(kind):
        members = {name: getattr(value, name, None) for name in kind.model_fields}
        return members | (value.__pydantic_extra__ or {})
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name, None) for name in kind.__struct_fields__}
    if dataclasses.is_dataclass(kind):
        return {
            member.name: getattr(value, member.name, None)
            for member in dataclasses.fields(kind)
            # Neither given nor compared: its author says that it is no part of the value.
            if member.init or member.compare
        }
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return {member.name: getattr(value, member.name, None) for member in attributes}
    return None


def _is_model(kind: Any) -> bool:
    pydantic = sys.modules.get("pydantic")  # where it is not imported there are no models of it
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


# Their values are JSON already, or are compared member by member.
_OPEN = (Any, str, int, float, type(None), list, tuple, dict, set, frozenset, object)


def _classes(annotation: Any) -> Iterable[type]:
    """The classes that an annotation names, and those that their members name."""
    left, seen = [annotation], set[int]()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        left += get_args(part)
        origin = get_origin(part) or part
        if isinstance(origin, type) and origin not in _OPEN:
            yield origin
            left += _hints(origin).values()


def _hints(kind: Any) -> dict[str, Any]:
    if _is_model(kind):
        return {name: member.annotation for name, member in kind.model_fields.items()}
    look: Callable[..., dict[str, Any]] = get_type_hints
    try:
        return look(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - foreign annotations: what cannot be read promises nothing
        return {}
