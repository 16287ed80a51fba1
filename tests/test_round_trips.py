"""What a handler gets is what was submitted, by object and as JSON alike, for all that annotations
can say; what JSON cannot carry is refused, never changed."""

from __future__ import annotations

import enum
import math
import pathlib
import re
import uuid
from collections import OrderedDict
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasGenerator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
)
from pydantic.alias_generators import to_camel

from task_queue_engine.codec import decode_json
from task_queue_engine.errors import InvalidTask, ResultNotStorable
from task_queue_engine.execution.values import encode_result
from task_queue_engine.payloads import make_converter

T = TypeVar("T")
BERLIN = timezone(timedelta(hours=2))


# --- pydantic -------------------------------------------------------------------------------


class Aliased(BaseModel):
    user_name: str = Field(alias="userName")
    homes: list[Aliased] = Field(default=[], alias="allHomes")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    user_name: str


class TwoAliases(BaseModel):
    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=to_camel), populate_by_name=True
    )
    user_name: str


class ByName(BaseModel):
    """Written under an alias that it does not read."""

    n: int = Field(serialization_alias="number")


class Login(BaseModel):
    user: str
    password: SecretStr
    key: SecretBytes = SecretBytes(b"")
    born: Secret[date] | None = None
    old: list[SecretStr] = []
    named: dict[str, SecretStr] = {}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    day: date
    id: uuid.UUID
    pair: tuple[int, str]
    tags: set[str]
    price: Decimal
    path: pathlib.Path
    names: dict[int, str]
    raw: bytes
    span: timedelta
    ratio: float


