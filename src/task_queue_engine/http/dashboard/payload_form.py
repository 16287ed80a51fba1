"""A form for a payload, from the JSON schema of the type's annotation.

Members that are text, numbers, choices or yes and no get a field each; what is nested gets a text
area for its JSON, and where there is no schema the whole payload does. What the fields say is put
together to JSON and goes the way of every submission: the type itself checks it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from task_queue_engine.codec import decode_json
from task_queue_engine.errors import InvalidTask
from task_queue_engine.http.dashboard.site import Form, one
from task_queue_engine.payloads import make_adapter
from task_queue_engine.registry import TaskDefinition

Json = dict[str, Any]

# Members with a field each: beyond that JSON is the better form.
_MOST_FIELDS = 40
_SCALARS = ("string", "integer", "number", "boolean")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    name: str
    """The member's; empty: the whole payload."""
    kind: str
    """ "string", "integer", "number", "boolean", "choice", "json"."""
    required: bool
    choices: tuple[str, ...] = ()
    """Each as JSON."""
    description: str = ""
    default: str = ""
    """As the field shows it before anything was typed."""
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    nullable: bool = False

    @property
    def id(self) -> str:
        """Of the form's member. A dot is in no other member's name."""
        return f"payload.{self.name}" if self.name else "payload"

    @property
    def label(self) -> str:
        return self.name or "Payload"

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Of a choice: what is sent, and what is read."""
        return tuple((each, str(msgspec.json.decode(each))) for each in self.choices)


@dataclass(frozen=True, slots=True)
class PayloadForm:
    fields: tuple[FormField, ...]
    is_object: bool

    def payload(self, form: Form) -> Any:
        """Raises InvalidTask, naming the field."""
        if not self.is_object:
            (field,) = self.fields
            return _value(field, one(form, field.id))
        members = {}
        for field in self.fields:
            text = one(form, field.id)
            if field.kind != "boolean" and text == "" and not field.required:
                continue
            members[field.name] = _value(field, text)
        return members

    def field_of(self, path: str) -> FormField | None:
        """The one that an error's path ("payload.to[0]") points to."""
        fitting = [
            each
            for each in self.fields
            if path == each.id or path.startswith((f"{each.id}.", f"{each.id}["))
        ]
        return max(fitting, key=lambda each: len(each.id), default=None)


def _value(field: FormField, text: str) -> Any:
    if field.kind == "boolean":
        return text == "true"
    if field.kind == "json":
        if not text.strip():
            raise InvalidTask("is missing", field=field.id)
        return decode_json(text.encode(), field=field.id)
    if text == "" and field.nullable:
        return None
    if field.kind in ("integer", "number"):
        try:
            return int(text) if field.kind == "integer" else float(text)
        except ValueError:
            return text  # the type says in its own words what it wants
    if field.kind == "choice" and text in field.choices:
        return msgspec.json.decode(text)
    return text


def payload_form(definition: TaskDefinition, hidden: Collection[str] = ()) -> PayloadForm:
    """`hidden`: paths of `TQE_REDACT`. Such a text is typed unseen, and is not shown again."""
    form = _form(definition)
    fields = (replace(one, secret=one.secret or one.id in hidden) for one in form.fields)
    return replace(form, fields=tuple(fields))


def _form(definition: TaskDefinition) -> PayloadForm:
    try:
        schema, models = _schema(definition.payload_type)
    except Exception:  # noqa: BLE001 - hooks of models for their schemas may raise anything
        schema, models = {}, {}
    schema = _resolved(schema, models)
    members = schema.get("properties")
    if isinstance(members, dict) and 0 < len(members) <= _MOST_FIELDS:
        required = schema.get("required", ())
        return PayloadForm(
            tuple(
                _field(name, _resolved(member, models), models, required=name in required)
                for name, member in members.items()
            ),
            is_object=True,
        )
    return PayloadForm((_field("", schema, models, required=True),), is_object=False)


def _schema(annotation: Any) -> tuple[Json, Mapping[str, Json]]:
    if annotation is Any:
        return {}, {}
    try:
        (schema,), models = msgspec.json.schema_components([annotation])
    except TypeError:
        schema = make_adapter(annotation).json_schema(by_alias=True)
        models = schema.get("$defs", {})
    return schema, models


def _resolved(schema: Json, models: Mapping[str, Json]) -> Json:
    """Without the reference, for what is only one."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = models.get(str(reference).rpartition("/")[2], {})
    return found | {name: value for name, value in schema.items() if name != "$ref"}


def _field(name: str, schema: Json, models: Mapping[str, Json], *, required: bool) -> FormField:
    nullable = False
    choices = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(choices, list):
        others = [each for each in choices if each.get("type") != "null"]
        nullable = len(others) < len(choices)
        if len(others) == 1:
            schema = {**schema, **_resolved(others[0], models)}
    kind = schema.get("type")
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    default = schema.get("default")
    if values is not None:
        kind = "choice"
    elif kind not in _SCALARS:
        kind = "json"
    shown = ""
    if default is not None:
        is_text = isinstance(default, str) and kind not in ("json", "choice")
        shown = default if is_text else _written(default)
    return FormField(
        name=name,
        kind=str(kind),
        required=required,
        choices=tuple(_written(value) for value in values or () if value is not None),
        description=str(schema.get("description", "")) if name else "",
        default=shown,
        minimum=schema.get("minimum"),
        maximum=schema.get("maximum"),
        secret=schema.get("format") == "password",
        nullable=nullable,
    )


def _written(value: Any) -> str:
    return msgspec.json.encode(value).decode()
