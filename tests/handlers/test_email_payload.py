"""What a submission of type `email` is refused for, and what the mail then looks like."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest

from task_queue_engine.errors import InvalidTask
from task_queue_engine.handlers import registry
from task_queue_engine.handlers.email import payload as email_payload
from task_queue_engine.handlers.email.addresses import Address, parse_address
from task_queue_engine.handlers.email.mime import compose
from task_queue_engine.handlers.email.payload import EmailPayload
from task_queue_engine.payloads import to_json_types

TASK_ID = "01900000-0000-7000-8000-000000000001"


def accept(data: Any) -> EmailPayload:
    payload = registry.get("email").convert_payload(data)
    assert isinstance(payload, EmailPayload)
    return payload


def mail(data: Any, **options: Any) -> EmailMessage:
    composed = compose(
        accept(data),
        task_id=TASK_ID,
        sender=parse_address("Queue <queue@example.org>"),
        date=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        **options,
    )
    parsed = message_from_bytes(composed.content, policy=default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def test_an_address_alone_is_short_for_an_object() -> None:
    assert accept("user@example.com") == accept({"to": "user@example.com"})
    assert accept("user@example.com") == accept({"to": ["user@example.com"]})


def test_a_payload_survives_being_stored_and_read_again() -> None:
    payload = accept({"to": "a@example.com", "text": "x", "reply_to": "Ada <ada@example.com>"})
    assert accept(to_json_types(payload)) == payload


@pytest.mark.parametrize(
    "address",
    [
        "user@example.com",
        "user+tag@example.com",
        "Ada Lovelace <ada@example.com>",
        '"Lovelace, Ada" <ada@example.com>',
        "Jörg Müller <joerg@example.com>",
        "user@exämple.de",
        "jörg@example.com",
        "用户@例え.jp",
        "root@localhost",
        "user@mail.corp.local",
    ],
)
def test_these_are_addresses(address: str) -> None:
    assert accept(address).recipients


@pytest.mark.parametrize(
    "address",
    [
        "",
        "user",
        "user@",
        "@example.com",
        "a b@example.com",
        "a@example.com, b@example.com",
        "a@b@example.com",
        "Ada <ada@example.com> <b@example.com>",
        "Ada <ada@example.com",
        "a@-example.com",
        "x" * 65 + "@example.com",
        "x" * 10_000,
    ],
)
def test_these_are_not(address: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        accept(address)
    assert refused.value.field == "payload"
    with pytest.raises(InvalidTask) as refused:
        accept({"to": ["good@example.com", address]})
    assert refused.value.field == "payload.to[1]"


INJECTIONS = [
    "\r\nBcc: x@example.com",
    "\nBcc: x@example.com",
    "\rX: y",
    "\0",
    "\u2028X: y",
    "\x0b",
]


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "subject"])
def test_header_injection_is_refused_and_names_the_field(field: str, injection: str) -> None:
    for evil in (f"user@example.com{injection}", f"A{injection} <user@example.com>"):
        with pytest.raises(InvalidTask, match="control character") as refused:
            accept({"to": "user@example.com", field: evil})
        assert refused.value.field == f"payload.{field}"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (None, "payload"),
        (7, "payload"),
        (["user@example.com"], "payload"),
        ({}, "payload.to"),
        ({"to": []}, "payload.to"),
        ({"to": None}, "payload.to"),
        ({"to": "a@example.com", "from": "b@example.com"}, "payload.from"),
        ({"to": "a@example.com", "subject": 7}, "payload.subject"),
        ({"to": "a@example.com", "subject": "x" * 999}, "payload.subject"),
        ({"to": "a@example.com", "text": "a\0b"}, "payload.text"),
        ({"to": "a@example.com", "html": ["x"]}, "payload.html"),
        ({"to": "a@example.com", "reply_to": ["b@example.com"]}, "payload.reply_to"),
        ({"to": [f"u{i}@example.com" for i in range(101)]}, "payload.to"),
        (
            {
                "to": [f"u{i}@example.com" for i in range(60)],
                "bcc": [f"v{i}@example.com" for i in range(60)],
            },
            "payload",
        ),
    ],
)
def test_a_bad_payload_names_its_field(data: Any, field: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        accept(data)
    assert refused.value.field == field


def test_huge_payloads_are_refused_without_checking_every_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[str] = []

    def counting(text: str) -> Address:
        checked.append(text)
        return parse_address(text)

    monkeypatch.setattr(email_payload, "parse_address", counting)
    with pytest.raises(InvalidTask):
        accept({"to": [f"user{i}@example.com" for i in range(10_000)]})
    assert len(checked) < 200


def test_the_schema_shows_both_forms() -> None:
    short, full = EmailPayload.model_json_schema()["anyOf"]
    assert short["type"] == "string"
    assert full["required"] == ["to"]
    assert {"to", "cc", "bcc", "subject", "text", "html", "reply_to"} == set(full["properties"])


def test_headers() -> None:
    message = mail(
        {
            "to": ["Ada <ada@example.com>", "b@example.com"],
            "cc": "c@example.com",
            "bcc": "secret@example.com",
            "subject": "Grüße",
            "text": "hello",
            "reply_to": "Desk <desk@example.com>",
        }
    )
    assert message["From"] == "Queue <queue@example.org>"
    assert message["To"] == "Ada <ada@example.com>, b@example.com"
    assert message["Cc"] == "c@example.com"
    assert message["Reply-To"] == "Desk <desk@example.com>"
    assert message["Subject"] == "Grüße"
    assert message["Message-ID"] == f"<{TASK_ID}@example.org>"
    assert message["Date"].datetime == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert message["Auto-Submitted"] == "auto-generated"
    assert "secret" not in message.as_string()


def test_text_and_html_are_alternatives_with_text_first() -> None:
    message = mail({"to": "a@example.com", "text": "plain ü", "html": "<b>rich ü</b>"})
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert [part.get_content().strip() for part in message.iter_parts()] == [
        "plain ü",
        "<b>rich ü</b>",
    ]


def test_html_alone_and_nothing_at_all() -> None:
    assert mail({"to": "a@example.com", "html": "<i>x</i>"}).get_content_type() == "text/html"
    empty = mail("a@example.com")
    assert empty["Subject"] == "Notification"
    assert TASK_ID in empty.get_content()


@pytest.mark.parametrize("text", ["ü", "ü\n" + "x" * 5000, "x" * 5000])
def test_the_message_is_seven_bit_with_short_lines(text: str) -> None:
    composed = compose(
        accept({"to": "Jörg <a@exämple.de>", "subject": "ü" * 300, "text": text}),
        task_id=TASK_ID,
        sender=parse_address("queue@example.org"),
        date=datetime(2030, 1, 1, tzinfo=UTC),
    )
    content = composed.content
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"a@xn--exmple-cua.de" in content
