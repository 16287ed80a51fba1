"""Creating the queues and the table, and what differs from what is wanted; doing it twice changes
nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import botocore.exceptions

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.preflight.checks import check_access, check_regions
from task_queue_engine.backends.aws.provisioning.resources import (
    DEAD_LETTER_ATTRIBUTES,
    QUEUE_ATTRIBUTES,
    Names,
    make_redrive_policy,
)
from task_queue_engine.backends.aws.provisioning.session import (
    AdminSession,
    botocore_errors_explained,
    code_of,
)
from task_queue_engine.backends.aws.sqs.queue_urls import region_of
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of
from task_queue_engine.backends.aws.wire.explanations import clock_trouble
from task_queue_engine.config import Settings
from task_queue_engine.errors import BackendRefused

# Waiting for a table: seconds between looks, and looks. Filling a new index takes minutes.
_DELAY, _TRIES = 2, 150


class Action(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    KEPT = "as it should be"
    DELETED = "deleted"
    ABSENT = "not there"


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, or in a dry run would be done, about one thing."""

    resource: str
    """"queue tasks", "index status-index of table tasks"."""
    action: Action
    detail: str = ""


@dataclass(slots=True)
class Provisioned:
    steps: list[Step] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    """The variables that `tqe serve` needs. Without the queues' URLs in a dry run that would
    create them."""


async def preflight(names: Names, settings: Settings, *, named: bool) -> str:
    """Before anything is created: region, credentials and endpoints are as they have to be.

    Args:
        named: the names are not those of the settings, so their URLs' region does not matter.

    Returns:
        The region.

    Raises:
        ConfigurationError, BackendRefused, BackendUnavailable: with the words that `tqe serve` has
            for it.
    """
    urls = (
        []
        if named
        else [
            (url, variable)
            for url, variable in (
                (settings.sqs_queue_url, "SQS_QUEUE_URL"),
                (settings.sqs_dlq_url, "SQS_DLQ_URL"),
            )
            if url
        ]
    )
    region = settings.aws_region or next((region_of(url) for url, _ in urls), None)
    client = AwsClient(region=region)
    async with client.open():
        check_regions(client, urls)
        await check_access(client, queue=names.queue, table=names.table)
        offset = client.statistics().clock_offset
        if offset:
            # boto3 does not sign for another clock than ours.
            raise BackendRefused(clock_trouble(offset))
        return client.region


def provision(session: AdminSession, names: Names, *, dry_run: bool = False) -> Provisioned:
    """
    Raises:
        BackendRefused: no permission, or something else has one of these names.
        BackendUnavailable: AWS cannot be reached.
    """
    done = Provisioned()
    with botocore_errors_explained():
        dead = _queue(session, names.dead, DEAD_LETTER_ATTRIBUTES, done.steps, dry_run)
        wanted = dict(QUEUE_ATTRIBUTES)
        if dead is not None:
            arn = _attributes(session, dead)["QueueArn"]
            wanted["RedrivePolicy"] = json.dumps(make_redrive_policy(arn))
        queue = _queue(session, names.queue, wanted, done.steps, dry_run)
        _table(session, names.table, done.steps, dry_run)
    done.environment = _environment(session, queue, dead, names.table)
    return done


def delete(session: AdminSession, names: Names, *, dry_run: bool = False) -> list[Step]:
    """The queues with all messages, the table with all tasks.

    Raises:
        BackendRefused, BackendUnavailable.
    """
    steps: list[Step] = []
    with botocore_errors_explained():
        for name in (names.queue, names.dead):
            url = _find_queue(session, name)
            if url is not None and not dry_run:
                session.sqs.delete_queue(QueueUrl=url)
            steps.append(Step(f"queue {name}", Action.DELETED if url else Action.ABSENT))
        found = _describe_table(session, names.table)
        if found is not None and not dry_run:
            session.dynamodb.delete_table(TableName=names.table)
            _wait(session, "table_not_exists", names.table)
        steps.append(Step(f"table {names.table}", Action.DELETED if found else Action.ABSENT))
    return steps


# --- queues ---------------------------------------------------------------------------------


