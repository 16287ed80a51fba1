"""How far the queue has been read: a task is called unsent only where that is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import trio
from trio.testing import MockClock

from task_queue_engine.backends.aws.sqs.receive_watermark import SLACK, WINDOW, ReceiveWatermark

START = datetime(2030, 1, 1, tzinfo=UTC)


def received(sent: datetime, count: int = 1) -> dict[str, Any]:
    milliseconds = round(sent.timestamp() * 1000)
    attributes = {"ApproximateReceiveCount": str(count), "SentTimestamp": str(milliseconds)}
    return {"MessageId": "m", "ReceiptHandle": "r", "Body": "", "Attributes": attributes}


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


async def test_nothing_is_known_before_anything_was_received(autojump_clock: MockClock) -> None:
    assert ReceiveWatermark().reached() is None


async def test_the_oldest_of_the_last_minute_counts(autojump_clock: MockClock) -> None:
    watermark = ReceiveWatermark()
    watermark.note([received(START + minutes(5)), received(START)])
    watermark.note([received(START + minutes(9))])
    assert watermark.reached() == START - SLACK


async def test_what_comes_again_says_nothing(autojump_clock: MockClock) -> None:
    watermark = ReceiveWatermark()
    watermark.note([received(START, count=2)])
    assert watermark.reached() is None
    watermark.note([received(START, count=2), received(START + minutes(5))])
    assert watermark.reached() == START + minutes(5) - SLACK


async def test_an_empty_queue_has_been_read_to_its_end(autojump_clock: MockClock) -> None:
    watermark = ReceiveWatermark()
    watermark.note_empty(START)
    assert watermark.reached() == START - SLACK


async def test_it_moves_on_and_is_forgotten(autojump_clock: MockClock) -> None:
    watermark = ReceiveWatermark()
    watermark.note([received(START)])
    await trio.sleep(WINDOW + 1)
    watermark.note([received(START + minutes(30))])
    assert watermark.reached() == START - SLACK, "the minute before still counts"
    await trio.sleep(WINDOW + 1)
    assert watermark.reached() == START + minutes(30) - SLACK
    await trio.sleep(3 * WINDOW)
    assert watermark.reached() is None
