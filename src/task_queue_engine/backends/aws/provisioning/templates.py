"""The queues and the table as a template, for teams that create their infrastructure with
CloudFormation or Terraform. The same as `provision` makes."""

from __future__ import annotations

from typing import Any

from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.provisioning.resources import (
    DEAD_LETTER_ATTRIBUTES,
    QUEUE_ATTRIBUTES,
    Names,
    as_json,
    policy,
    redrive_policy,
)


def cloudformation(names: Names) -> str:
    """As JSON. Deleting the stack keeps the table; its outputs are the `.env` lines."""

    def arn(resource: str) -> dict[str, Any]:
        return {"Fn::GetAtt": [resource, "Arn"]}

    parameters = table.create_table_parameters(names.table)
    document = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Task Queue Engine: queue, dead-letter queue, table of tasks",
        "Resources": {
            "DeadLetterQueue": {
                "Type": "AWS::SQS::Queue",
                "Properties": {"QueueName": names.dead, **_numbers(DEAD_LETTER_ATTRIBUTES)},
            },
            "Queue": {
                "Type": "AWS::SQS::Queue",
                "Properties": {
                    "QueueName": names.queue,
                    **_numbers(QUEUE_ATTRIBUTES),
                    "RedrivePolicy": redrive_policy(arn("DeadLetterQueue")),
                },
            },
            "Table": {
                "Type": "AWS::DynamoDB::Table",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    **parameters,
                    "TimeToLiveSpecification": table.time_to_live_parameters(names.table)[
                        "TimeToLiveSpecification"
                    ],
                },
            },
            "Policy": {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "Description": "What the engine needs at run time",
                    "PolicyDocument": _cloudformation_policy(),
                },
            },
        },
        "Outputs": {
            "SqsQueueUrl": {"Value": {"Ref": "Queue"}},
            "SqsDlqUrl": {"Value": {"Ref": "DeadLetterQueue"}},
            "DynamodbTable": {"Value": {"Ref": "Table"}},
            "PolicyArn": {"Value": {"Ref": "Policy"}},
        },
    }
    return as_json(document) + "\n"


def _numbers(attributes: dict[str, str]) -> dict[str, int]:
    return {name: int(value) for name, value in attributes.items()}


def _cloudformation_policy() -> dict[str, Any]:
    document = policy(
        queue_arn="${Queue.Arn}", dead_arn="${DeadLetterQueue.Arn}", table_arn="${Table.Arn}"
    )
    for statement in document["Statement"]:
        statement["Resource"] = {"Fn::Sub": statement["Resource"]}
    return document


def terraform(names: Names) -> str:
    """In HCL, for the AWS provider 5 or later."""
    parameters = table.create_table_parameters(names.table)
    attributes = "\n".join(
        _block("attribute", name=one["AttributeName"], type=one["AttributeType"])
        for one in parameters["AttributeDefinitions"]
    )
    indexes = "\n".join(_index(index) for index in table.INDEXES)
    document = policy(
        queue_arn="${aws_sqs_queue.tasks.arn}",
        dead_arn="${aws_sqs_queue.dead_letters.arn}",
        table_arn="${aws_dynamodb_table.tasks.arn}",
    )
    return f"""\
# Task Queue Engine: queue, dead-letter queue, table of tasks

resource "aws_sqs_queue" "dead_letters" {{
  name                      = "{names.dead}"
  message_retention_seconds = {DEAD_LETTER_ATTRIBUTES["MessageRetentionPeriod"]}
}}

resource "aws_sqs_queue" "tasks" {{
  name                       = "{names.queue}"
  visibility_timeout_seconds = {QUEUE_ATTRIBUTES["VisibilityTimeout"]}
  message_retention_seconds  = {QUEUE_ATTRIBUTES["MessageRetentionPeriod"]}
  receive_wait_time_seconds  = {QUEUE_ATTRIBUTES["ReceiveMessageWaitTimeSeconds"]}

  redrive_policy = jsonencode({{
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = {redrive_policy("")["maxReceiveCount"]}
  }})
}}

resource "aws_dynamodb_table" "tasks" {{
  name         = "{names.table}"
  billing_mode = "{parameters["BillingMode"]}"
  hash_key     = "{table.KEY}"

{attributes}

{indexes}

  ttl {{
    attribute_name = "{table.TTL_ATTRIBUTE}"
    enabled        = true
  }}

  lifecycle {{
    prevent_destroy = true
  }}
}}

# What the engine needs at run time.
resource "aws_iam_policy" "engine" {{
  name   = "{names.queue}-engine"
  policy = <<-JSON
{_indented(as_json(document), 4)}
  JSON
}}

output "sqs_queue_url" {{
  value = aws_sqs_queue.tasks.url
}}

output "sqs_dlq_url" {{
  value = aws_sqs_queue.dead_letters.url
}}

output "dynamodb_table" {{
  value = aws_dynamodb_table.tasks.name
}}
"""


def _index(index: table.Index) -> str:
    projection = index.projection
    values: dict[str, Any] = {
        "name": index.name,
        "hash_key": index.hash_key,
        "range_key": index.range_key,
        "projection_type": projection["ProjectionType"],
        "non_key_attributes": projection.get("NonKeyAttributes"),
    }
    return _block("global_secondary_index", **values)


def _block(kind: str, **values: Any) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    width = max(map(len, given))
    lines = "\n".join(f"    {name.ljust(width)} = {_hcl(value)}" for name, value in given.items())
    return f"  {kind} {{\n{lines}\n  }}"


def _hcl(value: str | list[str]) -> str:
    """JSON's strings and lists of them are HCL's too."""
    return as_json(value) if isinstance(value, str) else f"[{', '.join(map(as_json, value))}]"


def _indented(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in text.splitlines())