def _queue(
    session: AdminSession, name: str, wanted: Mapping[str, str], steps: list[Step], dry_run: bool
) -> str | None:
    """Its URL; None where a dry run would create it."""
    resource = f"queue {name}"
    url = _find_queue(session, name)
    if url is None:
        steps.append(Step(resource, Action.CREATED))
        if dry_run:
            return None
        return str(session.sqs.create_queue(QueueName=name, Attributes=wanted)["QueueUrl"])
    different = differences(_attributes(session, url), wanted)
    if different and not dry_run:
        session.sqs.set_queue_attributes(
            QueueUrl=url, Attributes={key: wanted[key] for key in different}
        )
    detail = ", ".join(f"{key}: {was or 'none'}" for key, was in different.items())
    steps.append(
        Step(resource, Action.CHANGED if different else Action.KEPT, detail and f"was {detail}")
    )
    return url


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What is there in place of what is wanted, by attribute.

    SQS tells every attribute but a redrive policy that is not set; a local server that tells less
    does not have it, and it would be set again every time.
    """
    return {
        key: found.get(key, "")
        for key, value in wanted.items()
        if (key in found or key == "RedrivePolicy")
        and _comparable(found.get(key, "")) != _comparable(value)
    }


def _comparable(value: str) -> Any:
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    if isinstance(parsed, dict):  # maxReceiveCount comes back as text or as a number
        return {key: str(member) for key, member in parsed.items()}
    return parsed


def _find_queue(session: AdminSession, name: str) -> str | None:
    try:
        return str(session.sqs.get_queue_url(QueueName=name)["QueueUrl"])
    except botocore.exceptions.ClientError as error:
        if meaning_of(code_of(error)) & Meaning.QUEUE_MISSING:
            return None
        raise


def _attributes(session: AdminSession, url: str) -> dict[str, str]:
    answer = session.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    return dict(answer["Attributes"])


# --- the table ------------------------------------------------------------------------------


def _table(session: AdminSession, name: str, steps: list[Step], dry_run: bool) -> None:
    resource = f"table {name}"
    wanted = schema.create_table_parameters(name)
    found = _describe_table(session, name)
    if found is None:
        steps.append(Step(resource, Action.CREATED))
        if dry_run:
            return
        session.dynamodb.create_table(**wanted)
        _wait(session, "table_exists", name)
    else:
        check_keys(found, wanted)
        steps.append(Step(resource, Action.KEPT))
        _indexes(session, name, found, wanted, steps, dry_run)
    _time_to_live(session, name, steps, dry_run)


def check_keys(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Keys cannot be changed: a table with others is something else's.

    Raises:
        BackendRefused.
    """
    if found["KeySchema"] != wanted["KeySchema"]:
        keys = ", ".join(key["AttributeName"] for key in found["KeySchema"])
        raise BackendRefused(
            f"table {wanted['TableName']} is not one of this program: its key is {keys}, not "
            f"{schema.KEY}"
        )
    there = {index["IndexName"]: index for index in found.get("GlobalSecondaryIndexes") or ()}
    for index in wanted["GlobalSecondaryIndexes"]:
        name = index["IndexName"]
        if name in there and there[name]["KeySchema"] != index["KeySchema"]:
            raise BackendRefused(
                f"the index {name} of table {wanted['TableName']} has other keys than this "
                "version's"
            )


def _indexes(
    session: AdminSession,
    name: str,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    steps: list[Step],
    dry_run: bool,
) -> None:
    there = {index["IndexName"] for index in found.get("GlobalSecondaryIndexes") or ()}
    for index in wanted["GlobalSecondaryIndexes"]:
        if index["IndexName"] in there:
            continue
        steps.append(Step(f"index {index['IndexName']} of table {name}", Action.CREATED))
        if not dry_run:
            # DynamoDB makes one at a time, and fills it before the next.
            session.dynamodb.update_table(
                TableName=name,
                AttributeDefinitions=wanted["AttributeDefinitions"],
                GlobalSecondaryIndexUpdates=[{"Create": index}],
            )
            _wait(session, "table_exists", name)


def _time_to_live(session: AdminSession, name: str, steps: list[Step], dry_run: bool) -> None:
    answer = session.dynamodb.describe_time_to_live(TableName=name)
    found = answer.get("TimeToLiveDescription") or {}
    enabled = found.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
    resource = f"expiry of table {name}"
    if enabled and found.get("AttributeName") not in (None, schema.TTL_ATTRIBUTE):
        raise BackendRefused(
            f"table {name} expires items by {found['AttributeName']}, not {schema.TTL_ATTRIBUTE}"
        )
    if enabled:
        steps.append(Step(resource, Action.KEPT))
        return
    steps.append(Step(resource, Action.CREATED))
    if not dry_run:
        session.dynamodb.update_time_to_live(**schema.time_to_live_parameters(name))


def _describe_table(session: AdminSession, name: str) -> dict[str, Any] | None:
    try:
        return dict(session.dynamodb.describe_table(TableName=name)["Table"])
    except botocore.exceptions.ClientError as error:
        if meaning_of(code_of(error)) & Meaning.TABLE_MISSING:
            return None
        raise


def _wait(session: AdminSession, what: str, name: str) -> None:
    waiter = session.dynamodb.get_waiter(what)
    waiter.wait(TableName=name, WaiterConfig={"Delay": _DELAY, "MaxAttempts": _TRIES})


# --- the .env lines -------------------------------------------------------------------------


def _environment(
    session: AdminSession, queue: str | None, dead: str | None, table: str
) -> dict[str, str]:
    lines = {"AWS_REGION": session.region}
    if queue is not None:
        lines["SQS_QUEUE_URL"] = queue
    if dead is not None:
        lines["SQS_DLQ_URL"] = dead
    lines["DYNAMODB_TABLE"] = table
    sqs, dynamodb = session.endpoint("sqs"), session.endpoint("dynamodb")
    if region_of(sqs) is None:
        if sqs == dynamodb:
            lines["AWS_ENDPOINT_URL"] = sqs
        else:
            lines["AWS_ENDPOINT_URL_SQS"] = sqs
            lines["AWS_ENDPOINT_URL_DYNAMODB"] = dynamodb
    return lines
