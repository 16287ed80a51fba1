"""What is sent is what was meant: no text of a payload becomes a header, a body or an error."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from task_queue_engine.errors import InvalidTask
from task_queue_engine.handlers import registry
from task_queue_engine.handlers.email import mime
from task_queue_engine.handlers.email.addresses import parse_address
from task_queue_engine.handlers.email.mime import Mail, compose
from task_queue_engine.handlers.email.payload import EmailPayload
from task_queue_engine.retry import Discard
from tests.sizes import size

ENCODED = "=?utf-8?q?Hi=0D=0ABcc:_evil@example.com=0D=0A=0D=0Abody?="

# Of what encoded words, folding, quoting and line ends are made.
PIECES = [
    *(
        "=?utf-8?q?",
        "=?us-ascii?b?",
        "=?utf-8*de?Q?",
        "=0D=0A",
        "DQpCY2M6IHhAeS56",
        "?=",
        "=?",
        "?",
    ),
    *("Bcc: x@example.com", "Bcc:_x@example.com", ": ", " ", "  ", "\t", "\r", "\n", "\r\n", "\0"),
    *(
        '"',
        "\\",
        '\\"',
        ",",
        ";",
        "<",
        ">",
        "(",
        ")",
        "@",
        ".",
        "'",
        "a",
        "ü",
        "例",
        "😀",
        "\ud800",
    ),
    *("\x85", "\u2028", "\x0b", "\x1c", "\u202e", "\xa0", "\ufeff", "x" * 80, "é" * 80),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)
LOCAL_PARTS = st.sampled_from(["a", "jörg", "=?utf-8?q?a?=", "用户", "a.b+c"]) | TEXTS
DOMAINS = st.sampled_from(["example.com", "bücher.example", "例え.jp", "xn--0.pt"])
MAILBOXES = st.builds(
    lambda name, local, domain: f"{name} <{local}@{domain}>" if name else f"{local}@{domain}",
    TEXTS | TEXTS.map(lambda name: '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'),
    LOCAL_PARTS,
    DOMAINS,
)


def accept(data: Any) -> EmailPayload:
    payload = registry.get("email").convert_payload(data)
    assert isinstance(payload, EmailPayload)
    return payload


def composed(payload: EmailPayload) -> Mail:
    return compose(
        payload,
        task_id="01900000-0000-7000-8000-000000000001",
        sender=parse_address("Queue <queue@example.org>"),
        date=datetime(2030, 1, 2, tzinfo=UTC),
        keep_bcc=True,
    )


def decoded(value: str) -> str:
    """As a mail program shows it."""
    return str(make_header(decode_header(re.sub(r"\r?\n(?=[ \t])", "", value))))


def bodies(message: Message) -> list[str]:
    parts = [part for part in message.walk() if not part.is_multipart()]
    payloads = [part.get_payload(decode=True) for part in parts]
    return [lines(payload.decode()) for payload in payloads if isinstance(payload, bytes)]


def lines(text: str) -> str:
    return re.sub(r"\r\n?|\n", "\n", text).removesuffix("\n")


@given(
    to=st.lists(MAILBOXES, min_size=1, max_size=3),
    bcc=st.lists(MAILBOXES, max_size=2),
    reply_to=st.none() | MAILBOXES,
    subject=TEXTS,
    text=st.none() | TEXTS,
    html=st.none() | TEXTS,
)
@example(["a@example.com"], [], None, ENCODED, "x", None)
@example([f"{ENCODED} <a@example.com>"], [], None, "x", "x", None)
@example([f'"{ENCODED}" <a@example.com>'], [], f"{ENCODED} <r@example.com>", "x", "x", None)
@example(["a@example.com"], [], "jörg@example.com", "x" * 998, "\r.\r\n\r\n", "\n")
@example(["a@example.com"], [], None, "word " * 199 + "end", "From me", None)
@settings(max_examples=size(150, in_full=5_000), deadline=None)
def test_only_the_headers_meant_are_sent_and_say_what_was_given(
    to: list[str], bcc: list[str], reply_to: str | None, subject: str, text: str | None, html: Any
) -> None:
    data = {"to": to, "bcc": bcc, "reply_to": reply_to, "subject": subject}
    try:
        payload = accept({**data, "text": text, "html": html})
    except InvalidTask:
        return
    content = composed(payload).content
    assert all(len(line) <= 998 for line in content.split(b"\r\n"))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)

    read = message_from_bytes(content)
    meant = ["From", "To", "Bcc", "Reply-To", "Subject", "Date", "Message-ID", "Auto-Submitted"]
    left_out = {"Bcc"} if not bcc else set()
    left_out |= {"Reply-To"} if reply_to is None else set()
    names = [name for name in read.keys() if not name.startswith(("Content-", "MIME-"))]  # noqa: SIM118
    assert names == [name for name in meant if name not in left_out]

    # Not by the message's own attributes: they would show what a parser made of the bytes.
    head = content.partition(b"\r\n\r\n")[0].decode()
    raw = dict(re.findall(r"^([\w-]+): ?((?:[^\r\n]|\r\n[ \t])*)", head, re.M))
    assert decoded(raw["Subject"]) == subject
    if all(parse_address(one).display_name == "" for one in to):
        shown = [f"{a.local_part}@{a.ascii_domain}" for a in map(parse_address, to)]
        assert re.split(r",\r\n ", raw["To"]) == shown

    expected = [lines(body) for body in (text, html) if body is not None]
    if expected:
        assert bodies(read) == expected


@pytest.mark.parametrize(
    "name",
    [
        ENCODED,
        "Lovelace, Ada",
        'a "b" \\ c',
        "Jörg",
        "=?x",
        "ü" * 200,
        "x" * 200,
        "J. Smith",
        "例え 😀",
    ],
)
def test_names_reach_the_reader_as_they_were_given(name: str) -> None:
    escaped = re.sub(r'(["\\])', r"\\\1", name)
    content = composed(accept({"to": [f'"{escaped}" <a@example.com>', "b@example.com"]})).content
    first, second = str(message_from_bytes(content)["To"]).split(",\r\n ")
    shown, _, address = first.rpartition(" ")
    quoted = re.fullmatch(r'"(.*)"', shown)
    assert (re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else decoded(shown)) == name
    assert quoted is None or "=?" not in shown  # some readers decode within quotes too
    assert (address, second) == ("<a@example.com>", "b@example.com")


def test_subjects_are_readable_in_the_raw_mail_where_they_can_be() -> None:
    subject = "Your order of 12 books has been sent and will arrive on Thursday, before noon (CET)"
    head = composed(accept({"to": "a@example.com", "subject": subject})).content
    assert b"Subject: Your order of 12 books has been sent and" in head
    assert (
        b"arrive\r\n on" in head or b"\r\n " in head.partition(b"Subject")[2].partition(b"Date")[0]
    )


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
def test_any_address_that_is_not_ascii_asks_for_smtputf8(field: str) -> None:
    assert composed(accept({"to": "a@example.com", field: "jörg@example.com"})).smtputf8
    assert not composed(accept({"to": "a@example.com", field: "joerg@bücher.example"})).smtputf8


def test_an_encoded_word_for_a_local_part_is_refused() -> None:
    with pytest.raises(InvalidTask, match="encoded word"):
        accept("=?utf-8?q?a?=@example.com")


@pytest.mark.parametrize("field", ["text", "html"])
def test_a_lone_surrogate_in_a_body_is_refused(field: str) -> None:
    with pytest.raises(InvalidTask, match="lone surrogate") as refused:
        registry.get("email").convert_payload.pack({"to": "a@example.com", field: "a\ud800"})
    assert refused.value.field == f"payload.{field}"


def test_a_mail_that_reads_otherwise_than_meant_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A defect in how headers are written, as the standard library had one.
    monkeypatch.setattr(
        mime.headers, "unstructured", lambda text, after: "Hi\r\nBcc: x@example.com"
    )
    with pytest.raises(Discard, match="Bcc"):
        composed(accept("a@example.com"))
