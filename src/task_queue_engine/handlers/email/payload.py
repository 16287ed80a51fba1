"""What an `email` task is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from task_queue_engine.handlers.email.addresses import Address, check_header_text, parse_address

MAX_RECIPIENTS = 100
"""What every server has to take in one conversation (RFC 5321, section 4.5.3.1.8)."""

MAX_SUBJECT = 998
"""Characters; a line of a mail holds no more (RFC 5322, section 2.1.1)."""

DEFAULT_SUBJECT = "Notification"


def _address_text(value: str) -> str:
    parse_address(value)
    return value


def _header_text(value: str) -> str:
    check_header_text(value)
    return value


def _body_text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("contains a NUL character, which mail cannot carry (RFC 5321)")
    return value


def _one_or_many(value: Any) -> Any:
    # Checked here and not only as a list's member, so that an error says `to`, not `to[0]`.
    return [_address_text(value)] if isinstance(value, str) else value


AddressText = Annotated[str, AfterValidator(_address_text), Field(examples=["user@example.com"])]
Addresses = Annotated[
    list[AddressText],
    Field(max_length=MAX_RECIPIENTS),
    BeforeValidator(_one_or_many),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "examples": ["Ada <ada@example.com>"]},
                {"type": "array", "items": {"type": "string"}},
            ]
        }
    ),
]
BodyText = Annotated[str, AfterValidator(_body_text)]


class EmailPayload(BaseModel):
    """A mail to send: an address alone, or an object.

    ``"user@example.com"`` is short for ``{"to": "user@example.com"}``. Addresses may carry a name:
    ``"Ada Lovelace <ada@example.com>"``. With both `text` and `html` the mail holds both
    (multipart/alternative); with neither, a line that names the task. The sender is the
    deployment's (`SMTP_FROM`), not the submitter's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    to: Addresses = Field(min_length=1, description="One address or several.")
    cc: Addresses = Field(default=[], description="Copies, named in the mail.")
    bcc: Addresses = Field(default=[], description="Copies, not named in the mail.")
    subject: Annotated[str, AfterValidator(_header_text)] = Field(
        default=DEFAULT_SUBJECT, max_length=MAX_SUBJECT
    )
    text: BodyText | None = Field(default=None, description="The body as plain text.")
    html: BodyText | None = Field(default=None, description="The body as HTML.")
    reply_to: AddressText | None = Field(default=None, description="Where answers should go.")

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"to": [_address_text(data)]}
        if not isinstance(data, Mapping | EmailPayload):
            raise ValueError("is neither an address nor an object with `to`")
        return data

    @model_validator(mode="after")
    def _not_too_many(self) -> EmailPayload:
        if len(self.recipients) > MAX_RECIPIENTS:
            raise ValueError(
                f"has {len(self.recipients)} recipients in to, cc and bcc; "
                f"one mail takes {MAX_RECIPIENTS}"
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "anyOf": [
                {"type": "string", "format": "email", "examples": ["user@example.com"]},
                handler.resolve_ref_schema(handler(core_schema)),
            ]
        }

    @property
    def recipients(self) -> list[Address]:
        """All of to, cc and bcc, each mailbox once."""
        addresses = map(parse_address, (*self.to, *self.cc, *self.bcc))
        return list({address.envelope: address for address in addresses}.values())
