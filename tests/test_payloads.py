"""Typed payloads: converted, or refused by member."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from task_queue_engine import InvalidTask
from task_queue_engine.payloads import make_converter, to_json_types


@dataclass
class Address:
    city: str


@dataclass
class Person:
    name: str
    age: int = 0
    homes: list[Address] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ValueError("age must not be negative")


class Item(msgspec.Struct, forbid_unknown_fields=True):
    price: Annotated[float, msgspec.Meta(gt=0)]
    kind: Literal["a", "b"] = "a"


class Options(TypedDict):
    deep: bool


class Mail(pydantic.BaseModel):
    to: list[str]
    home: Address | None = None

    @pydantic.field_validator("to")
    @classmethod
    def _has_an_at(cls, value: list[str]) -> list[str]:
        if any("@" not in address for address in value):
            raise ValueError("an address needs an @")
        return value


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (Any, {"a": [1]}, {"a": [1]}),
        (int, 5, 5),
        (str, "x", "x"),
        (float, 5, 5.0),
        (list[int], [1, 2], [1, 2]),
        (int | None, None, None),
        (datetime, "2030-01-01T00:00:00Z", datetime(2030, 1, 1, tzinfo=UTC)),
        (UUID, "6f1f3c9e-3f0b-5a53-9d0a-6f1f0a3f8f57", UUID("6f1f3c9e3f0b5a539d0a6f1f0a3f8f57")),
        (Colour, "red", Colour.RED),
        (Options, {"deep": True}, {"deep": True}),
        (Person, {"name": "Ada"}, Person("Ada")),
        (
            Person,
            {"name": "Ada", "age": 36, "homes": [{"city": "London"}]},
            Person("Ada", 36, [Address("London")]),
        ),
        (Item, {"price": 2}, Item(price=2.0)),
        (Mail, {"to": ["a@b"]}, Mail(to=["a@b"])),
        (list[Item], [{"price": 1}], [Item(price=1.0)]),
    ],
    ids=str,
)
def test_what_fits_is_converted(annotation: Any, data: Any, expected: Any) -> None:
    assert make_converter(annotation)(data) == expected


@pytest.mark.parametrize(
    ("annotation", "data", "where"),
    [
        (int, "5", "payload"),
        (int, True, "payload"),
        (str, None, "payload"),
        (list[int], [1, "x"], "payload[1]"),
        (Options, {"deep": 1}, "payload.deep"),
        (Person, {}, "payload"),
        (Person, {"name": "Ada", "age": "x"}, "payload.age"),
        (Person, {"name": "Ada", "age": -1}, "payload"),
        (Person, {"name": "Ada", "homes": [{"city": "L"}, {"city": 5}]}, "payload.homes[1].city"),
        (Item, {"price": 0}, "payload.price"),
        (Item, {"price": 1, "kind": "c"}, "payload.kind"),
        (Item, {"price": 1, "more": 1}, "payload"),
        (Mail, {"to": "a@b"}, "payload.to"),
        (Mail, {"to": ["a"]}, "payload.to"),
        (Mail, {"to": ["a@b", 5]}, "payload.to[1]"),
        (Mail, {"to": ["a@b"], "home": {"city": 5}}, "payload.home.city"),
        (Mail, {}, "payload.to"),
    ],
    ids=str,
)
def test_what_does_not_is_refused_by_member(annotation: Any, data: Any, where: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        make_converter(annotation)(data)
    assert_names(caught.value, where)


def assert_names(error: InvalidTask, where: str) -> None:
    # msgspec spells an index of a list as "[...]".
    assert error.field in (where, where.replace("[1]", "[...]"))
    assert error.reason
    assert error.reason[0] == error.reason[0].lower()
    assert "$" not in str(error)
    assert "\n" not in str(error)


def test_what_a_validator_says_is_passed_on() -> None:
    with pytest.raises(InvalidTask, match=r"^payload\.to: an address needs an @$"):
        make_converter(Mail)({"to": ["a"]})
    with pytest.raises(InvalidTask, match=r"^payload: age must not be negative$"):
        make_converter(Person)({"name": "Ada", "age": -1})


def test_the_value_itself_is_not_repeated() -> None:
    """It may be a secret, and it may be large."""
    for annotation, data in ((Person, {"name": 5, "age": "hunter2"}), (Mail, {"to": "hunter2"})):
        with pytest.raises(InvalidTask) as caught:
            make_converter(annotation)(data)
        assert "hunter2" not in str(caught.value)


def test_another_field_name() -> None:
    with pytest.raises(InvalidTask, match=r"^result: "):
        make_converter(int, field="result")("x")


class Socket:
    """Nothing JSON can become."""


@dataclass
class Holder:
    socket: Socket


@dataclass
class Tree:
    value: int
    left: Tree | None = None


@pytest.mark.parametrize("annotation", [Socket, list[Socket], Holder, Socket | int, 5])
def test_an_annotation_nobody_understands_is_refused_at_once(annotation: Any) -> None:
    with pytest.raises(TypeError):
        make_converter(annotation)


def test_a_pydantic_model_may_stand_inside_something_else() -> None:
    convert = make_converter(list[Mail] | None)
    assert convert([{"to": ["a@b"]}]) == [Mail(to=["a@b"])]
    assert convert(None) is None
    with pytest.raises(InvalidTask) as caught:
        convert([{"to": ["a@b"]}, {"to": 5}])
    assert caught.value.field.startswith("payload")


def test_a_type_may_contain_itself() -> None:
    data = {"value": 1, "left": {"value": 2, "left": None}}
    assert make_converter(Tree)(data) == Tree(1, Tree(2))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        ([1], [1]),
        (Person("Ada"), {"name": "Ada", "age": 0, "homes": []}),
        (Item(price=1.0), {"price": 1.0, "kind": "a"}),
        (Mail(to=["a@b"]), {"to": ["a@b"], "home": None}),
        (datetime(2030, 1, 1, tzinfo=UTC), "2030-01-01T00:00:00Z"),
    ],
    ids=str,
)
def test_objects_become_json(value: Any, plain: Any) -> None:
    assert to_json_types(value) == plain


def test_what_cannot_become_json_is_left_for_the_encoder_to_refuse() -> None:
    thing = object()
    assert to_json_types(thing) is thing
