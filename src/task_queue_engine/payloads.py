"""Typed payloads: between the JSON that is stored and the type a handler is annotated with.

Dataclasses, attrs classes, msgspec Structs, TypedDicts, NamedTuples and builtin types are converted
by msgspec; pydantic models, and what contains them, by pydantic. A mismatch is an InvalidTask that
names the member.

What the annotation's library reads by its own rules (aliases, tags, base64) it also writes by them.
An object is accepted only where it comes back from JSON as the object it was: nothing is changed on
its way to the handler, and what JSON cannot carry is refused when it is submitted.

pydantic is imported with the first annotation or object that needs it: a client may be installed
without it, and where there are models it is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import msgspec.inspect

from task_queue_engine.codec import UNWRITABLE, decode_json, encode_json
from task_queue_engine.errors import InvalidTask
from task_queue_engine.foreign import contained
from task_queue_engine.roundtrip import check_same

if TYPE_CHECKING:
    import pydantic

# msgspec ends its messages with the path of the offending member: "... - at `$.to[0]`".
_MSGSPEC_PATH = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")

_UNWRITTEN = "cannot be written by pydantic"

# Adapters are dear to make and few: one for each class of objects that is ever sent.
_ADAPTERS = 512

# pydantic makes a dict of each error, at a microsecond and more; a large list may have 100,000.
_MAX_LISTED = 1000


Converter = Callable[[Any], Any]


class Conversion:
    """Between JSON and one annotation. `conversion(data)` reads, `conversion.pack(value)` writes.

    Args:
        annotation: of a payload or a result.
        field: what messages call it.

    Raises:
        TypeError: neither msgspec nor pydantic understands the annotation.
    """

    def __init__(self, annotation: Any, *, field: str = "payload") -> None:
        self.annotation = annotation
        self._field = field
        self._adapter: pydantic.TypeAdapter[Any] | None = None
        self._read: Callable[[Any], Any] = _identity
        if _is_pydantic(annotation) or (annotation is not Any and _is_beyond_msgspec(annotation)):
            self._adapter = make_adapter(annotation)
            self._read = partial(_read_by_pydantic, self._adapter, field)
        elif annotation is not Any:
            self._read = partial(_read_by_msgspec, annotation, field)

    def __call__(self, data: Any) -> Any:
        """The annotation's value of `data`, which is JSON as builtins.

        Raises:
            InvalidTask: naming the member; also where a check of the annotation's own raises
                anything else (see `contained`).
        """
        if self._read is _identity:
            return data
        with contained("its own check", field=self._field):
            return self._read(data)

    def pack(self, value: Any) -> tuple[Any, bytes]:
        """What is stored for `value`, which is JSON already or holds objects: as builtins, and
        encoded. It has been read by this conversion: it is valid.

        Raises:
            InvalidTask: it does not fit the annotation, or would not come back as it is.
        """
        with contained("writing it as JSON", field=self._field):
            try:
                plain = self._pack_plain(value)
            except InvalidTask as error:
                if not error.reason.startswith(UNWRITABLE):
                    raise  # no number, no text: that is so however objects in it are written
                plain = None
        if plain is not None:
            self(plain[0])
            return plain
        if self.annotation is Any and (own := _conversion_of(type(value), self._field)) is not None:
            return own.pack(value)
        refused: list[InvalidTask] = []
        for write in self._writers():
            try:
                with contained("writing it as JSON", field=self._field):
                    data = decode_json(encode_json(write(value), field=self._field))
                back = self(data)
                with contained("comparing it with what JSON brings back", field=self._field):
                    check_same(value, back, self._field, self.annotation)
            except InvalidTask as error:
                refused.append(error)
            else:
                return data, encode_json(data, field=self._field)
        # The first way is the one that the annotation asks for.
        first, last = refused[0], refused[-1]
        raise last if first.reason.startswith(_UNWRITTEN) else first

    def _pack_plain(self, value: Any) -> tuple[Any, bytes] | None:
        """For what is nothing but JSON already; None for all else."""
        if type(value) is msgspec.Raw:  # as it came over HTTP: there is no copy of it yet
            data = decode_json(bytes(value), field=self._field)
            return data, encode_json(data, field=self._field)
        encoded = encode_json(value, field=self._field)
        if value is None or type(value) in (str, bool):
            return value, encoded
        # What is stored must be what was checked, whatever the caller does to it next.
        data = decode_json(encoded, field=self._field)
        return (data, encoded) if data == value else None

    def _writers(self) -> Iterator[Callable[[Any], Any]]:
        if self._adapter is not None:
            for by_alias in (True, False):
                yield partial(_dump, self._adapter, self._field, by_alias)
        yield partial(to_json_types, field=self._field)


def _read_by_msgspec(annotation: Any, field: str, data: Any) -> Any:
    try:
        return msgspec.convert(data, annotation, str_keys=True)
    except msgspec.ValidationError as error:
        what, path = _split_path(str(error))
        raise InvalidTask(_lower_first(what), field=field + path) from None


def _read_by_pydantic(adapter: pydantic.TypeAdapter[Any], field: str, data: Any) -> Any:
    import pydantic

    try:
        # From JSON, where strict models take a string for a datetime or a UUID.
        return adapter.validate_json(msgspec.json.encode(data))
    except pydantic.ValidationError as error:
        if error.error_count() > _MAX_LISTED:
            what = f"has {error.error_count()} members that do not fit"
            raise InvalidTask(what, field=field) from None
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        # pydantic's prefix to what a validator of the model itself raised.
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidTask(_lower_first(what), field=field + path) from None


def make_converter(annotation: Any, *, field: str = "payload") -> Conversion:
    """See `Conversion`."""
    return Conversion(annotation, field=field)


def to_json_types(value: Any, *, field: str = "payload") -> Any:
    """`value` as dicts, lists, strings and numbers, each object by the rules of its own class. A
    pydantic secret is its real value: what is sent is sent whole. Objects that cannot become JSON
    pass through and are refused, by name, when they are encoded.

    Raises:
        InvalidTask: pydantic cannot write one of its own. Serializers may raise anything.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=partial(_plain, field))
    except (TypeError, ValueError):
        return value


