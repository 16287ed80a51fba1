"""Looks at credentials, permissions and settings, and says what to mend. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.schema import check_table_name
from task_queue_engine.backends.aws.preflight.checks import (
    TIMEOUT,
    check_queue,
    check_regions,
    parse_redrive_policy,
    size_findings,
)
from task_queue_engine.backends.aws.preflight.permissions import (
    Denied,
    Given,
    Probe,
    Unknown,
    ask,
    check_writes,
    probes,
)
from task_queue_engine.backends.aws.provisioning.resources import (
    LONGEST_RETENTION,
    MAX_RECEIVES,
    policy,
)
from task_queue_engine.backends.aws.settings import queue_urls, region_for
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.aws.wire.explanations import clock_trouble, refuse
from task_queue_engine.config import Settings
from task_queue_engine.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
)

MANY_DEAD_LETTERS = 1_000
"""The reconciler cannot look through more in one go (`sqs.dead_letters.LOOK`)."""


class FindingStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    """"credentials", "queue", "permission sqs:SendMessage", ..."""
    health: FindingStatus
    detail: str
    """What was found, and if that is not good, what to do."""


@dataclass(frozen=True, slots=True)
class _Examined:
    finding: Finding
    said: dict[str, Any]
    """What the service says about the queue or table; empty where that is not known."""
    answered: bool
    """Whether the service is there at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    findings: tuple[Finding, ...]
    policy: dict[str, Any]
    """The least IAM policy, with the ARNs where they could be found out."""

    @property
    def healthy(self) -> bool:
        return all(finding.health is not FindingStatus.FAILED for finding in self.findings)