class Area(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    def doubled(self) -> int:
        return 2 * self.width


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Numbers(RootModel[list[int]]):
    pass


class Box(BaseModel, Generic[T]):
    item: T


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Zoo(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    raw: bytes


class Written(BaseModel):
    """Says itself how it is written."""

    at: datetime

    @pydantic.field_serializer("at")
    def _write(self, at: datetime) -> float:
        return at.timestamp()


@dataclass
class Holder:
    area: Area
    raw: bytes = b"x"


@pydantic.dataclasses.dataclass
class Checked:
    n: Annotated[int, Field(gt=0)]
    inner: Area | None = None


# --- msgspec, dataclasses, typing, attrs -----------------------------------------------------


class Renamed(msgspec.Struct, rename="camel", omit_defaults=True):
    user_name: str = "x"
    tags: set[str] = set()


class Circle(msgspec.Struct, tag="circle", frozen=True):
    radius: float


class Square(msgspec.Struct, tag="square"):
    side: float


class Pair(msgspec.Struct, array_like=True):
    left: int
    right: str = ""


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


@dataclass(slots=True, frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclass(kw_only=True)
class Rich:
    at: datetime
    when: time
    id: uuid.UUID
    price: Decimal
    colour: Colour
    tags: frozenset[str]
    pair: tuple[int, str]
    points: list[Point]
    names: dict[int, str]
    raw: bytes
    span: timedelta
    maybe: Point | None = None
    many: tuple[Point, ...] = ()
    note: str = field(default="", metadata={"any": 1})


@dataclass
class Tree:
    value: int
    left: Tree | None = None


class Options(TypedDict):
    deep: bool
    at: NotRequired[datetime]


class Partial(TypedDict, total=False):
    colour: Colour


class Spot(NamedTuple):
    x: int
    label: str = ""


@attrs.define
class Order:
    number: int = attrs.field(validator=attrs.validators.gt(0))
    spots: list[Spot] = attrs.Factory(list)
    _secret: str = "s"


@attrs.frozen
class Bill:
    order: Order
    at: datetime


class ModelInTypedDict(typing_extensions.TypedDict):
    area: Area


NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=BERLIN)
ID = uuid.UUID(int=7)
RICH = Rich(
    at=NOW,
    when=time(1, 2, 3),
    id=ID,
    price=Decimal("1.10"),
    colour=Colour.RED,
    tags=frozenset({"a"}),
    pair=(1, "x"),
    points=[Point(1.0), Point(-0.0, 2.0)],
    names={1: "a", -5: "b"},
    raw=b"\x00\xff",
    span=timedelta(days=1, microseconds=1),
    maybe=Point(1.5),
    many=(Point(2.5),),
)
STRICT = Strict(
    at=NOW,
    day=date(2030, 1, 2),
    id=ID,
    pair=(1, "x"),
    tags={"a"},
    price=Decimal("1.10"),
    path=pathlib.Path("a/b"),
    names={1: "a"},
    raw=b"text",
    span=timedelta(seconds=1.5),
    ratio=1.0,
)

HELD: list[tuple[Any, Any]] = [
    (Aliased, Aliased(userName="Ada", allHomes=[Aliased(userName="Bob")])),
    (list[Aliased], [Aliased(userName="Ada")]),
    (Camel, Camel(user_name="Ada")),
    (TwoAliases, TwoAliases(userName="Ada")),
    (ByName, ByName(n=1)),
    (
        Login,
        Login(
            user="Ada",
            password=SecretStr("hunter2"),
            key=SecretBytes(b"k"),
            born=Secret(date(1815, 12, 10)),
            old=[SecretStr("a"), SecretStr("**********")],
            named={"x": SecretStr("y")},
        ),
    ),
    (Login | None, Login(user="Ada", password=SecretStr(""))),
    (SecretStr, SecretStr("hunter2")),
    (Strict, STRICT),
    (list[Strict], [STRICT]),
    (Area, Area(width=2)),
    (list[Area], [Area(width=2)]),
    (dict[str, Area], {"a": Area(width=2)}),
    (tuple[Area, int], (Area(width=2), 1)),
    (Area | None, None),
    (ModelInTypedDict, {"area": Area(width=2)}),
    (Holder, Holder(Area(width=2))),
    (Checked, Checked(1, Area(width=2))),
    (Open, Open(a=1, b=[2])),
    (Numbers, Numbers([1, 2])),
    (Box[int], Box[int](item=1)),
    (Box[Area], Box[Area](item=Area(width=1))),
    (Zoo, Zoo(pets=[Cat(lives=3), Dog()])),
    (Cat | Dog, Dog()),
    (Base64, Base64(raw=b"\x00\xff")),
    (pathlib.Path, pathlib.Path("a/b")),
    (IPv4Address, IPv4Address("127.0.0.1")),
    (re.Pattern[str], re.compile("a+")),
    (Annotated[datetime, Field()], NOW),
    (AwareDatetime, NOW),
    (Renamed, Renamed("Ada", {"a"})),
    (Renamed, Renamed()),
    (Circle | Square, Square(1.0)),
    (list[Circle | Square], [Circle(1.0), Square(-0.0)]),
    (Pair, Pair(1, "a")),
    (Rich, RICH),
    (list[Rich], [RICH]),
    (Tree, Tree(1, Tree(2))),
    (Options, {"deep": True}),
    (Options, {"deep": True, "at": NOW}),
    (Partial, {}),
    (Partial, {"colour": Colour.RED}),
    (Spot, Spot(1, "a")),
    (list[Spot], [Spot(1)]),
    (Order, Order(1, [Spot(2)])),
    (Bill, Bill(Order(1), NOW)),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Name, Name.ADA),
    (datetime, NOW),
    (datetime, datetime(2030, 1, 2)),  # noqa: DTZ001 - without a zone it stays without one
    (date, date(2030, 1, 2)),
    (timedelta, timedelta(weeks=1)),
    (uuid.UUID, ID),
    (Decimal, Decimal("1.10")),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"\x00\xff")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (list[tuple[int, int]], [(1, 2)]),
    (dict[int, str], {1: "a"}),
    (dict[date, int], {date(2030, 1, 2): 1}),
    (dict[uuid.UUID, list[datetime]], {ID: [NOW]}),
    (int, 2**53 + 1),
    (int, -(2**200)),
    (float, -0.0),
    (float, 5e-324),
    (str, ""),
    (bool, False),
    (list[int] | None, None),
]


def by_name(value: Any) -> str:
    """The same in every process that runs these tests."""
    return re.sub(r"\W+", "_", re.sub(r" at 0x[0-9a-f]+", "", str(value)))[:60]


@pytest.mark.parametrize(("annotation", "value"), HELD, ids=by_name)
def test_what_is_submitted_arrives(annotation: Any, value: Any) -> None:
    convert = make_converter(annotation)
    data, encoded = convert.pack(value)
    assert decode_json(encoded) == data
    assert_equal(convert(data), value)
    # The same over HTTP, where there is only the JSON.
    again, _ = convert.pack(decode_json(encoded))
    assert_equal(convert(again), value)


@pytest.mark.parametrize(("annotation", "value"), HELD, ids=by_name)
def test_what_is_returned_comes_back(annotation: Any, value: Any) -> None:
    encoded = encode_result(value, 100_000, make_converter(annotation, field="result"))
    assert_equal(make_converter(annotation, field="result")(decode_json(encoded)), value)


def assert_equal(back: Any, value: Any) -> None:
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, float):
        assert math.copysign(1, back) == math.copysign(1, value)
    if isinstance(value, datetime):
        assert back.utcoffset() == value.utcoffset()