# A subclass is what it is a subclass of, whatever its own methods make of it.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes),
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (Decimal, Decimal.__str__),
    (Mapping, dict),
    (list, list),
    (set, set),
)


def _plain(field: str, value: Any) -> Any:
    """One object that msgspec does not know."""
    for base, write in _BASES:
        if isinstance(value, base):
            return write(value)
    if hasattr(value, "get_secret_value"):
        return to_json_types(value.get_secret_value(), field=field)
    adapter = _adapter_of(cast("Hashable", type(value)))  # as mypy does not know
    if adapter is None:
        raise TypeError
    try:
        return _dump(adapter, field, True, value)
    except InvalidTask:
        if _is_pydantic(type(value)):
            raise
        raise TypeError from None  # it knows the class, but not as one that becomes JSON


def _dump(adapter: pydantic.TypeAdapter[Any], field: str, by_alias: bool, value: Any) -> Any:
    """As pydantic writes it to be read again, with what it hides in JSON."""
    import pydantic

    # round_trip leaves out computed fields, which a model that forbids extras refuses.
    options: Any = {"by_alias": by_alias, "round_trip": True, "warnings": "error"}
    try:
        written = adapter.dump_python(value, mode="json", **options)
        return _reveal(adapter.dump_python(value, mode="python", **options), written, field)
    except (pydantic.errors.PydanticUserError, ValueError) as error:
        # The first line says what; the others repeat the value, which may be a secret.
        said = str(error).partition("\n")[0]
        raise InvalidTask(f"{_UNWRITTEN}: {said}", field=field) from None


def _reveal(value: Any, written: Any, field: str) -> Any:
    """`written`, the JSON form of `value`, with the secrets themselves in place of asterisks."""
    if hasattr(value, "get_secret_value"):
        secret = value.get_secret_value()
        if isinstance(secret, bytes):
            return secret.decode()  # as pydantic reads it
        return to_json_types(secret, field=field)
    if isinstance(value, Mapping) and isinstance(written, dict) and len(value) == len(written):
        pairs = zip(value.values(), written.items(), strict=True)
        return {key: _reveal(member, other, field) for member, (key, other) in pairs}
    if (
        isinstance(value, list | tuple | set | frozenset)
        and isinstance(written, list)
        and len(value) == len(written)
    ):
        return [_reveal(*pair, field) for pair in zip(value, written, strict=True)]
    return written


def _conversion_of(kind: type, field: str) -> Conversion | None:
    """Of a class of objects where no annotation speaks for them; None for what is no such class."""
    # All classes with named members have the latter: dataclasses, Structs, attrs, NamedTuples.
    if not (_is_pydantic(kind) or hasattr(kind, "__match_args__")):
        return None
    return _cached_conversion(cast("Hashable", kind), field)


@lru_cache(_ADAPTERS)
def _cached_conversion(kind: Any, field: str) -> Conversion | None:
    try:
        return Conversion(kind, field=field)
    except TypeError:
        return None


@lru_cache(_ADAPTERS)
def _adapter_of(kind: Hashable) -> pydantic.TypeAdapter[Any] | None:
    """None where pydantic does not know this class either."""
    try:
        return make_adapter(kind)
    except TypeError:
        return None


def make_adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    name = getattr(annotation, "__name__", None) or str(annotation)
    try:
        import pydantic
    except ModuleNotFoundError:
        raise TypeError(f"{name} takes pydantic, which is not installed") from None
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
        # A model with a forward reference that nothing resolves is a mock until it is used.
        _ = adapter.validator.title
    except pydantic.errors.PydanticSchemaGenerationError:
        raise TypeError(f"{name} is, or contains, a type that JSON cannot become") from None
    except Exception as error:  # noqa: BLE001 - pydantic's own, and those of hooks for its schemas
        said = str(error).partition("\n")[0]
        raise TypeError(f"{name} cannot be used: {said}") from None
    return adapter


def _is_pydantic(annotation: Any) -> bool:
    return hasattr(annotation, "__pydantic_validator__")


def _is_beyond_msgspec(annotation: Any) -> bool:
    """Whether a class unknown to msgspec is somewhere in it. msgspec takes such a type without
    complaint, and refuses every value later."""
    try:
        left: list[Any] = [msgspec.inspect.type_info(annotation)]
    except (TypeError, NameError):
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


def _split_path(message: str) -> tuple[str, str]:
    found = _MSGSPEC_PATH.search(message)
    return (message[: found.start()], found["path"]) if found else (message, "")


def _identity(data: Any) -> Any:
    return data


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
