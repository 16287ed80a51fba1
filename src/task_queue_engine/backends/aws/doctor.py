"""Looks at credentials, permissions and settings, and says what to mend.

Permissions are asked for by requests that are wrong on purpose (no entries, a receipt that never
was, a condition that cannot hold): AWS checks who asks before it checks what is asked for, so
nothing is sent, received, deleted or written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from task_queue_engine.backends.aws import table
from task_queue_engine.backends.aws.backend import queue_urls, region_for
from task_queue_engine.backends.aws.client import AwsClient
from task_queue_engine.backends.aws.endpoints import Service
from task_queue_engine.backends.aws.errors import AwsRequestFailed
from task_queue_engine.backends.aws.queue_urls import QueueUrls
from task_queue_engine.backends.aws.resources import MAX_RECEIVES, policy
from task_queue_engine.backends.aws.startup import (
    NO_PERMISSION,
    check_queue,
    check_regions,
    redrive_policy,
    refuse,
)
from task_queue_engine.config import Settings
from task_queue_engine.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
)

MANY_DEAD_LETTERS = 1_000
"""More than this the watcher cannot look through in one go."""

_NOTHING = "tqe-doctor-looked-for-this"


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    """"credentials", "queue", "permission sqs:SendMessage", ..."""
    health: Health
    detail: str
    """What was found, and if that is not good, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    findings: tuple[Finding, ...]
    policy: dict[str, Any]
    """The least IAM policy, with the ARNs where they could be found out."""

    @property
    def healthy(self) -> bool:
        return all(finding.health is not Health.FAILED for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Probe:
    action: str
    service: Service
    operation: str
    parameters: Mapping[str, Any]


class Doctor:
    """
    Args:
        client: None: as `tqe serve` would make it.
    """

    def __init__(self, settings: Settings, *, client: AwsClient | None = None) -> None:
        self._settings = settings
        self._client = client
        self._arns = {"queue": "QUEUE_ARN", "dead": "DEAD_LETTER_QUEUE_ARN", "table": "TABLE_ARN"}

    async def examine(self) -> Examination:
        """Never raises for what it finds: that is its answer."""
        findings = [finding async for finding in self._findings()]
        document = policy(
            queue_arn=self._arns["queue"],
            dead_arn=self._arns["dead"],
            table_arn=self._arns["table"],
            writes=self._settings.dynamodb_writes,
        )
        return Examination(findings=tuple(findings), policy=document)

    async def _findings(self) -> AsyncIterator[Finding]:
        settings = self._settings
        try:
            urls = queue_urls(settings)
            if settings.dynamodb_table is None:
                raise ConfigurationError("is not set", variable="DYNAMODB_TABLE")
        except ConfigurationError as error:
            yield Finding("settings", Health.FAILED, str(error))
            return
        client = self._client or AwsClient(region=region_for(settings, urls))
        try:
            async with client.open():
                yield Finding("credentials", Health.OK, "found")
                check_regions(client, urls)
                yield Finding("region", Health.OK, client.region)
                async for finding in self._look(client, urls, settings.dynamodb_table):
                    yield finding
        except (ConfigurationError, BackendRefused) as error:
            yield Finding("settings", Health.FAILED, str(error))

    async def _look(
        self, client: AwsClient, urls: QueueUrls, table_name: str
    ) -> AsyncIterator[Finding]:
        queue: dict[str, str] = {}
        for what, url, variable in (
            ("queue", urls.queue, "SQS_QUEUE_URL"),
            ("dead", urls.dead, "SQS_DLQ_URL"),
        ):
            try:
                attributes = await check_queue(client, url, variable=variable)
            except (ConfigurationError, BackendRefused, BackendUnavailable) as error:
                yield Finding(variable, Health.FAILED, str(error))
                continue
            self._arns[what] = attributes["QueueArn"]
            yield Finding(variable, Health.OK, url)
            if what == "queue":
                queue = attributes
            else:
                for finding in _dead_letter_findings(queue, attributes):
                    yield finding
        self._guess_table_arn(table_name)
        async for finding in self._look_at_table(client, table_name):
            yield finding
        for probe in _probes(urls, table_name, self._settings.dynamodb_writes):
            yield await self._probe(client, probe)

    def _guess_table_arn(self, name: str) -> None:
        """A table is in the account and region of the queue, where nothing else was said."""
        parts = self._arns["queue"].split(":")
        if len(parts) == 6:
            self._arns["table"] = f"arn:{parts[1]}:dynamodb:{parts[3]}:{parts[4]}:table/{name}"

    async def _look_at_table(self, client: AwsClient, name: str) -> AsyncIterator[Finding]:
        """By DescribeTable, which the engine itself needs no permission for."""
        try:
            answer = await client.call("dynamodb", "DescribeTable", {"TableName": name})
        except AwsRequestFailed as error:
            if error.code in NO_PERMISSION:
                yield Finding(
                    "DYNAMODB_TABLE",
                    Health.WARNING,
                    f"{name} was not looked at closely: no permission for dynamodb:DescribeTable",
                )
            elif error.code == "ResourceNotFoundException":
                detail = f"there is no table {name} in {client.region} (tqe provision makes one)"
                yield Finding("DYNAMODB_TABLE", Health.FAILED, detail)
            else:
                yield Finding("DYNAMODB_TABLE", Health.FAILED, _told(error, client, "dynamodb"))
            return
        except BackendUnavailable as error:
            yield Finding("DYNAMODB_TABLE", Health.FAILED, _told(error, client, "dynamodb"))
            return
        description = answer.get("Table") or {}
        self._arns["table"] = str(description.get("TableArn") or self._arns["table"])
        for finding in table_findings(name, description):
            yield finding

    async def _probe(self, client: AwsClient, probe: _Probe) -> Finding:
        what = f"permission {probe.action}"
        try:
            await client.call(probe.service, probe.operation, probe.parameters)
        except AwsRequestFailed as error:
            if error.code in NO_PERMISSION:
                return Finding(what, Health.FAILED, f"missing: {error.message}")
            # Anything else was said to somebody who may ask.
        except BackendUnavailable as error:
            return Finding(what, Health.WARNING, f"could not be asked for: {error}")
        return Finding(what, Health.OK, "given")


def _told(error: BackendError, client: AwsClient, service: Service) -> str:
    try:
        refuse(error, client, service)
    except BackendError as told:
        return str(told)


def _dead_letter_findings(queue: Mapping[str, str], dead: Mapping[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    if queue:
        arn, receives = redrive_policy(queue)
        if arn is None:
            detail = "the queue has none: a task that kills its process is received forever"
            findings.append(Finding("redrive policy", Health.WARNING, detail))
        elif arn != dead["QueueArn"]:
            detail = f"it moves messages to {arn}, which is not SQS_DLQ_URL: nobody looks there"
            findings.append(Finding("redrive policy", Health.FAILED, detail))
        else:
            health = Health.OK if receives == MAX_RECEIVES else Health.WARNING
            detail = f"after {receives} receives" + (
                "" if health is Health.OK else f", {MAX_RECEIVES} are recommended"
            )
            findings.append(Finding("redrive policy", health, detail))
        kept, dead_kept = (int(one.get("MessageRetentionPeriod", 0)) for one in (queue, dead))
        if kept > dead_kept:
            detail = (
                f"the queue keeps messages for {kept} s, the dead-letter queue for {dead_kept} s, "
                "counted from the first sending: letters may be gone as soon as they arrive"
            )
            findings.append(Finding("retention", Health.WARNING, detail))
    letters = int(dead.get("ApproximateNumberOfMessages", 0))
    if letters > MANY_DEAD_LETTERS:
        detail = f"{letters}: redrive or purge them; only some can be listed and watched"
        findings.append(Finding("dead letters", Health.WARNING, detail))
    return findings


def table_findings(name: str, description: Mapping[str, Any]) -> list[Finding]:
    """What DescribeTable tells."""
    wanted = table.create_table_parameters(name)
    found = [Finding("DYNAMODB_TABLE", Health.OK, name)]
    if description.get("KeySchema") != wanted["KeySchema"]:
        return [Finding("DYNAMODB_TABLE", Health.FAILED, f"{name} is not a table of tasks")]
    status = description.get("TableStatus")
    if status not in ("ACTIVE", "UPDATING"):
        found[0] = Finding("DYNAMODB_TABLE", Health.FAILED, f"{name} is {status}")
    there = {one["IndexName"]: one for one in description.get("GlobalSecondaryIndexes") or ()}
    for index in table.INDEXES:
        described = there.get(index.name)
        if described is None or described.get("KeySchema") != index.key_schema:
            detail = "is missing or has other keys (tqe provision makes it)"
            found.append(Finding(f"index {index.name}", Health.FAILED, detail))
        elif described.get("IndexStatus", "ACTIVE") not in ("ACTIVE", "UPDATING"):
            detail = f"is {described['IndexStatus']}"
            found.append(Finding(f"index {index.name}", Health.FAILED, detail))
        else:
            found.append(Finding(f"index {index.name}", Health.OK, "there"))
    return found


def _probes(urls: QueueUrls, table_name: str, writes: str) -> list[_Probe]:
    probes = []
    receipt = {"Id": "0", "ReceiptHandle": _NOTHING}
    for name, url in (("queue", urls.queue), ("dead letters", urls.dead)):
        wrong: dict[str, tuple[str, Mapping[str, Any]]] = {
            "sqs:SendMessage": ("SendMessageBatch", {"Entries": []}),
            "sqs:ReceiveMessage": ("ReceiveMessage", {"MaxNumberOfMessages": 0}),
            "sqs:DeleteMessage": ("DeleteMessageBatch", {"Entries": [receipt]}),
            "sqs:ChangeMessageVisibility": (
                "ChangeMessageVisibilityBatch",
                {"Entries": [receipt | {"VisibilityTimeout": 0}]},
            ),
        }
        probes += [
            _Probe(f"{action} ({name})", "sqs", operation, {"QueueUrl": url, **parameters})
            for action, (operation, parameters) in wrong.items()
        ]
    item = {"TableName": table_name, "Key": {table.KEY: {"S": _NOTHING}}}
    never = {
        "ConditionExpression": "attribute_exists(#key)",
        "ExpressionAttributeNames": {"#key": table.KEY},
    }
    index = table.INDEXES[0]
    query = {
        "TableName": table_name,
        "IndexName": index.name,
        "KeyConditionExpression": "#key = :none",
        "ExpressionAttributeNames": {"#key": index.hash_key},
        "ExpressionAttributeValues": {":none": {"S": _NOTHING}},
        "Limit": 1,
    }
    probes += [
        _Probe("dynamodb:GetItem", "dynamodb", "GetItem", item),
        _Probe(
            "dynamodb:BatchGetItem",
            "dynamodb",
            "BatchGetItem",
            {"RequestItems": {table_name: {"Keys": [item["Key"]]}}},
        ),
        _Probe("dynamodb:Query", "dynamodb", "Query", query),
        _Probe(
            "dynamodb:UpdateItem",
            "dynamodb",
            "UpdateItem",
            {**item, **never, "UpdateExpression": "REMOVE nothing"},
        ),
    ]
    if writes == "batch":
        where = f"WHERE {table.KEY} = '{_NOTHING}'"
        statements = {
            "dynamodb:PartiQLUpdate": f'UPDATE "{table_name}" REMOVE nothing {where}',
            "dynamodb:PartiQLDelete": f'DELETE FROM "{table_name}" {where}',  # noqa: S608  # a table's name
        }
        probes += [
            _Probe(action, "dynamodb", "ExecuteStatement", {"Statement": statement})
            for action, statement in statements.items()
        ]
    else:
        probes.append(_Probe("dynamodb:DeleteItem", "dynamodb", "DeleteItem", {**item, **never}))
    return probes
