"""SQS as the queue, DynamoDB as the task store. The only package that imports an AWS library."""
