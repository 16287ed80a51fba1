# Task Queue Engine: queue, dead-letter queue, table of tasks

resource "aws_sqs_queue" "dead_letters" {
  name                      = "@{dead}"
  message_retention_seconds = 1209600
}

resource "aws_sqs_queue" "tasks" {
  name                       = "@{queue}"
  visibility_timeout_seconds = 30
  message_retention_seconds  = 1209600
  receive_wait_time_seconds  = 20

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = 3
  })
}

resource "aws_dynamodb_table" "tasks" {
  name         = "@{table}"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "id"

  attribute {
    name = "cancel_shard"
    type = "S"
  }
  attribute {
    name = "due_at"
    type = "S"
  }
  attribute {
    name = "due_shard"
    type = "S"
  }
  attribute {
    name = "id"
    type = "S"
  }
  attribute {
    name = "position"
    type = "S"
  }
  attribute {
    name = "status_shard"
    type = "S"
  }

  global_secondary_index {
    name               = "status-index"
    hash_key           = "status_shard"
    range_key          = "position"
    projection_type    = "INCLUDE"
    non_key_attributes = ["type", "queue", "status_at"]
  }
  global_secondary_index {
    name            = "due-index"
    hash_key        = "due_shard"
    range_key       = "due_at"
    projection_type = "KEYS_ONLY"
  }
  global_secondary_index {
    name            = "cancel-index"
    hash_key        = "cancel_shard"
    projection_type = "KEYS_ONLY"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  lifecycle {
    prevent_destroy = true
  }
}

# What the engine needs at run time.
resource "aws_iam_policy" "engine" {
  name   = "@{queue}-engine"
  policy = <<-JSON
    {
      "Version": "2012-10-17",
      "Statement": [
        {
          "Sid": "Queue",
          "Effect": "Allow",
          "Action": [
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
            "sqs:SendMessage"
          ],
          "Resource": "${aws_sqs_queue.tasks.arn}"
        },
        {
          "Sid": "DeadLetterQueue",
          "Effect": "Allow",
          "Action": [
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
            "sqs:SendMessage",
            "sqs:PurgeQueue"
          ],
          "Resource": "${aws_sqs_queue.dead_letters.arn}"
        },
        {
          "Sid": "Table",
          "Effect": "Allow",
          "Action": [
            "dynamodb:BatchGetItem",
            "dynamodb:GetItem",
            "dynamodb:PartiQLDelete",
            "dynamodb:PartiQLInsert",
            "dynamodb:PartiQLUpdate",
            "dynamodb:UpdateItem"
          ],
          "Resource": "${aws_dynamodb_table.tasks.arn}"
        },
        {
          "Sid": "Indexes",
          "Effect": "Allow",
          "Action": [
            "dynamodb:Query"
          ],
          "Resource": "${aws_dynamodb_table.tasks.arn}/index/*"
        }
      ]
    }
  JSON
}

output "sqs_queue_url" {
  value = aws_sqs_queue.tasks.url
}

output "sqs_dlq_url" {
  value = aws_sqs_queue.dead_letters.url
}

output "dynamodb_table" {
  value = aws_dynamodb_table.tasks.name
}
