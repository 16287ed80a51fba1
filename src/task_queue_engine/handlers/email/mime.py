"""From a payload to an Internet message (RFC 5322 and MIME)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP, compat32
from email.utils import format_datetime

from task_queue_engine.handlers.email import headers
from task_queue_engine.handlers.email.addresses import Address, parse_address
from task_queue_engine.handlers.email.payload import EmailPayload
from task_queue_engine.retry import Discard

_CONTENT = SMTP.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Mail:
    """A message as it is sent."""

    content: bytes
    """With CRLF line ends."""
    smtputf8: bool
    """An address in a header or the envelope is not ASCII: the server has to know SMTPUTF8."""


def message_id(task_id: str, sender: Address) -> str:
    """The same for all attempts of a task, so that one sent twice can be recognised downstream."""
    return f"<{task_id}@{sender.ascii_domain}>"


def compose(
    payload: EmailPayload, *, task_id: str, sender: Address, date: datetime, keep_bcc: bool = False
) -> Mail:
    """The message. Bodies are encoded to 7 bits, which every server takes as they are; headers too,
    but for a local part that is not ASCII (RFC 6532).

    Args:
        keep_bcc: name the blind copies in a header, for a mail that is stored, not yet sent.

    Raises Discard where reading the message back gives other headers or parts than were meant.
    """
    reply_to = [] if payload.reply_to is None else [payload.reply_to]
    fields = {"From": headers.mailboxes([sender]), "To": _mailboxes(payload.to)}
    if payload.cc:
        fields["Cc"] = _mailboxes(payload.cc)
    if payload.bcc and keep_bcc:
        fields["Bcc"] = _mailboxes(payload.bcc)
    if reply_to:
        fields["Reply-To"] = _mailboxes(reply_to)
    fields["Subject"] = headers.unstructured(payload.subject, after=len("Subject: "))
    fields["Date"] = format_datetime(date)
    fields["Message-ID"] = message_id(task_id, sender)
    # Keeps vacation responders from answering (RFC 3834).
    fields["Auto-Submitted"] = "auto-generated"

    body = _body(payload, task_id)
    content = b"".join(headers.field(name, value) for name, value in fields.items())
    content += body.as_bytes()
    _check(content, [*fields, *body.keys()], parts=len(list(body.walk())))
    addresses = [sender, *payload.recipients, *map(parse_address, reply_to)]
    return Mail(content, smtputf8=any(address.needs_smtputf8 for address in addresses))


def _mailboxes(texts: list[str]) -> str:
    return headers.mailboxes(map(parse_address, texts))


def _body(payload: EmailPayload, task_id: str) -> EmailMessage:
    """The part with what describes it: its headers hold nothing that comes from the payload."""
    body = EmailMessage(_CONTENT)
    text = payload.text
    if text is None and payload.html is None:
        text = f"This is an automatic message.\nTask: {task_id}\n"
    if text is not None:
        body.set_content(text)
        if payload.html is not None:
            body.add_alternative(payload.html, subtype="html")
    elif payload.html is not None:
        body.set_content(payload.html, subtype="html")
    return body


def _check(content: bytes, names: list[str], *, parts: int) -> None:
    """Look at what is going to be sent, as its reader will. Every header is written so that this
    holds; it is checked all the same, since what slips through goes out in the deployment's name.
    """
    read = BytesParser(policy=compat32).parsebytes(content)
    if read.keys() != names or len(list(read.walk())) != parts:
        raise Discard(f"the mail would have the headers {read.keys()}, where {names} are meant")
