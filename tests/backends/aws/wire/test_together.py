"""Many calls at once, with chance deciding which are cancelled, cut off, refused and slow."""

from __future__ import annotations

import random

import pytest
import trio

from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.errors import BackendUnavailable
from tests.backends.aws.wire.canned import CLOSE, Answer, Request, answer, error
from tests.backends.aws.wire.opened_client import elapsed_since, opened


@pytest.mark.parametrize("seed", range(2))
async def test_every_call_gets_its_own_answer_and_no_connection_is_lost(
    server, virtual_clock, seed
):
    chance = random.Random(seed)

    def say(request: Request) -> Answer:
        echo = answer(request.parameters).data
        cut = chance.randrange(len(echo))
        return chance.choice(
            [
                Answer(echo, delay=chance.uniform(0, 2)),
                Answer(echo, then="close"),
                Answer(echo[:cut], rest=echo[cut:], pause=chance.uniform(0, 1)),
                Answer(echo[:cut], then="close"),
                error("ThrottlingException"),
                CLOSE,
            ]
        )

    server.default = say
    outcomes = {"right": 0, "unavailable": 0, "cancelled": 0}

    async def one(client: AwsClient, number: int) -> None:
        with trio.move_on_after(chance.uniform(0, 8)):
            try:
                got = await client.call("sqs", "SendMessage", {"MessageBody": str(number)})
            except BackendUnavailable:
                outcomes["unavailable"] += 1
            else:
                assert got == {"MessageBody": str(number)}
                outcomes["right"] += 1
            return
        outcomes["cancelled"] += 1

    async with opened(server.url, virtual_clock, max_connections=8) as client:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(one, client, number)
        assert sum(outcomes.values()) == 60
        assert outcomes["right"] > 0

        # All eight places are free again, and none of them twice.
        server.default = Answer(answer().data, delay=1)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(client.call, "sqs", "SendMessage", {})
        assert elapsed_since(start) == pytest.approx(2, abs=0.2)
