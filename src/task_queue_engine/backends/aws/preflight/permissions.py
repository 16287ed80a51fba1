"""Whether the credentials may do what the engine does, and the server what it is asked.

Asked for by requests that come to nothing: no entries, a receipt that never was, a condition that
cannot hold. Nothing is sent, received, deleted or written. What AWS should refuse before it looks
at permissions counts as permitted: these checks may miss something, they do not cry wolf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.preflight.checks import NO_SUCH_QUEUE, TIMEOUT
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.endpoints import Service, is_aws
from task_queue_engine.backends.aws.wire.error_codes import (
    Meaning,
    meaning_of,
    meaning_of_statement,
)
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed, UnexpectedAnswer
from task_queue_engine.errors import BackendRefused, BackendUnavailable, ConfigurationError

Writes = Literal["batch", "single"]

# To be mended before a permission can be asked for.
_FIRST_THINGS_FIRST = Meaning.CREDENTIALS_WRONG | NO_SUCH_QUEUE | Meaning.TABLE_MISSING
# What other checks speak of.
_ELSEWHERE = _FIRST_THINGS_FIRST | Meaning.ACCESS_DENIED

# Trouble of the service's own, which says nothing about what it can do.
_PASSES = Meaning.TRANSIENT | Meaning.THROTTLED

# The id of no task.
_NOTHING = "tqe-looked-for-this"


@dataclass(frozen=True, slots=True)
class Probe:
    action: str
    """As IAM has it: "sqs:SendMessage"."""
    on: str
    """"the queue", "the dead-letter queue", "the table"."""
    service: Service
    operation: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    pass


@dataclass(frozen=True, slots=True)
class Denied:
    said: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The service was in trouble, or something else has to be mended first."""

    said: str


async def ask(client: AwsClient, probe: Probe) -> Given | Denied | Unknown:
    try:
        answer = await client.call(
            probe.service, probe.operation, probe.parameters, timeout=TIMEOUT
        )
    except AwsRequestFailed as error:
        means = meaning_of(error.code)
        if means & Meaning.ACCESS_DENIED:
            return Denied(error.message)
        return Unknown(str(error)) if means & _FIRST_THINGS_FIRST else Given()
    except BackendUnavailable as error:
        return Unknown(str(error))
    code, message = _statement_error(answer)
    means = _meaning_of(code)
    if means & Meaning.ACCESS_DENIED:
        return Denied(message)
    return Unknown(f"{code}: {message}") if means & _PASSES else Given()


async def check_permissions(client: AwsClient, probes: Iterable[Probe]) -> None:
    """All at once.

    Raises:
        BackendRefused: naming every action that is not permitted.
    """
    denied: dict[str, str] = {}

    async def look(probe: Probe) -> None:
        verdict = await ask(client, probe)
        if isinstance(verdict, Denied):
            denied[f"{probe.action} on {probe.on}"] = verdict.said

    await gather([partial(look, probe) for probe in probes])
    if denied:
        raise BackendRefused(
            f"no permission for {', '.join(sorted(denied))} (tqe doctor prints the policy needed): "
            f"{next(iter(denied.values()))}"
        )


async def check_writes(client: AwsClient, table_name: str, writes: Writes) -> None:
    """A server that ignores a statement's condition, or knows no statements, would lose tasks.

    Raises:
        ConfigurationError: naming TQE_DYNAMODB_WRITES; only where the answer shows that.
        BackendUnavailable: DynamoDB is in trouble, and what it can do is not known.
    """
    if writes == "single":
        return
    endpoint = client.endpoint("dynamodb")
    try:
        answer = await client.call(
            "dynamodb",
            "BatchExecuteStatement",
            {"Statements": [{"Statement": _update_of_nothing(table_name)}]},
            timeout=TIMEOUT,
        )
    except AwsRequestFailed as error:
        if meaning_of(error.code) & _ELSEWHERE:
            return
        said = str(error)
    except UnexpectedAnswer as error:
        # This operation only: the table's were answered in DynamoDB's own words before.
        if is_aws(endpoint):
            raise
        said = str(error)
    else:
        code, said = _statement_error(answer)
        means = _meaning_of(code)
        if means & (Meaning.CONDITION_FAILED | _ELSEWHERE):
            return
        if means & _PASSES:
            raise BackendUnavailable(f"DynamoDB at {endpoint}: {code}: {said}")
        said = f"{code}: {said}" if code else "it ignores their conditions"
    raise ConfigurationError(
        f"is batch, but what answers at {endpoint} does not carry out conditional PartiQL "
        f"statements: set TQE_DYNAMODB_WRITES=single ({said})",
        variable="TQE_DYNAMODB_WRITES",
    )


