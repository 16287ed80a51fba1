"""What a task costs on AWS: parts of `benchmarks.aws_cost`."""
