"""SQS's batch calls: up to ten entries a request, each with a verdict of its own.

Entry ids are indexes. A request that SQS refuses as a whole because of one of its entries is cut in
two until the culprit stands alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio

from task_queue_engine.backends.aws.wire.error_codes import (
    Meaning,
    meaning_of,
    meaning_of_entry,
)
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.base import Done, LeaseLost, QueueVerdict, Rejected, TryAgain
from task_queue_engine.errors import BackendUnavailable

MAX_ENTRIES: Final = 10
"""Of a batch request (Amazon SQS quotas)."""

CallQueue = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""(operation, parameters besides the queue's URL) -> answer."""

Entry = dict[str, Any]
"""As the API has it, without its Id."""

_DONE = Done()
_NOT_CARRIED_OUT = TryAgain("not carried out")

# Seconds until a refusal that the operator has to mend, or load that has to drain, is worth a try.
_RETRY_AFTER = 5.0


def as_unavailable(error: BackendUnavailable | AwsRequestFailed) -> BackendUnavailable:
    """A refusal in mid-run: the queue deleted, a permission withdrawn, 120,000 messages in flight.
    Work waits, and goes on once that is undone."""
    if isinstance(error, BackendUnavailable):
        return error
    return BackendUnavailable(str(error), retry_after=_RETRY_AFTER)


def in_requests(sizes: Sequence[int], *, max_bytes: int) -> list[range]:
    """Cut a sequence of entries of these sizes into runs that fit into one request each."""
    requests: list[range] = []
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == MAX_ENTRIES or total + size > max_bytes):
            requests.append(range(start, index))
            start, total = index, 0
        total += size
    if start < len(sizes):
        requests.append(range(start, len(sizes)))
    return requests


async def send_batches(
    call: CallQueue, operation: str, entries: Sequence[Entry], requests: list[range]
) -> list[QueueVerdict]:
    """Carry out `requests`, each a run of `entries`, at the same time.

    Raises:
        BackendUnavailable: none of the requests got an answer. Where some did, the entries of the
            others are TryAgain.
    """
    verdicts: list[QueueVerdict] = [_NOT_CARRIED_OUT] * len(entries)
    failures: list[BackendUnavailable] = []

    async def one(request: range) -> None:
        try:
            answered = await _request(call, operation, [entries[i] for i in request])
        except (BackendUnavailable, AwsRequestFailed) as error:
            failures.append(as_unavailable(error))
            answered = [TryAgain(str(error))] * len(request)
        verdicts[request.start : request.stop] = answered

    if len(requests) == 1:  # the common case needs no nursery
        await one(requests[0])
    else:
        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(one, request)
    if failures and len(failures) == len(requests):
        raise failures[0]
    return verdicts


async def _request(call: CallQueue, operation: str, entries: Sequence[Entry]) -> list[QueueVerdict]:
    numbered = [{"Id": str(i), **entry} for i, entry in enumerate(entries)]
    try:
        answer = await call(operation, {"Entries": numbered})
    except AwsRequestFailed as error:
        if not meaning_of(error.code) & Meaning.ENTRY_REFUSED:
            raise
        if len(entries) == 1:
            return [_verdict(error.code, error.message)]
        middle = len(entries) // 2
        first = await _request(call, operation, entries[:middle])
        return first + await _request(call, operation, entries[middle:])
    return _verdicts(answer, len(entries))


def _verdicts(answer: Mapping[str, Any], count: int) -> list[QueueVerdict]:
    verdicts: list[QueueVerdict] = [TryAgain("SQS said nothing about this entry")] * count
    for entry in answer.get("Successful") or ():
        verdicts[int(entry["Id"])] = _DONE
    for entry in answer.get("Failed") or ():
        verdicts[int(entry["Id"])] = _verdict(
            str(entry.get("Code", "")),
            str(entry.get("Message", "")),
            sender_fault=bool(entry.get("SenderFault", False)),
        )
    return verdicts


def _verdict(code: str, message: str, *, sender_fault: bool = True) -> QueueVerdict:
    code = code.rpartition(".")[2]  # "AWS.SimpleQueueService.MessageNotInflight"
    said = f"{code}: {message}" if message else code
    means = meaning_of_entry(code)
    if means & Meaning.RECEIPT_INVALID or (
        means & Meaning.PARAMETER_INVALID and _is_about_receipt(message)
    ):
        return LeaseLost()
    if means & (Meaning.THROTTLED | Meaning.TRANSIENT) or not sender_fault:
        return TryAgain(said)
    return Rejected(said)


def _is_about_receipt(message: str) -> bool:
    """ "Value ... for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not
    available for visibility timeout change.", and the end of the 12 hours that SQS lets a message
    be invisible for: "Total VisibilityTimeout for the message is beyond the limit"."""
    return "ReceiptHandle" in message or "Total VisibilityTimeout" in message
