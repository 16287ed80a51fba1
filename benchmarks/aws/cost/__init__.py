"""What a task costs on AWS: `python -m benchmarks.aws.cost`."""
