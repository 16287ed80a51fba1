from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.aws.conftest import bare_environment
from tests.end_to_end.aws.environment import Environment, environment_on

__all__ = ["bare_environment", "environment"]


@pytest.fixture
def environment(
    bare_environment: None, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Environment]:
    """On the main pair of servers; on another with `indirect` and its name."""
    with environment_on(tmp_path, getattr(request, "param", "elasticmq")) as made:
        yield made
