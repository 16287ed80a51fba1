"""What the engine needs of AWS: two queues and a table. Provisioning, templates and the doctor all
read it here; the table's own shape is in `dynamodb.schema`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from task_queue_engine.backends.aws.dynamodb.schema import check_table_name
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls, check_queue_url, urls_by_name
from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError

VISIBILITY_TIMEOUT: Final = 30
"""Seconds: for programs that receive without saying how long. The engine always says."""

MAX_RECEIVES: Final = 3
"""A message received so often without being settled is moved to the dead-letter queue."""

LONGEST_RETENTION: Final = 1_209_600
"""Seconds: 14 days, SQS's maximum. A dead letter's age counts from its first sending."""

QUEUE_ATTRIBUTES: Final = {
    "VisibilityTimeout": str(VISIBILITY_TIMEOUT),
    "MessageRetentionPeriod": str(LONGEST_RETENTION),
    "ReceiveMessageWaitTimeSeconds": "20",
}
DEAD_LETTER_ATTRIBUTES: Final = {"MessageRetentionPeriod": str(LONGEST_RETENTION)}

# 75 leaves room for "-dlq" (SQS: 80 characters); a table's name has 3 to 255.
_NAME = re.compile(r"[A-Za-z0-9_-]{3,75}", re.ASCII)

DEFAULT_NAME: Final = "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    queue: str
    dead: str
    table: str

    @classmethod
    def chosen(cls, name: str | None, settings: Settings) -> Self:
        """With `name` (default "tasks") for what the settings do not name already.

        Raises:
            ConfigurationError.
        """
        base = name or DEFAULT_NAME
        if not _NAME.fullmatch(base):
            raise ConfigurationError(
                f"must be 3 to 75 of A-Z, a-z, 0-9, _ and -, not {base[:100]!r}", variable="--name"
            )
        if name is None:
            queue = _name_in(settings.sqs_queue_url, "SQS_QUEUE_URL") or base
            dead = _name_in(settings.sqs_dlq_url, "SQS_DLQ_URL") or f"{queue}-dlq"
            if dead == queue:
                raise ConfigurationError("is the queue itself", variable="SQS_DLQ_URL")
            return cls(
                queue=queue, dead=dead, table=check_table_name(settings.dynamodb_table or base)
            )
        urls = urls_by_name(QueueUrls(f"/{base}", f"/{base}-dlq"), "default", settings.queue)
        return cls(queue=urls.queue[1:], dead=urls.dead[1:], table=base)


def _name_in(url: str | None, variable: str) -> str | None:
    return check_queue_url(url, variable=variable).rpartition("/")[2] if url else None


def make_redrive_policy(dead_letter_arn: Any) -> dict[str, Any]:
    return {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": MAX_RECEIVES}


# --- permissions ----------------------------------------------------------------------------

QUEUE_ACTIONS: Final = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
)
DEAD_LETTER_ACTIONS: Final = (*QUEUE_ACTIONS, "sqs:PurgeQueue")
TABLE_ACTIONS: Final = {
    "batch": (
        "dynamodb:BatchGetItem",
        "dynamodb:GetItem",
        "dynamodb:PartiQLDelete",
        "dynamodb:PartiQLInsert",
        "dynamodb:PartiQLUpdate",
        "dynamodb:UpdateItem",
    ),
    "single": (
        "dynamodb:BatchGetItem",
        "dynamodb:DeleteItem",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
    ),
}
INDEX_ACTIONS: Final = ("dynamodb:Query",)


def policy(
    *, queue_arn: str, dead_arn: str, table_arn: str, writes: str = "batch"
) -> dict[str, Any]:
    """The least that `tqe serve` needs, as an IAM policy document.

    Args:
        writes: TQE_DYNAMODB_WRITES.
    """

    def allow(sid: str, actions: tuple[str, ...], resource: str) -> dict[str, Any]:
        return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}

    return {
        "Version": "2012-10-17",
        "Statement": [
            allow("Queue", QUEUE_ACTIONS, queue_arn),
            allow("DeadLetterQueue", DEAD_LETTER_ACTIONS, dead_arn),
            allow("Table", TABLE_ACTIONS[writes], table_arn),
            allow("Indexes", INDEX_ACTIONS, f"{table_arn}/index/*"),
        ],
    }