class Doctor:
    """Looks, in this order, at settings, credentials and region; both queues with their retention
    and redrive policy, and how many dead letters there are; the table's keys and indexes; how it
    can be written, and expiry; the clock; each permission that the engine needs
    (`preflight/permissions.py`).

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
            table_name = check_table_name(settings.dynamodb_table)
        except ConfigurationError as error:
            yield Finding("settings", FindingStatus.FAILED, str(error))
            return
        client = self._client or AwsClient(region=region_for(settings, urls))
        try:
            async with client.open():
                origin = client.credentials_origin
                yield Finding(
                    "credentials", FindingStatus.OK, f"those {origin}" if origin else "found"
                )
                check_regions(client, urls.by_variable)
                yield Finding("region", FindingStatus.OK, client.region)
                async for finding in self._look(client, urls, table_name):
                    yield finding
        except (ConfigurationError, BackendRefused) as error:
            yield Finding("settings", FindingStatus.FAILED, str(error))

    async def _look(
        self, client: AwsClient, urls: QueueUrls, table_name: str
    ) -> AsyncIterator[Finding]:
        queue, dead, described = await gather(
            [
                partial(_look_at_queue, client, urls.queue, "SQS_QUEUE_URL"),
                partial(_look_at_queue, client, urls.dead, "SQS_DLQ_URL"),
                partial(_look_at_table, client, table_name),
            ]
        )
        self._note_arns(queue, dead, described, table_name)
        for finding in (
            queue.finding,
            *_retention_findings("the queue", queue.said),
            dead.finding,
            *_retention_findings("the dead-letter queue", dead.said),
            *_dead_letter_findings(queue.said, dead.said),
            *(
                Finding("message size", FindingStatus.WARNING, said)
                for said in size_findings(
                    queue.said, dead.said, max_payload=self._settings.max_body_bytes
                )
            ),
        ):
            yield finding
        if described.said:
            for finding in table_findings(table_name, described.said):
                yield finding
        else:
            yield described.finding
        if described.answered:
            async for finding in self._look_further(client, table_name):
                yield finding
        yield _clock_finding(client)
        answering = {"sqs": queue.answered or dead.answered, "dynamodb": described.answered}
        asked = [
            probe
            for probe in probes(urls, table_name, self._settings.dynamodb_writes)
            if answering[probe.service]
        ]
        for finding in await gather([partial(_permission, client, probe) for probe in asked]):
            yield finding

    def _note_arns(
        self, queue: _Examined, dead: _Examined, table: _Examined, table_name: str
    ) -> None:
        for what, examined in (("queue", queue), ("dead", dead)):
            self._arns[what] = examined.said.get("QueueArn", self._arns[what])
        parts = self._arns["queue"].split(":")
        # Where the table does not tell its own: one in the queue's account and region.
        if len(parts) == 6:
            guess = f"arn:{parts[1]}:dynamodb:{parts[3]}:{parts[4]}:table/{table_name}"
            self._arns["table"] = guess
        self._arns["table"] = str(table.said.get("TableArn") or self._arns["table"])

    async def _look_further(self, client: AwsClient, name: str) -> AsyncIterator[Finding]:
        what = "TQE_DYNAMODB_WRITES"
        try:
            await check_writes(client, name, self._settings.dynamodb_writes)
        except (ConfigurationError, BackendUnavailable) as error:
            yield Finding(what, FindingStatus.FAILED, str(error).removeprefix(f"{what}: "))
        else:
            yield Finding(what, FindingStatus.OK, self._settings.dynamodb_writes)
        if self._settings.retention:
            with suppress(
                AwsRequestFailed, BackendUnavailable
            ):  # the permission is not one that the engine needs
                parameters = {"TableName": name}
                yield _expiry_finding(
                    await client.call("dynamodb", "DescribeTimeToLive", parameters, timeout=TIMEOUT)
                )


async def _look_at_queue(client: AwsClient, url: str, variable: str) -> _Examined:
    try:
        attributes = await check_queue(client, url, variable=variable)
    except (ConfigurationError, BackendRefused, BackendUnavailable) as error:
        answered = isinstance(error.__cause__, AwsRequestFailed)
        return _Examined(Finding(variable, FindingStatus.FAILED, str(error)), {}, answered)
    return _Examined(Finding(variable, FindingStatus.OK, url), attributes, True)


async def _look_at_table(client: AwsClient, name: str) -> _Examined:
    """By DescribeTable, which the engine itself needs no permission for."""
    what, health = "DYNAMODB_TABLE", FindingStatus.FAILED
    parameters = {"TableName": name}
    try:
        answer = await client.call("dynamodb", "DescribeTable", parameters, timeout=TIMEOUT)
    except AwsRequestFailed as error:
        means = meaning_of(error.code)
        if means & Meaning.ACCESS_DENIED:
            health = FindingStatus.WARNING
            detail = f"{name} not looked at closely: no permission for dynamodb:DescribeTable"
        elif means & Meaning.TABLE_MISSING:
            detail = f"there is no table {name} in {client.region} (tqe provision makes one)"
        else:
            detail = _explained(error, client, "dynamodb")
        return _Examined(Finding(what, health, detail), {}, True)
    except BackendUnavailable as error:
        return _Examined(Finding(what, health, _explained(error, client, "dynamodb")), {}, False)
    described = answer.get("Table")
    if not isinstance(described, dict):
        detail = f"what answers at {client.endpoint('dynamodb')} is not DynamoDB"
        return _Examined(Finding(what, health, detail), {}, False)
    return _Examined(Finding(what, FindingStatus.OK, name), described, True)


async def _permission(client: AwsClient, probe: Probe) -> Finding:
    where = f" ({probe.on.removeprefix('the ')})" if probe.service == "sqs" else ""
    what = f"permission {probe.action}{where}"
    match await ask(client, probe):
        case Denied(said):
            return Finding(what, FindingStatus.FAILED, f"missing: {said}")
        case Unknown(said):
            return Finding(what, FindingStatus.WARNING, f"could not be asked for: {said}")
        case Given():
            return Finding(what, FindingStatus.OK, "given")


def _clock_finding(client: AwsClient) -> Finding:
    offset = client.statistics().clock_offset
    if offset:
        return Finding("clock", FindingStatus.WARNING, clock_trouble(offset))
    return Finding("clock", FindingStatus.OK, "within what AWS accepts")


def _expiry_finding(answer: Mapping[str, Any]) -> Finding:
    found = answer.get("TimeToLiveDescription") or {}
    if found.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        detail = "TQE_RETENTION is set, but the table deletes nothing (tqe provision mends it)"
        return Finding("expiry", FindingStatus.FAILED, detail)
    if found.get("AttributeName") != schema.TTL_ATTRIBUTE:
        detail = f"the table deletes by {found.get('AttributeName')}, not {schema.TTL_ATTRIBUTE}"
        return Finding("expiry", FindingStatus.FAILED, detail)
    return Finding("expiry", FindingStatus.OK, f"by {schema.TTL_ATTRIBUTE}")


def _explained(error: BackendError, client: AwsClient, service: Service) -> str:
    try:
        refuse(error, client, service)
    except BackendError as told:
        return str(told)


def _retention_findings(named: str, attributes: Mapping[str, str]) -> list[Finding]:
    kept = int(attributes.get("MessageRetentionPeriod", LONGEST_RETENTION))
    if kept >= LONGEST_RETENTION:
        return []
    detail = (
        f"{named} keeps messages for {kept} s of {LONGEST_RETENTION} that are possible, counted "
        "from their first sending: then SQS drops them (tqe provision mends it)"
    )
    return [Finding("retention", FindingStatus.WARNING, detail)]


def _dead_letter_findings(queue: Mapping[str, str], dead: Mapping[str, str]) -> list[Finding]:
    findings = [_redrive_finding(queue, dead)] if queue and dead else []
    count = int(dead.get("ApproximateNumberOfMessages", 0))
    if count > MANY_DEAD_LETTERS:
        detail = f"{count}: redrive or purge them; only some can be listed and watched"
        findings.append(Finding("dead letters", FindingStatus.WARNING, detail))
    return findings


def _redrive_finding(queue: Mapping[str, str], dead: Mapping[str, str]) -> Finding:
    what = "redrive policy"
    arn, receives = parse_redrive_policy(queue)
    if arn is None:
        detail = "the queue has none: a task that kills its process is received forever"
        return Finding(what, FindingStatus.WARNING, f"{detail} (tqe provision mends it)")
    if arn != dead["QueueArn"]:
        detail = f"it moves messages to {arn}, which is not SQS_DLQ_URL: no engine looks there"
        return Finding(what, FindingStatus.FAILED, detail)
    if receives != MAX_RECEIVES:
        detail = f"after {receives} receives, {MAX_RECEIVES} are recommended"
        return Finding(what, FindingStatus.WARNING, detail)
    return Finding(what, FindingStatus.OK, f"after {receives} receives")


def table_findings(name: str, description: Mapping[str, Any]) -> list[Finding]:
    """What DescribeTable tells."""
    wanted = schema.create_table_parameters(name)
    found = [Finding("DYNAMODB_TABLE", FindingStatus.OK, name)]
    if description.get("KeySchema") != wanted["KeySchema"]:
        return [Finding("DYNAMODB_TABLE", FindingStatus.FAILED, f"{name} is not a table of tasks")]
    status = description.get("TableStatus")
    if status not in ("ACTIVE", "UPDATING"):
        found[0] = Finding("DYNAMODB_TABLE", FindingStatus.FAILED, f"{name} is {status}")
    there = {one["IndexName"]: one for one in description.get("GlobalSecondaryIndexes") or ()}
    for index in schema.INDEXES:
        described = there.get(index.name)
        if described is None or described.get("KeySchema") != index.key_schema:
            detail = "is missing or has other keys (tqe provision makes it)"
            found.append(Finding(f"index {index.name}", FindingStatus.FAILED, detail))
        elif described.get("IndexStatus", "ACTIVE") not in ("ACTIVE", "UPDATING"):
            detail = f"is {described['IndexStatus']}"
            found.append(Finding(f"index {index.name}", FindingStatus.FAILED, detail))
        else:
            found.append(Finding(f"index {index.name}", FindingStatus.OK, "there"))
    return found
