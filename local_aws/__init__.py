"""SQS and DynamoDB on this machine: third-party servers, started for tests, benchmarks and
`make serve-aws`. Not part of the package that is installed."""
