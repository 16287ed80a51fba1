"""From a payload to an Internet message (RFC 5322 and MIME)."""

from __future__ import annotations

from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from task_queue_engine.handlers.email.addresses import Address, parse_address
from task_queue_engine.handlers.email.payload import EmailPayload


def message_id(task_id: str, sender: Address) -> str:
    """The same for all attempts of a task, so that one sent twice can be recognised downstream."""
    return f"<{task_id}@{sender.ascii_domain}>"


def compose(
    payload: EmailPayload, *, task_id: str, sender: Address, date: datetime, keep_bcc: bool = False
) -> EmailMessage:
    """The message. Bodies are encoded to 7 bits, which every server takes as they are.

    Args:
        keep_bcc: name the blind copies in a header, for a mail that is stored, not yet sent.
    """
    addresses = [sender, *payload.recipients]
    # Headers become UTF-8 (RFC 6532) only where an address leaves no other way.
    international = any(address.needs_smtputf8 for address in addresses)
    message = EmailMessage(SMTP.clone(cte_type="7bit", utf8=international))
    message["From"] = sender.header
    message["To"] = _header(payload.to)
    if payload.cc:
        message["Cc"] = _header(payload.cc)
    if payload.bcc and keep_bcc:
        message["Bcc"] = _header(payload.bcc)
    if payload.reply_to is not None:
        message["Reply-To"] = _header([payload.reply_to])
    message["Subject"] = payload.subject
    message["Date"] = format_datetime(date)
    message["Message-ID"] = message_id(task_id, sender)
    # Keeps vacation responders from answering (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"

    text = payload.text
    if text is None and payload.html is None:
        text = f"This is an automatic message.\nTask: {task_id}\n"
    if text is not None:
        message.set_content(text)
        if payload.html is not None:
            message.add_alternative(payload.html, subtype="html")
    elif payload.html is not None:
        message.set_content(payload.html, subtype="html")
    return message


def _header(texts: list[str]) -> tuple[object, ...]:
    return tuple(parse_address(text).header for text in texts)
