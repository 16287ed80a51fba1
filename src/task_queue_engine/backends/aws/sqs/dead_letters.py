"""The dead-letter queue, for operators and for the reconciler.

SQS cannot be browsed. To look at dead letters is to receive them, which hides them from every other
reader meanwhile; they are given back as soon as the look is over, so another process may for a
moment see fewer (looks of one process wait for each other). What was taken for redriving stays
hidden until it is deleted or its lease ends.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import trio

from task_queue_engine.backends.aws.sqs.batches import MAX_ENTRIES, as_unavailable
from task_queue_engine.backends.aws.sqs.message_format import (
    DEAD_LETTER_ATTRIBUTES,
    ReceivedDeadLetter,
    moved_reason,
    received_dead_letter,
)
from task_queue_engine.backends.aws.sqs.queue_client import QueueClient, fill
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.base import (
    DeadLetter,
    DeadLetterPage,
    LeaseLost,
    QueueVerdict,
)
from task_queue_engine.backends.cursors import check_limit, decode_cursor, encode_cursor
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import BrokerDeadLetter

logger = logging.getLogger("task_queue_engine.aws")

LOOK: Final = 1_000
"""Dead letters that a list looks at; of more, those that SQS hands out first."""
SEARCH: Final = 10_000
"""Dead letters that are gone through to find some by their ids, or those that SQS has moved by
itself: 1,000 requests, a few seconds, for which other readers do not see them."""

# Seconds that a look hides what it sees: far more than it takes, should giving back fail.
_LOOK_LEASE = 30
# Seconds for a redrive to send and delete what was taken for it.
_TAKE_LEASE = 60
# Receives under way together while the queue has plenty.
_AT_ONCE = 5
# Seconds, on the way out of a look that was cancelled too.
_GIVE_BACK_TIMEOUT = 5.0
# Seconds for a receive that waits for one at most.
_ANSWER_TIMEOUT = 3.0
# Seconds for going through the queue: half of what a request over HTTP has by default. 10,000 dead
# letters take about 4.
_LONGEST_SEARCH = 15.0
# Seconds until the reconciler looks again at a queue whose length has not changed.
_LOOK_AGAIN = 600.0
# The same for a long one, however its length changes: a look makes two requests for ten of them.
_LOOK_AGAIN_AT_MANY = 3600.0
# Seconds between two purges of a queue (PurgeQueue).
_PURGE_PAUSE = 60.0

Enough = Callable[[Sequence[ReceivedDeadLetter]], bool]
"""Told what was found; says whether that will do."""


@dataclass(frozen=True, slots=True)
class _Held:
    dead_letter: DeadLetter
    until: float


class SqsDeadLetters:
    def __init__(self, client: QueueClient, *, max_receives: int) -> None:
        self._client = client
        self.max_receives = max_receives
        # One look at a time: two would hide from each other what each of them is to find.
        self._turn = trio.Lock()
        # Taken for redriving: ours until then, and not to be received again before.
        self._held: dict[str, _Held] = {}
        self._moved: tuple[BrokerDeadLetter, ...] = ()
        self._watched_count = 0
        self._watch_again = -math.inf

    def forget(self) -> None:
        """Leases and looks of a client that is closed."""
        self._held.clear()
        self._moved = ()
        self._watch_again = -math.inf

    # --- for operators ----------------------------------------------------------------------

    async def page(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        """Newest first among the `LOOK` that are looked at (more where `limit` is). By SQS's own
        count it knows that it has seen all: an empty receive that is sure of it takes a second. One
        that was added a moment ago may be missing."""
        check_limit(limit)
        below = (
            decode_cursor(cursor, "sqs-dead", tuple[datetime, str]) if cursor is not None else None
        )
        # Those that another look has are back in a moment.
        there = max(0, await self.count() - len(self._still_held()))
        looked_at = await self._look(max(LOOK, limit), there=there)
        dead_letters = {found.dead_letter.id: found.dead_letter for found in looked_at}
        dead_letters |= {held.dead_letter.id: held.dead_letter for held in self._still_held()}
        ordered = sorted(dead_letters.values(), key=_sort_key, reverse=True)
        if below is not None:
            ordered = [one for one in ordered if _sort_key(one) < below]
        page = tuple(replace(one, receipt="") for one in ordered[:limit])
        more = len(ordered) > limit
        return DeadLetterPage(
            dead_letters=page,
            next_cursor=encode_cursor("sqs-dead", _sort_key(page[-1])) if more else None,
        )

    async def take(self, *, limit: int, ids: Sequence[str] | None = None) -> list[DeadLetter]:
        """Hidden from others for a minute. By id: those that are found among the first `SEARCH`."""
        wanted = None if ids is None else set(ids)
        taken = [
            held.dead_letter
            for held in self._still_held()
            if wanted is None or held.dead_letter.id in wanted
        ][:limit]
        missing = limit - len(taken)
        if wanted is not None:
            wanted -= {one.id for one in taken}
            missing = min(missing, len(wanted))
        if missing > 0:
            taken += await self._take(missing, wanted)
        return taken

    async def _take(self, limit: int, wanted: set[str] | None) -> list[DeadLetter]:
        taken: list[DeadLetter] = []
        others: list[DeadLetter] = []

        def enough(found: Sequence[ReceivedDeadLetter]) -> bool:
            for one in found:
                mine = len(taken) < limit and (wanted is None or one.dead_letter.id in wanted)
                (taken if mine else others).append(one.dead_letter)
            return len(taken) >= limit or len(taken) + len(others) >= SEARCH

        async with self._turn:
            until = trio.current_time() + _TAKE_LEASE
            try:
                size = limit if wanted is None else SEARCH
                await self._receive_until(enough, size=size, lease=_TAKE_LEASE)
            except BaseException:  # a cancel too: for a minute nobody else could redrive them
                await self._give_back([one.receipt for one in taken])
                raise
            finally:
                await self._give_back([one.receipt for one in others])
            self._held |= {one.id: _Held(one, until) for one in taken}
        return taken

    async def delete(self, dead_letters: Sequence[DeadLetter]) -> list[QueueVerdict]:
        """Those from a list, which are not held, are taken first."""
        unheld = [one.id for one in dead_letters if not one.receipt]
        receipts = {one.id: one.receipt for one in dead_letters if one.receipt}
        if unheld:
            receipts |= {
                one.id: one.receipt for one in await self.take(limit=len(unheld), ids=unheld)
            }
        verdicts: list[QueueVerdict] = [LeaseLost()] * len(dead_letters)
        there = [i for i, one in enumerate(dead_letters) if one.id in receipts]
        fill(
            verdicts,
            there,
            await self._client.delete([receipts[dead_letters[i].id] for i in there]),
        )
        for i in there:
            self._held.pop(dead_letters[i].id, None)
        return verdicts

    async def purge(self) -> int:
        """SQS takes up to a minute for it, and what arrives meanwhile may go too.

        Raises:
            BackendUnavailable: also within a minute of the last purge.
        """
        count = await self.count()
        try:
            await self._client.call("PurgeQueue", {})
        except AwsRequestFailed as error:
            if meaning_of(error.code) & Meaning.PURGE_IN_PROGRESS:
                raise BackendUnavailable(
                    "SQS purges a queue once a minute at most", retry_after=_PURGE_PAUSE
                ) from error
            raise as_unavailable(error) from error
        self.forget()
        return count

    async def count(self) -> int:
        """Approximate; those that are being looked at included."""
        return sum(
            await self._client.counts(
                "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"
            )
        )

    # --- for the reconciler -----------------------------------------------------------------

    async def moved_by_broker(self) -> tuple[BrokerDeadLetter, ...]:
        """One request where the queue's length has not changed since the last look, or it is
        empty; a look otherwise, and every ten minutes. Where there are more than `LOOK`, a look an
        hour.

        Of more than `SEARCH` some may not be seen for long. Their tasks are not stuck: what was
        waiting is sent again once the queue has run empty, what was running is given up when no
        lease can be that old (`dynamodb/stranded.py`).
        """
        count = await self.count()
        now = trio.current_time()
        has_changed = count != self._watched_count and count <= LOOK
        if count and (has_changed or now >= self._watch_again):
            self._moved = await self._look_for_moved()
            self._watch_again = now + (_LOOK_AGAIN if count <= LOOK else _LOOK_AGAIN_AT_MANY)
            if count > SEARCH:
                logger.warning(
                    "%d dead letters: only %d can be watched for tasks that SQS has given up; "
                    "redrive or purge them",
                    count,
                    SEARCH,
                )
        self._watched_count = count
        return self._moved if count else ()

    async def _look_for_moved(self) -> tuple[BrokerDeadLetter, ...]:
        # Of the others nothing is kept but what gives them back.
        moved: dict[str, BrokerDeadLetter] = {}
        receipts: dict[str, str] = {}

        def enough(found: Sequence[ReceivedDeadLetter]) -> bool:
            for one in found:
                seen = one.dead_letter
                receipts[seen.id] = seen.receipt
                if one.moved_by_sqs:
                    moved[seen.id] = BrokerDeadLetter(
                        task_id=seen.task_id,
                        message_id=seen.id,
                        reason=moved_reason(self.max_receives),
                    )
            return len(receipts) >= SEARCH

        async with self._turn:
            try:
                await self._receive_until(enough, size=SEARCH, lease=_LOOK_LEASE)
            finally:
                await self._give_back(list(receipts.values()))
        return tuple(moved.values())

    # --- looking ----------------------------------------------------------------------------

    def _still_held(self) -> list[_Held]:
        now = trio.current_time()
        self._held = {id_: held for id_, held in self._held.items() if held.until > now}
        return list(self._held.values())

    async def _look(self, limit: int, *, there: int) -> list[ReceivedDeadLetter]:
        """Up to about `limit`, given back at once; of those that are `there`, as SQS says."""
        seen: dict[str, ReceivedDeadLetter] = {}

        def enough(found: Sequence[ReceivedDeadLetter]) -> bool:
            seen.update((one.dead_letter.id, one) for one in found)
            return len(seen) >= min(limit, there or limit)

        wait = 1 if there else 0
        async with self._turn:
            try:
                await self._receive_until(enough, size=limit, lease=_LOOK_LEASE, wait=wait)
            finally:
                await self._give_back([one.dead_letter.receipt for one in seen.values()])
        return list(seen.values())

    async def _receive_until(self, enough: Enough, *, size: int, lease: int, wait: int = 1) -> None:
        """Receive until `enough` says so or there are no more, for which a last receive waits for
        `wait` seconds.

        Ends well before the first of them could come round again, or a caller over HTTP has to do
        without an answer.
        """
        end = trio.current_time() + min(lease / 2, _LONGEST_SEARCH)
        at_once = 1
        while trio.current_time() < end:
            # Not cancelled half-way: SQS would go on with it, and hide what is given back below.
            with trio.CancelScope(
                shield=True, deadline=trio.current_time() + _ANSWER_TIMEOUT
            ) as look:
                found = await self._receive(at_once, min(size, MAX_ENTRIES), lease, wait)
            if look.cancelled_caught:
                await trio.lowlevel.checkpoint_if_cancelled()
                raise BackendUnavailable("SQS does not answer")
            if enough(found) or (not found and at_once == 1):
                return
            await trio.lowlevel.checkpoint_if_cancelled()
            # Several at once while the queue has plenty; a last one alone, which waits a second:
            # an empty answer without waiting may come from a part of the queue that is.
            at_once = _AT_ONCE if len(found) == at_once * MAX_ENTRIES else 1

    async def _receive(
        self, at_once: int, limit: int, lease: int, wait: int
    ) -> list[ReceivedDeadLetter]:
        found: list[ReceivedDeadLetter] = []
        failures: list[BackendUnavailable] = []

        async def one() -> None:
            try:
                messages = await self._client.receive(
                    limit,
                    wait=wait if at_once == 1 else 0,
                    lease=lease,
                    attributes=DEAD_LETTER_ATTRIBUTES,
                )
            except BackendUnavailable as error:
                failures.append(error)
                return
            found.extend(
                received_dead_letter(message, max_receives=self.max_receives)
                for message in messages
            )

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(one)
        if failures and not found:
            raise failures[0]
        return found

    async def _give_back(self, receipts: Sequence[str]) -> None:
        """Visible to others again. Where this fails they are when their lease ends."""
        if not receipts:
            return
        with trio.move_on_after(_GIVE_BACK_TIMEOUT, shield=True):
            try:
                await self._client.change_visibility(receipts, 0)
            except BackendUnavailable:
                return


def _sort_key(one: DeadLetter) -> tuple[datetime, str]:
    return one.at, one.id
