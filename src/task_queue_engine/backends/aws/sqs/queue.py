"""SQS as the queue of tasks.

What follows from SQS's own rules:

- Every receive counts, and the redrive policy moves a message to the dead-letter queue when it was
  received too often (3 times): the safety net for processes that die. A message given back on
  purpose must not use that net up. So a wait for a retry is a fresh copy with the delay on it,
  and then the old message is deleted; a crash in between leaves an extra copy, which the claim
  sorts out. Given back without a delay (a shutdown), a message is made visible again, which is one
  request, unless its next receive would leave no room for a crash: then it is copied too. What is
  received so often is not claimed at all but replaced (`Delivery.is_worn`): so a task whose
  processes die has all its attempts, whatever the policy's limit.
- A deleted message may come back, and deleting with an old receipt is answered with success: a
  verdict Done is SQS's word, not proof. The claim is what protects a task.
- A long poll that is cancelled has its connection closed, which SQS does not notice: for the rest
  of its wait it takes messages, and these become visible again when their lease ends. So an engine
  that stops lets its poll run out while it drains (`poll_outlives_cancel`).
- Whole seconds: leases and delays are rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import trio
from msgspec import structs

from task_queue_engine.backends.aws.sqs import message_format
from task_queue_engine.backends.aws.sqs.batches import MAX_ENTRIES
from task_queue_engine.backends.aws.sqs.dead_letters import SqsDeadLetters
from task_queue_engine.backends.aws.sqs.queue_client import QueueClient, fill
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.sqs.receive_watermark import ReceiveWatermark
from task_queue_engine.backends.aws.usage import UsageByType
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import (
    DeadLettering,
    Delivery,
    Done,
    Message,
    QueueCapabilities,
    QueueDepth,
    QueueVerdict,
    Rejected,
    TooLarge,
    TryAgain,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable

MAX_DELAY: Final = 900.0
"""Seconds: the longest DelaySeconds."""
MAX_VISIBILITY: Final = 43_200
"""Seconds: 12 hours, counted from the receive."""
LONGEST_POLL: Final = 20
"""Seconds: the longest WaitTimeSeconds."""

DEFAULT_MAX_RECEIVES: Final = 3
"""Of the redrive policy as this package provisions it."""

# Seconds for further receives once a first one has brought messages: these must not wait.
_ANSWER_TIMEOUT = 5.0
# Seconds, from the moment a dead-lettering begins.
_SETTLING_LEASE = 60


class SqsQueue:
    """One queue and its dead-letter queue.

    Until `attach` says that `client` is open every operation raises BackendUnavailable.
    """

    max_batch: Final = 100
    """Ten of SQS's batches, carried out at the same time."""
    max_delay: Final = MAX_DELAY
    capabilities: Final = QueueCapabilities(
        max_hold=MAX_VISIBILITY,
        poll_outlives_cancel=True,
        # A tenth of the requests from 100 tasks a second on; every message is as safe as before.
        settle_linger=0.1,
    )

    def __init__(self, name: str, urls: QueueUrls, client: AwsClient, *, clock: Clock) -> None:
        self._name = name
        self._urls = urls
        self._clock = clock
        self._watermark = ReceiveWatermark()
        self._usage = UsageByType()
        self._client = QueueClient(client, urls.queue, self._usage)
        self._dead_client = QueueClient(client, urls.dead, self._usage)
        self._max_receives = DEFAULT_MAX_RECEIVES
        self._max_bytes = self._max_dead_bytes = message_format.MAX_MESSAGE_BYTES
        self._dead_letters = SqsDeadLetters(self._dead_client, max_receives=DEFAULT_MAX_RECEIVES)
        # As it was last told.
        self._dead_count = 0
        self._is_deep = False
        """The last receive brought all that was asked for: there may well be more."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def dead_letters(self) -> SqsDeadLetters:
        return self._dead_letters

    @property
    def urls(self) -> QueueUrls:
        return self._urls

    def attach(self, *, is_open: bool) -> None:
        """The client is open, or not any more."""
        self._client.is_open = self._dead_client.is_open = is_open
        self._dead_letters.forget()

    def configure(
        self,
        *,
        max_receives: int | None,
        max_bytes: int | None,
        max_dead_bytes: int | None = None,
    ) -> None:
        """What the queue's own attributes, and its dead-letter queue's, say; None: nothing."""
        self._max_receives = max_receives or DEFAULT_MAX_RECEIVES
        most = message_format.MAX_MESSAGE_BYTES
        self._max_bytes = min(max_bytes or most, most)
        self._max_dead_bytes = min(max_dead_bytes or most, most)
        self._dead_letters.max_receives = self._max_receives

    def usage(self) -> UsageByType:
        """Calls by task type; those that served no task are left out."""
        return self._usage

    # --- sending and receiving --------------------------------------------------------------

    def too_large(self, message: Message) -> TooLarge | None:
        return message_format.too_large(message, max_bytes=self._max_bytes)

    async def send(self, messages: Sequence[Message]) -> list[QueueVerdict]:
        """Rejected: a body that, with its attributes, is over the queue's limit (1 MiB, older ones
        256 KiB); a delay outside 0 to 900 s."""
        good = [message for message in messages if _is_delay(message.delay)]
        sent = iter(
            await self._client.send(
                [message_format.outgoing(message, max_bytes=self._max_bytes) for message in good],
                max_bytes=self._max_bytes,
            )
        )
        return [
            next(sent) if _is_delay(message.delay) else _bad_delay(message.delay)
            for message in messages
        ]

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        """A wait is made of long polls of up to 20 s; below one second it is a look at its
        beginning and another at its end.

        More than ten are looked for with several requests at once, after a first one that may wait
        has brought ten; where the last receive brought all that was asked for, without a first one.
        """
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        found: list[list[dict[str, Any]]] = []
        if self._is_deep and max_messages > MAX_ENTRIES:
            await trio.lowlevel.checkpoint_if_cancelled()
            found = await self._look(max_messages // MAX_ENTRIES, visibility)
        if not found:
            first = await self._wait_for_first(min(max_messages, MAX_ENTRIES), wait, visibility)
            if not first:
                return []
            found = [first]
            if len(first) == MAX_ENTRIES and max_messages > MAX_ENTRIES:
                found += await self._look(max_messages // MAX_ENTRIES - 1, visibility)
        requests = len(found)
        received = [message for each in found for message in each]
        self._is_deep = len(received) >= max_messages // MAX_ENTRIES * MAX_ENTRIES
        self._watermark.note(received)
        deliveries = [
            structs.replace(delivery, is_worn=True) if self._is_worn(delivery) else delivery
            for delivery in map(message_format.delivery, received)
        ]
        self._client.share([each.task_type for each in deliveries], requests=requests)
        return deliveries

    def received_up_to(self) -> datetime | None:
        """Messages sent before this have been received, or are lost. None: not known."""
        return self._watermark.reached()

    async def _wait_for_first(
        self, limit: int, wait: float, visibility: float
    ) -> list[dict[str, Any]]:
        end = trio.current_time() + wait
        poll = min(LONGEST_POLL, int(wait))
        while True:
            received = await self._receive(limit, poll, visibility)
            if received:
                return received
            self._is_deep = False
            if poll:
                self._watermark.note_empty(self._clock.now())
            left = end - trio.current_time()
            if left < 1:
                if 0 < wait < 1 and left > 0:
                    await trio.sleep(left)
                    continue
                return []
            poll = min(LONGEST_POLL, int(left))

    async def _receive(self, limit: int, wait: int, visibility: float) -> list[dict[str, Any]]:
        return await self._client.receive(
            limit,
            wait=wait,
            lease=_lease(visibility),
            attributes=message_format.READ_ATTRIBUTES,
        )

    async def _look(self, requests: int, visibility: float) -> list[list[dict[str, Any]]]:
        """The queue is not empty: look several times at once, without waiting. Not cancellable
        (but bounded), since others of the messages may be held already.

        A request costs the same for one message as for ten, so it looks for whole tens only; what
        is left over is part of what the caller asks for next.

        Returns:
            The messages of each look that found some.
        """
        more: list[list[dict[str, Any]]] = []

        async def look() -> None:
            try:
                found = await self._receive(MAX_ENTRIES, 0, visibility)
            except BackendUnavailable:
                return  # the next receive will meet it too
            if found:
                more.append(found)

        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ANSWER_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for _ in range(requests):
                    nursery.start_soon(look)
        return more

    # --- what is held -----------------------------------------------------------------------

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        """SQS ends every lease 12 hours after its receive: LeaseLost from then on."""
        return await self._change_visibility(deliveries, _lease(visibility))

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        verdicts = [_bad_delay(delay) for _, delay in items]
        copied: list[int] = []
        shown: list[int] = []
        for i, (delivery, delay) in enumerate(items):
            if _is_delay(delay):
                (copied if delay > 0 or self._is_worn(delivery) else shown).append(i)
        if shown:
            answers = await self._change_visibility([items[i][0] for i in shown], 0)
            fill(verdicts, shown, answers)
        if copied:
            try:
                fill(verdicts, copied, await self._replace([items[i] for i in copied]))
            except BackendUnavailable as error:
                if not shown:
                    raise
                fill(verdicts, copied, [TryAgain(str(error))] * len(copied))
        return verdicts

    def _is_worn(self, delivery: Delivery) -> bool:
        """One more receive, and the next crash would be the last."""
        return delivery.receive_count >= max(2, self._max_receives - 1)

    async def _replace(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        """Send a fresh copy, then delete the old message. The copy is what counts: an old message
        that could not be deleted comes back once more and is found to be an extra copy."""
        copies = [
            message_format.fresh_copy(delivery, delay, max_bytes=self._max_bytes)
            for delivery, delay in items
        ]
        verdicts = await self._client.send(copies, max_bytes=self._max_bytes)
        sent = [
            delivery
            for (delivery, _), verdict in zip(items, verdicts, strict=True)
            if isinstance(verdict, Done)
        ]
        await self._delete_if_possible(sent)
        return verdicts

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        return await self._client.delete(*_receipts_and_types(deliveries))

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        """Make sure of the lease, send to the dead-letter queue, delete. A crash in between leaves
        a message whose task is finished or missing: it is deleted, or dead-lettered once more."""
        verdicts = await self._change_visibility([item.delivery for item in items], _SETTLING_LEASE)
        held = [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Done)]
        sent = await self._dead_client.send(
            [
                message_format.outgoing_dead_letter(items[i], max_bytes=self._max_dead_bytes)
                for i in held
            ],
            max_bytes=self._max_dead_bytes,
        )
        fill(verdicts, held, sent)
        await self._delete_if_possible(
            [
                items[i].delivery
                for i, verdict in zip(held, sent, strict=True)
                if isinstance(verdict, Done)
            ]
        )
        return verdicts

    async def _change_visibility(
        self, deliveries: Sequence[Delivery], seconds: int
    ) -> list[QueueVerdict]:
        receipts, task_types = _receipts_and_types(deliveries)
        return await self._client.change_visibility(receipts, seconds, task_types)

    async def _delete_if_possible(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self.delete(deliveries)
        except BackendUnavailable:
            return

    # --- looking ----------------------------------------------------------------------------

    async def depth(self) -> QueueDepth:
        """Approximate: SQS's counts follow within about a minute. A message that was given back to
        be received later is in flight to SQS until then, and not delayed."""
        visible, delayed, in_flight = await self._client.counts(
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        )
        # Trouble there says nothing about this queue; the reconciler, which asks it too, tells.
        with suppress(BackendUnavailable):
            self._dead_count = await self._dead_letters.count()
        return QueueDepth(
            waiting=visible + delayed,
            delayed=delayed,
            in_flight=in_flight,
            dead=self._dead_count,
        )


def _receipts_and_types(deliveries: Sequence[Delivery]) -> tuple[list[str], list[str]]:
    return [one.receipt for one in deliveries], [one.task_type for one in deliveries]


def _lease(seconds: float) -> int:
    return min(message_format.whole_seconds(seconds), MAX_VISIBILITY)


def _is_delay(delay: float) -> bool:
    return 0 <= delay <= MAX_DELAY


def _bad_delay(delay: float) -> QueueVerdict:
    return Rejected(f"the delay must be 0 to {MAX_DELAY:g} seconds, not {delay!r}")
