"""One mail through one SMTP conversation (RFC 5321), step by step.

The steps are driven one at a time, not through `smtplib.sendmail`: that keeps the server's last
answer (its queue id), allows stopping between any two of them, and leaves it to this module what a
refused recipient means.
"""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from task_queue_engine.handlers.email.receipt import Refusal
from task_queue_engine.handlers.email.settings import EmailSettings
from task_queue_engine.retry import Discard, Retry

# Characters of a reply that are stored; RFC 5321 limits a line of one to 512.
_MAX_REPLY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpDelivery:
    """The server has taken the mail for `accepted`."""

    accepted: list[str]
    refused: list[Refusal]
    response: str
    """The server's answer to the mail, usually with the id it is queued under."""


def deliver(
    settings: EmailSettings,
    message: bytes,
    *,
    sender: str,
    recipients: Sequence[str],
    smtputf8: bool,
    last_attempt: bool,
    check_cancelled: Callable[[], None],
) -> SmtpDelivery:
    """Hand `message` to the server at `settings.host`.

    Where the server refuses some recipients for good, the others get their mail. Where it refuses
    some for now (greylisting), none gets it until the task's last attempt: sending to the others
    first would send to them again with every retry.

    Args:
        message: with CRLF line ends.
        sender, recipients: bare addresses for the envelope.
        smtputf8: an address is not ASCII; the server has to know SMTPUTF8 (RFC 6531).
        check_cancelled: called between steps; may raise.

    Raises:
        Retry: no connection, a timeout, a 4xx reply. After the mail itself was sent, a lost
            connection leaves open whether it was taken: the retry carries the same Message-ID.
        Discard: a 5xx reply, login refused, a certificate that does not verify, STARTTLS or
            SMTPUTF8 not offered.
    """
    with _verdicts(settings), _connect(settings) as smtp:
        check_cancelled()
        if settings.username is not None and settings.password is not None:
            smtp.login(settings.username, settings.password.get_secret_value())
            check_cancelled()
        options = ["SMTPUTF8", "BODY=8BITMIME"] if smtputf8 else []
        if smtp.has_extn("size"):
            options.append(f"SIZE={len(message)}")
        code, reply = smtp.mail(sender, options)
        if code != 250:
            raise smtplib.SMTPSenderRefused(code, reply, sender)

        accepted: list[str] = []
        refused: list[Refusal] = []
        for recipient in recipients:
            check_cancelled()
            code, reply = smtp.rcpt(recipient)
            if code == 421:  # the server is closing the connection
                raise smtplib.SMTPResponseException(code, reply)
            if code in (250, 251):
                accepted.append(recipient)
            else:
                refused.append(Refusal(address=recipient, code=code, message=_text(reply)))
        _decide(accepted, refused, last_attempt=last_attempt)

        check_cancelled()
        code, reply = smtp.data(message)
        if code != 250:
            raise smtplib.SMTPDataError(code, reply)
        with contextlib.suppress(OSError):  # the mail is accepted; a failed QUIT changes nothing
            smtp.quit()
    return SmtpDelivery(accepted=accepted, refused=refused, response=f"{code} {_text(reply)}")


def _decide(accepted: list[str], refused: list[Refusal], *, last_attempt: bool) -> None:
    """Go on to send the mail, or raise."""
    listed = "; ".join(f"{one.address}: {one.code} {one.message}" for one in refused)
    temporary = any(one.code < 500 for one in refused)
    if temporary and not (last_attempt and accepted):
        raise Retry(reason=f"recipients refused for now: {listed}")
    if not accepted:
        raise Discard(f"all recipients refused: {listed}")


@contextlib.contextmanager
def _connect(settings: EmailSettings) -> Iterator[smtplib.SMTP]:
    host = settings.host or ""
    tls = ssl.create_default_context()
    smtp: smtplib.SMTP
    if settings.security == "tls":
        smtp = smtplib.SMTP_SSL(host, settings.smtp_port, timeout=settings.timeout, context=tls)
    else:
        smtp = smtplib.SMTP(host, settings.smtp_port, timeout=settings.timeout)
    try:
        smtp.ehlo_or_helo_if_needed()
        if settings.security == "starttls":
            # Never falls back to clear text: an attacker who strips STARTTLS could read along.
            code, reply = smtp.starttls(context=tls)
            if code != 220:
                raise smtplib.SMTPResponseException(code, reply)
            smtp.ehlo_or_helo_if_needed()
        yield smtp
    finally:
        smtp.close()


@contextlib.contextmanager
def _verdicts(settings: EmailSettings) -> Iterator[None]:
    """Errors of the conversation become Retry or Discard."""
    server = f"SMTP server {settings.host}:{settings.smtp_port}"
    try:
        yield
    except smtplib.SMTPResponseException as error:
        said = f"{server}: {error.smtp_code} {_text(error.smtp_error)}"
        if 500 <= error.smtp_code < 600:
            raise Discard(said) from error
        raise Retry(reason=said) from error
    except smtplib.SMTPNotSupportedError as error:
        raise Discard(f"{server}: {error}") from error
    except ssl.SSLCertVerificationError as error:
        raise Discard(f"{server}: its certificate does not verify: {error}") from error
    except OSError as error:  # smtplib's other errors among them
        raise Retry(reason=f"{server}: {str(error) or type(error).__name__}") from error


def _text(reply: bytes | str) -> str:
    """A server's reply on one line, fit to be stored."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:_MAX_REPLY]
