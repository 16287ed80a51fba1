"""Task type `email`: through an SMTP server, or into an outbox folder while none is configured.

The handler is a plain `def`: smtplib blocks, so the engine runs it in a thread. Such a thread
stops between two steps of the conversation; within a step it waits `SMTP_TIMEOUT` at most.
"""

from __future__ import annotations

from task_queue_engine.clock import SystemClock
from task_queue_engine.context import SyncTaskContext
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.email import outbox
from task_queue_engine.handlers.email.addresses import Address, parse_address
from task_queue_engine.handlers.email.payload import EmailPayload
from task_queue_engine.handlers.email.receipt import EmailReceipt
from task_queue_engine.handlers.email.settings import EmailSettings
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Backoff, Retry

tasks = TaskRegistry()


@tasks.task(
    "email",
    max_attempts=5,
    timeout=300,
    # Reaches past the minutes for which greylisting servers turn a new sender away.
    backoff=Backoff(base=15, factor=4, cap=900),
    on_error={ConfigurationError: None},
)
def send_email(payload: EmailPayload, context: SyncTaskContext) -> EmailReceipt:
    """Send one mail.

    Returns once the server (or the disk) has it. Temporary trouble is retried; what the server
    refuses for good fails the task at once.

    Raises:
        Retry, Discard: see `smtp.deliver`; a full disk or outbox is retried.
        ConfigurationError: a wrong `SMTP_*` variable, an outbox that cannot be used; not retried.
    """
    settings = EmailSettings()
    sender = parse_address(settings.sender)
    if settings.host is None:
        return _to_outbox(payload, context, settings, sender)
    return _to_server(payload, context, settings, sender)


def _to_server(
    payload: EmailPayload, context: SyncTaskContext, settings: EmailSettings, sender: Address
) -> EmailReceipt:
    # Only here, and below: with them comes all of Python's mail, which most starts do not need.
    from task_queue_engine.handlers.email import mime, smtp

    now = SystemClock().now()
    mail = mime.compose(payload, task_id=context.task_id, sender=sender, date=now)
    delivery = smtp.deliver(
        settings,
        mail.content,
        sender=sender.envelope,
        recipients=[recipient.envelope for recipient in payload.recipients],
        smtputf8=mail.smtputf8,
        last_attempt=context.retry_count + 1 >= context.max_attempts,
        check_cancelled=context.check_cancelled,
    )
    return EmailReceipt(
        message_id=mime.message_id(context.task_id, sender),
        transport="smtp",
        accepted=delivery.accepted,
        refused=delivery.refused,
        response=delivery.response,
    )


def _to_outbox(
    payload: EmailPayload, context: SyncTaskContext, settings: EmailSettings, sender: Address
) -> EmailReceipt:
    from task_queue_engine.handlers.email import mime

    now = SystemClock().now()
    mail = mime.compose(payload, task_id=context.task_id, sender=sender, date=now, keep_bcc=True)
    try:
        path, duplicate = outbox.write(
            settings.outbox,
            mail.content.replace(b"\r\n", b"\n"),
            task_id=context.task_id,
            attempt=context.attempt,
            limits=settings.folder_limits(),
        )
    except OSError as error:
        raise Retry(reason=f"TQE_OUTBOX {settings.outbox}: {error.strerror}") from error
    return EmailReceipt(
        message_id=mime.message_id(context.task_id, sender),
        transport="outbox",
        accepted=[recipient.envelope for recipient in payload.recipients],
        path=str(path),
        duplicate=duplicate,
    )