@pytest.mark.parametrize(
    "value",
    [
        Login(user="Ada", password=SecretStr("hunter2")),
        [Login(user="Ada", password=SecretStr("hunter2"))],
        {"password": SecretStr("hunter2")},
        SecretStr("hunter2"),
        Box[Any](item=SecretStr("hunter2")),
        Box[Any](item=[{"password": SecretStr("hunter2")}]),
    ],
    ids=by_name,
)
@pytest.mark.parametrize("annotated", [True, False])
def test_a_secret_is_never_replaced_by_asterisks(value: Any, annotated: bool) -> None:
    convert = make_converter(type(value) if annotated else Any)
    _, encoded = convert.pack(value)
    assert b"hunter2" in encoded
    assert b"*" not in encoded
    result = encode_result(value, 1000, convert)
    assert b"hunter2" in result
    assert b"*" not in result


# --- subclasses -------------------------------------------------------------------------------


class SafeString(str):
    """As Django's: marked text that prints itself in another way."""

    def __str__(self) -> str:
        return "<safe>"


class Float64(float):
    """As numpy's."""

    def __float__(self) -> float:
        return 0.0


class Int(int):
    pass


class Stamp(datetime):
    """As those of pandas and pendulum."""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (SafeString("a"), "a"),
        (Float64(1.5), 1.5),
        (Int(2), 2),
        ({"k": [SafeString("v"), Int(3)]}, {"k": ["v", 3]}),
        (OrderedDict(a=Float64(1)), {"a": 1.0}),
        (Name.ADA, "ada"),
        (Level.LOW, 1),
        (Stamp(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00+00:00"),
    ],
    ids=by_name,
)
def test_a_subclass_is_what_it_is_a_subclass_of(value: Any, plain: Any) -> None:
    for annotation in (Any, type(plain)):
        data, _ = make_converter(annotation).pack(value)
        assert data == plain
        assert type(data) is type(plain)


def test_subclasses_inside_of_models() -> None:
    @dataclass
    class Row:
        name: str
        ratio: float
        at: datetime

    row = Row(SafeString("a"), Float64(1.5), Stamp(2030, 1, 2, tzinfo=UTC))
    data, _ = make_converter(Row).pack(row)
    assert data == {"name": "a", "ratio": 1.5, "at": "2030-01-02T00:00:00+00:00"}
    data, _ = make_converter(Box[str]).pack(Box[str](item=SafeString("a")))
    assert data == {"item": "a"}


# --- what has no way through ------------------------------------------------------------------


class Excluded(BaseModel):
    shown: int
    hidden: int = Field(default=0, exclude=True)


class Choices(BaseModel):
    """Read under names that it is never written under."""

    n: int = Field(validation_alias=AliasChoices("number", "no"))


class Hashed(BaseModel):
    password: str

    @pydantic.field_validator("password")
    @classmethod
    def _hash(cls, value: str) -> str:
        return value[::-1] + "!"


class Lossy(BaseModel):
    at: datetime

    @pydantic.field_serializer("at")
    def _write(self, at: datetime) -> str:
        return at.date().isoformat()


class TextOrTime(BaseModel):
    when: str | datetime


class Wider(Area):
    height: int = 1


@dataclass(frozen=True)
class Noted(Point):
    note: str = ""


@dataclass
class Counted:
    n: int
    seen: int = field(init=False, default=0)


@dataclass
class Initialised:
    n: int
    by: InitVar[int]


class Plain:
    pass


COUNTED = Counted(1)
COUNTED.seen = 5

REFUSED: list[tuple[Any, Any, str]] = [
    (Excluded, Excluded(shown=1, hidden=2), "payload.hidden"),
    (Choices, Choices(number=1), "payload.number"),
    (Hashed, Hashed(password="x"), "payload.password"),
    (Lossy, Lossy(at=NOW), "payload.at"),
    (TextOrTime, TextOrTime(when=NOW), "payload.when"),
    (Area, Wider(width=1), "payload"),
    (list[Area], [Area(width=1), Wider(width=1)], "payload[1]"),
    (Area, Area.model_construct(width="x"), "payload"),
    (Area, Login(user="a", password=SecretStr("b")), "payload.width"),
    (Order, Order(1, secret="t"), "payload._secret"),
    (Initialised, Initialised(1, by=2), "payload.by"),
    (list[float], (2**53 + 1,), "payload[0]"),
    (float, math.nan, "payload"),
    (float, math.inf, "payload"),
    (Box[float], Box[float](item=math.nan), "payload.item"),
    (Any, {"a": [math.nan]}, "payload.a[0]"),
    (Any, {1: "a", "1": "b"}, "payload"),
    (Any, 10**400, "payload"),
    (Any, "\ud800", "payload"),
    (Box[Any], Box[Any](item="\ud800"), "payload.item"),
    (Any, {(1, 2): 3}, "payload"),
    (Any, {SafeString("k"): SafeString("v")}, "payload"),
    (Any, {"a": Plain()}, "payload.a"),
    (Any, Plain(), "payload"),
    (Box[Any], Box[Any](item=Plain()), "payload"),
    (Any, (item for item in "ab"), "payload"),
    (bytes, "not base64!", "payload"),
    (Box[bytes], Box[bytes](item=b"\xff"), "payload"),
    (datetime, datetime(2030, 1, 2, tzinfo=timezone(timedelta(seconds=30))), "payload"),
]


