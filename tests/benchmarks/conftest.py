from __future__ import annotations

from tests.aws.fixtures import dynamodb_local, elasticmq

__all__ = ["dynamodb_local", "elasticmq"]