def probes(urls: QueueUrls, table_name: str, writes: Writes) -> list[Probe]:
    """For every action of `resources.policy` that can be asked for without doing it: PurgeQueue
    cannot, GetQueueAttributes is what the queues were looked at with."""
    return [
        *_queue_probes("the queue", urls.queue),
        *_queue_probes("the dead-letter queue", urls.dead),
        *_table_probes(table_name, writes),
    ]


def _queue_probes(on: str, url: str) -> list[Probe]:
    receipt = {"Id": "0", "ReceiptHandle": _NOTHING}
    wrong: dict[str, tuple[str, Mapping[str, Any]]] = {
        "sqs:SendMessage": ("SendMessageBatch", {"Entries": []}),
        "sqs:ReceiveMessage": ("ReceiveMessage", {"MaxNumberOfMessages": 0}),
        "sqs:DeleteMessage": ("DeleteMessageBatch", {"Entries": [receipt]}),
        "sqs:ChangeMessageVisibility": (
            "ChangeMessageVisibilityBatch",
            {"Entries": [receipt | {"VisibilityTimeout": 0}]},
        ),
    }
    return [
        Probe(action, on, "sqs", operation, {"QueueUrl": url, **parameters})
        for action, (operation, parameters) in wrong.items()
    ]


def _table_probes(name: str, writes: Writes) -> list[Probe]:
    item = {"TableName": name, "Key": {schema.KEY: {"S": _NOTHING}}}
    never = {
        "ConditionExpression": "attribute_exists(#key)",
        "ExpressionAttributeNames": {"#key": schema.KEY},
    }
    query = {
        "TableName": name,
        "IndexName": schema.INDEXES[0].name,
        "KeyConditionExpression": "#key = :none",
        "ExpressionAttributeNames": {"#key": schema.INDEXES[0].hash_key},
        "ExpressionAttributeValues": {":none": {"S": _NOTHING}},
        "Limit": 1,
    }
    keys = {"RequestItems": {name: {"Keys": [item["Key"]]}}}
    update = {**item, **never, "UpdateExpression": "REMOVE nothing"}
    asked: dict[str, tuple[str, Mapping[str, Any]]] = {
        "dynamodb:GetItem": ("GetItem", item),
        "dynamodb:BatchGetItem": ("BatchGetItem", keys),
        "dynamodb:Query": ("Query", query),
        "dynamodb:UpdateItem": ("UpdateItem", update),
    }
    if writes == "batch":
        statements = {
            # A key is never empty: this is refused for the table's sake.
            "dynamodb:PartiQLInsert": f"INSERT INTO \"{name}\" VALUE {{'{schema.KEY}': ''}}",
            "dynamodb:PartiQLUpdate": _update_of_nothing(name),
            "dynamodb:PartiQLDelete": f'DELETE FROM "{name}" {_where_nothing()}',  # noqa: S608  # a table's name
        }
        for action, statement in statements.items():
            asked[action] = ("BatchExecuteStatement", {"Statements": [{"Statement": statement}]})
    else:
        put = {"TableName": name, "Item": item["Key"], **never}
        asked["dynamodb:PutItem"] = ("PutItem", put)
        asked["dynamodb:DeleteItem"] = ("DeleteItem", {**item, **never})
    return [
        Probe(action, "the table", "dynamodb", operation, parameters)
        for action, (operation, parameters) in asked.items()
    ]


def _update_of_nothing(name: str) -> str:
    return f'UPDATE "{name}" SET "nothing" = \'x\' {_where_nothing()} AND "nothing" = \'y\''  # noqa: S608  # as above


def _where_nothing() -> str:
    return f"WHERE \"{schema.KEY}\" = '{_NOTHING}'"


def _meaning_of(code: str) -> Meaning:
    """Of a statement's error. A local server may use the code of a whole request there."""
    return meaning_of_statement(code) | meaning_of(code)


def _statement_error(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Code and message of what BatchExecuteStatement says about its only statement."""
    responses = answer.get("Responses")
    first = responses[0] if isinstance(responses, list) and responses else {}
    error = first.get("Error") or {}
    return str(error.get("Code", "")), str(error.get("Message", ""))