@pytest.mark.parametrize(("annotation", "value", "where"), REFUSED, ids=by_name)
def test_what_json_cannot_carry_is_refused(annotation: Any, value: Any, where: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        make_converter(annotation).pack(value)
    assert caught.value.field == where
    assert "\n" not in str(caught.value)


def test_a_point_is_no_noted_point_and_fields_without_init_are_kept_or_refused() -> None:
    with pytest.raises(InvalidTask, match="payload: is a Noted"):
        make_converter(Point).pack(Noted(1.0, note="x"))
    assert make_converter(Counted)(make_converter(Counted).pack(COUNTED)[0]) == COUNTED


def test_an_object_that_holds_itself_is_refused() -> None:
    tree = Tree(1)
    tree.left = tree
    with pytest.raises(InvalidTask, match="deep"):
        make_converter(Tree).pack(tree)
    round_list: list[Any] = []
    round_list.append(round_list)
    with pytest.raises(InvalidTask, match="deep"):
        make_converter(Any).pack(round_list)


class Hostile:
    """All of its methods raise."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise SystemExit(3)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(3)

    __hash__ = None  # type: ignore[assignment]  # it has none


@pytest.mark.parametrize("annotation", [Any, Area, Point, list[int], Numbers])
def test_objects_whose_methods_raise_are_refused(annotation: Any) -> None:
    for value in (Hostile(), [Hostile()], {"a": Hostile()}):
        with pytest.raises(InvalidTask):
            make_converter(annotation).pack(value)
        with pytest.raises(ResultNotStorable):
            encode_result(value, 1000)


@pytest.mark.parametrize(
    "raised",
    [
        ZeroDivisionError,
        KeyError,
        SystemExit,
        GeneratorExit,
        RecursionError,
        BaseException,
        OSError,
    ],
)
def test_whatever_a_check_raises_refuses_the_payload(raised: type[BaseException]) -> None:
    @dataclass
    class Picky:
        n: int

        def __post_init__(self) -> None:
            raise raised

    class PickyModel(BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def _check(cls, n: int) -> int:
            raise raised

    for annotation in (Picky, PickyModel, list[PickyModel]):
        convert = make_converter(annotation)
        for check in (convert, convert.pack):
            with pytest.raises(InvalidTask) as caught:
                check([{"n": 1}] if annotation == list[PickyModel] else {"n": 1})
            assert caught.value.field.startswith("payload")


def test_a_hundred_thousand_errors_are_one_message() -> None:
    with pytest.raises(InvalidTask, match="100000 members"):
        make_converter(Numbers)(["x"] * 100_000)


# --- any value at all -------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
INT64 = st.integers(-(2**63), 2**63 - 1)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_arrives_as_it_is(value: Any) -> None:
    for annotation in (Any, Box[Any]):
        convert = make_converter(annotation)
        given_ = value if annotation is Any else Box[Any](item=value)
        back = convert(convert.pack(given_)[0])
        assert repr(back) == repr(given_)  # 1 is not True, -0.0 is not 0.0


@settings(deadline=None)
@given(
    st.builds(
        Rich,
        at=st.datetimes(timezones=st.just(UTC)),
        when=st.times(),
        id=st.uuids(),
        price=st.decimals(allow_nan=False, allow_infinity=False),
        colour=st.just(Colour.RED),
        tags=st.frozensets(TEXT),
        pair=st.tuples(
            INT64,
            TEXT,
        ),
        points=st.lists(st.builds(Point, st.floats(allow_nan=False, allow_infinity=False))),
        names=st.dictionaries(
            INT64,
            TEXT,
        ),
        raw=st.binary(),
        span=st.timedeltas(),
        note=TEXT,
    )
)
def test_any_dataclass_arrives_or_is_refused(value: Rich) -> None:
    convert = make_converter(Rich)
    try:
        data, _ = convert.pack(value)
    except InvalidTask:
        return
    assert convert(data) == value
