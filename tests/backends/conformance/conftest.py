from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.backends.aws.dynamodb.harness import DYNAMODB_HARNESSES
from tests.backends.aws.sqs.conformance import AWS_HARNESSES, PAIR_HARNESSES, QUIRKS, SQS
from tests.backends.conformance.harness import HARNESSES, Harness, Promises

PROMISES = dict.fromkeys(AWS_HARNESSES | PAIR_HARNESSES, SQS)
"""Of those that do not promise everything."""

ALL = HARNESSES | DYNAMODB_HARNESSES | AWS_HARNESSES | PAIR_HARNESSES


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(promise): only for backends that keep this promise")


# The queues of AWS stand beside the memory backend's store here: the rest would test that.
OF_THE_QUEUE = {
    "test_broker_dead_letters",
    "test_dead_letters",
    "test_opening",
    "test_payloads",
    "test_queue",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    beside: list[pytest.Item] = []
    for item in items:
        if reason := QUIRKS.get(item.name):
            item.add_marker(pytest.mark.xfail(reason=reason))
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        name = parameters.get("harness")
        promises = PROMISES.get(name, Promises())
        is_kept = all(getattr(promises, mark.args[0]) for mark in item.iter_markers("needs"))
        if not is_kept or (name in AWS_HARNESSES and item.path.stem not in OF_THE_QUEUE):
            beside.append(item)
    if beside:
        items[:] = [item for item in items if item not in set(beside)]
        config.hook.pytest_deselected(items=beside)


@pytest.fixture(params=ALL)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    async with ALL[request.param](tmp_path) as made:
        assert made.promises == PROMISES.get(request.param, Promises())
        with trio.fail_after(30):
            yield made
