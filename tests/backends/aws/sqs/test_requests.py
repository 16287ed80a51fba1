"""Which requests the queue makes, and what it makes of their answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio

from task_queue_engine.backends.aws.sqs import dead_letters, queue_client
from task_queue_engine.backends.base import (
    Done,
    LeaseLost,
    Message,
    Rejected,
    TooLarge,
    TryAgain,
)
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskError
from tests.backends.aws.sqs.queues import (
    NOW,
    URLS,
    dead_lettering,
    make_delivery,
    make_task,
    queue_on,
)
from tests.backends.aws.wire.canned import Answer, CannedServer, Request, answer, error, serving


def all_well(request: Request) -> Answer:
    entries = request.parameters.get("Entries", ())
    return answer({"Successful": [{"Id": entry["Id"]} for entry in entries]})


def failing(operation: str, **failure: Any) -> Any:
    """All is well but for one operation, whose every entry fails like this."""

    def reply(request: Request) -> Answer:
        if request.operation != operation:
            return all_well(request)
        entries = request.parameters["Entries"]
        return answer({"Failed": [{"Id": entry["Id"], **failure} for entry in entries]})

    return reply


def operations(server: CannedServer) -> list[str]:
    return [request.operation for request in server.requests]


def messages_of(count: int, *, receive_count: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "MessageId": f"m{i}",
            "ReceiptHandle": f"r{i}",
            "Body": f'{{"id":"t{i}"}}',
            "Attributes": {"ApproximateReceiveCount": str(receive_count), "SentTimestamp": "1"},
        }
        for i in range(count)
    ]


# --- batches --------------------------------------------------------------------------------


async def test_ten_entries_a_request_and_their_ids_are_indexes() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        verdicts = await queue.delete([make_delivery(i) for i in range(25)])
    assert verdicts == [Done()] * 25
    by_size = Counter(len(request.parameters["Entries"]) for request in server.requests)
    assert by_size == {10: 2, 5: 1}
    receipts = []
    for request in server.requests:
        entries = request.parameters["Entries"]
        assert [entry["Id"] for entry in entries] == [str(i) for i in range(len(entries))]
        receipts += [entry["ReceiptHandle"] for entry in entries]
    assert sorted(receipts) == sorted(f"receipt-{i}" for i in range(25))


async def test_each_entry_has_its_own_verdict() -> None:
    failed = [
        {"Id": "1", "Code": "InternalError", "SenderFault": False, "Message": "oops"},
        {"Id": "2", "Code": "ReceiptHandleIsInvalid", "SenderFault": True},
        {"Id": "3", "Code": "InvalidMessageContents", "SenderFault": True, "Message": "no"},
        {"Id": "4", "Code": "RequestThrottled", "SenderFault": True},
        {
            "Id": "5",
            "Code": "InvalidParameterValue",
            "SenderFault": True,
            "Message": "Value x for parameter ReceiptHandle is invalid. Reason: Message does not "
            "exist or is not available for visibility timeout change.",
        },
        {"Id": "6", "Code": "AWS.SimpleQueueService.MessageNotInflight", "SenderFault": True},
    ]
    async with serving() as server, queue_on(server) as queue:
        server.default = answer({"Successful": [{"Id": "0"}], "Failed": failed})
        verdicts = await queue.extend([make_delivery(i) for i in range(8)], visibility=30)
    assert verdicts == [
        Done(),
        TryAgain("InternalError: oops"),
        LeaseLost(),
        Rejected("InvalidMessageContents: no"),
        TryAgain("RequestThrottled"),
        LeaseLost(),
        LeaseLost(),
        TryAgain("SQS said nothing about this entry"),
    ]
    assert len(server.requests) == 1


async def test_one_request_that_fails_leaves_the_others_their_verdicts() -> None:
    def reply(request: Request) -> Answer:
        first = request.parameters["Entries"][0]["ReceiptHandle"]
        return error("AccessDenied") if first == "receipt-10" else all_well(request)

    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        verdicts = await queue.delete([make_delivery(i) for i in range(20)])
    assert verdicts[:10] == [Done()] * 10
    assert all(isinstance(verdict, TryAgain) for verdict in verdicts[10:])


async def test_an_entry_that_sinks_its_request_is_found() -> None:
    """Some servers refuse the whole batch for what is wrong with one message."""

    def reply(request: Request) -> Answer:
        bodies = [entry["MessageBody"] for entry in request.parameters["Entries"]]
        if any("unwanted" in body for body in bodies):
            return error("InvalidMessageContents", "no")
        return all_well(request)

    payloads = [f"good {i}" for i in range(10)]
    payloads[6] = "unwanted"
    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        verdicts = await queue.send([Message(task=make_task(payload=text)) for text in payloads])
    expected: list[object] = [Done()] * 10
    expected[6] = Rejected("InvalidMessageContents: no")
    assert verdicts == expected


# --- sending --------------------------------------------------------------------------------


async def test_no_request_is_over_a_mebibyte() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        tasks = [make_task(payload="x" * 300_000) for _ in range(7)]
        assert await queue.send([Message(task=task) for task in tasks]) == [Done()] * 7
    sizes = sorted(len(request.parameters["Entries"]) for request in server.requests)
    assert sizes == [1, 3, 3]


async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        tasks = [make_task(payload="x" * size) for size in (10, 1_048_576)]
        small, large = await queue.send([Message(task=task) for task in tasks])
    assert small == Done()
    assert isinstance(large, Rejected)
    assert "1048576" in large.reason
    (request,) = server.requests
    assert len(request.parameters["Entries"]) == 1


async def test_attributes_count_and_bytes_are_what_counts() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        await queue.send([Message(task=make_task(payload="☃"))])
        (entry,) = server.requests[0].parameters["Entries"]
        size = len(entry["MessageBody"].encode()) + sum(
            len(name) + len(value["DataType"]) + len(value["StringValue"])
            for name, value in entry["MessageAttributes"].items()
        )
        for limit, verdict in ((size, Done), (size - 1, Rejected)):
            queue.configure(max_receives=3, max_bytes=limit)
            (found,) = await queue.send([Message(task=make_task(payload="☃"))])
            assert isinstance(found, verdict)


async def test_what_may_be_stored_can_be_sent_however_its_task_grows() -> None:
    """A task of the largest size that is not refused before it is stored: its retries have counts
    and times, an error with its traceback and progress on them."""
    limit = 262_144
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        queue.configure(max_receives=3, max_bytes=limit)

        def message(size: int, **fields: object) -> Message:
            return Message(task=make_task(payload="☃" * (size // 3), **fields))

        sizes = range(limit - 4000, limit, 12)
        fits = [size for size in sizes if queue.too_large(message(size)) is None]
        assert fits
        assert len(fits) < len(sizes)
        largest = max(fits)
        assert largest == sizes[len(fits) - 1]
        said = queue.too_large(message(largest + 12))
        assert isinstance(said, TooLarge)
        assert said.limit < said.size <= said.limit + 16
        grown = message(
            largest,
            retry_count=10**9,
            attempt=10**9,
            run_at=NOW,
            started_at=NOW,
            worker="w" * 200,
            progress="p" * 10_000,
            error=TaskError(type="E", message="m" * 1000, traceback="t" * 100_000),
        )
        assert await queue.send([message(largest), grown]) == [Done(), Done()]
        sent = [entry for request in server.requests for entry in request.parameters["Entries"]]
        body = json.loads(sent[-1]["MessageBody"])
        assert body["error"] is body["progress"] is None
        assert (body["retry_count"], body["payload"]) == (10**9, grown.task.payload)


async def test_error_and_progress_are_sent_where_there_is_room() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        error = TaskError(type="E", message="m", traceback="t" * 100_000)
        await queue.send([Message(task=make_task(error=error, progress=0.5))])
        (entry,) = server.requests[0].parameters["Entries"]
        body = json.loads(entry["MessageBody"])
        assert (body["error"]["message"], body["progress"]) == ("m", 0.5)


@pytest.mark.parametrize("limit", [1_048_576, 200_000, 150_100, 100_000, 1_024])
async def test_dead_letters_fit_into_the_dead_letter_queue(limit: int) -> None:
    """Which may take less than the queue that they come from."""
    task = make_task(
        payload="x" * 100_000,
        error=TaskError(type="E", message="m", traceback="t" * 50_000),
        progress="p",
    )
    delivery = make_delivery(body=msgspec.json.encode(task))
    error = TaskError(type="E", message="m" * 500, traceback="t" * 60_000)
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        queue.configure(max_receives=3, max_bytes=1_048_576, max_dead_bytes=limit)
        item = dead_lettering(delivery, task_type="email", attempts=3, error=error)
        assert await queue.dead_letter([item]) == [Done()]
        (entry,) = next(
            request.parameters["Entries"]
            for request in server.requests
            if request.operation == "SendMessageBatch"
        )
    body = json.loads(entry["MessageBody"])
    assert body["id"] == task.id
    assert ("payload" in body) == (limit > 100_100)
    assert ("progress" in body) == (limit > 151_000)
    attributes = entry["MessageAttributes"]
    assert attributes["Reason"]["StringValue"] == "a test"
    written = json.loads(attributes["Error"]["StringValue"])
    assert written["type"] == "E"
    assert (written["traceback"] is not None) == (limit in (1_048_576, 100_000))


async def test_delays_are_whole_seconds_and_never_early() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        await queue.send([Message(task=make_task(), delay=delay) for delay in (0, 0.2, 1, 899.5)])
    delays = [entry["DelaySeconds"] for entry in server.requests[0].parameters["Entries"]]
    assert delays == [0, 1, 1, 900]


# --- receiving ------------------------------------------------------------------------------


async def test_a_receive_is_one_long_poll() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = answer({"Messages": messages_of(3)})
        found = await queue.receive(50, wait=20, visibility=29.5)
    assert [delivery.task_id for delivery in found] == ["t0", "t1", "t2"]
    (request,) = server.requests
    parameters = request.parameters
    assert parameters["QueueUrl"] == URLS.queue
    assert parameters["WaitTimeSeconds"] == 20
    assert parameters["VisibilityTimeout"] == 30
    assert parameters["MaxNumberOfMessages"] == 10


async def test_more_is_looked_for_only_where_there_is_more() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = lambda request: answer(
            {"Messages": messages_of(request.parameters["MaxNumberOfMessages"])}
        )
        assert len(await queue.receive(35, wait=20, visibility=30)) == 30
    first, *more = [request.parameters for request in server.requests]
    assert first["WaitTimeSeconds"] == 20
    assert [request["WaitTimeSeconds"] for request in more] == [0, 0]
    # Five more would be a request at the price of one for ten: the next receive asks for them.
    assert [request["MaxNumberOfMessages"] for request in more] == [10, 10]


async def test_a_deep_queue_costs_each_receive_one_round_trip() -> None:
    """Where the last receive brought all that was asked for, nothing is waited for first."""
    left = 70

    def reply(request: Request) -> Answer:
        nonlocal left
        taken = min(left, request.parameters["MaxNumberOfMessages"])
        left -= taken
        return answer({"Messages": messages_of(taken)})

    async with serving() as server, queue_on(server) as queue:
        server.default = reply

        async def waits_of_one_receive() -> list[int]:
            server.requests.clear()
            await queue.receive(30, wait=20, visibility=30)
            return [request.parameters["WaitTimeSeconds"] for request in server.requests]

        assert await waits_of_one_receive() == [20, 0, 0]
        assert await waits_of_one_receive() == [0, 0, 0]
        # The last ten are among three looks; then the queue is not deep any more.
        assert await waits_of_one_receive() == [0, 0, 0]
        left = 5
        assert await waits_of_one_receive() == [20]


async def test_a_queue_that_was_deep_and_is_empty_is_waited_for() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.script.extend([answer({"Messages": messages_of(10)})] * 2)
        server.default = answer({"Messages": []})
        assert len(await queue.receive(20, wait=20, visibility=30)) == 20
        server.requests.clear()
        with trio.move_on_after(0):  # cancelled before it begins, it sends nothing
            await queue.receive(20, wait=1, visibility=30)
        assert server.requests == []
        assert await queue.receive(20, wait=1, visibility=30) == []
    waits = [request.parameters["WaitTimeSeconds"] for request in server.requests]
    assert waits[:3] == [0, 0, 1]


async def test_what_the_first_look_brought_is_kept_when_another_fails() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.script.append(answer({"Messages": messages_of(10)}))
        server.default = error("AccessDenied", status=403)
        assert len(await queue.receive(20, wait=1, visibility=30)) == 10


async def test_a_short_wait_looks_at_its_beginning_and_at_its_end() -> None:
    async with serving() as server, queue_on(server) as queue:
        # Under a second, and longer than the first look takes on a busy machine.
        assert await queue.receive(10, wait=0.9, visibility=30) == []
        assert [request.parameters["WaitTimeSeconds"] for request in server.requests] == [0, 0]
        server.requests.clear()
        assert await queue.receive(10, wait=0, visibility=30) == []
        assert len(server.requests) == 1


@pytest.mark.parametrize("code", ["OverLimit", "QueueDoesNotExist", "AccessDenied"])
async def test_a_refusal_in_mid_run_is_waited_out(code: str) -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = error(code, status=403)
        for call in (
            lambda: queue.receive(10, wait=1, visibility=30),
            lambda: queue.delete([make_delivery()]),
            lambda: queue.depth(),
            lambda: queue.dead_letters.take(limit=1),
            lambda: queue.dead_letters.moved_by_broker(),
        ):
            with pytest.raises(BackendUnavailable, match=code):
                await call()


async def test_a_queue_tells_its_length_when_its_dead_letters_do_not() -> None:
    refused = error("AccessDenied", status=403)
    numbers = {
        "ApproximateNumberOfMessages": "4",
        "ApproximateNumberOfMessagesDelayed": "1",
        "ApproximateNumberOfMessagesNotVisible": "2",
    }
    broken = False

    def reply(request: Request) -> Answer:
        is_dead = request.parameters["QueueUrl"] == URLS.dead
        return refused if broken and is_dead else answer({"Attributes": numbers})

    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        before = await queue.depth()
        broken = True
        assert await queue.depth() == before
    assert (before.waiting, before.delayed, before.in_flight, before.dead) == (5, 1, 2, 6)


async def test_a_foreign_message_without_a_task_is_delivered_all_the_same() -> None:
    bodies = [
        "not json",
        "[]",
        '{"id": 7}',
        '{"id": ""}',
        '{"type": "email"}',
        "",
        '{"id": "\\ud83d"}',
    ]
    found = messages_of(len(bodies))
    for message, body in zip(found, bodies, strict=True):
        message["Body"] = body
    async with serving() as server, queue_on(server) as queue:
        server.default = answer({"Messages": found})
        deliveries = await queue.receive(10, wait=1, visibility=30)
    assert [delivery.task_id for delivery in deliveries] == [
        f"unreadable-message-m{i}" for i in range(len(bodies))
    ]


# --- giving back ----------------------------------------------------------------------------


async def test_given_back_at_once_is_one_request() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        assert await queue.release([(make_delivery(), 0.0)]) == [Done()]
    (request,) = server.requests
    assert request.operation == "ChangeMessageVisibilityBatch"
    assert request.parameters["Entries"][0]["VisibilityTimeout"] == 0


async def test_a_wait_is_a_fresh_copy_before_the_old_message_goes() -> None:
    """A receive that was not a crash must not count towards the redrive policy."""
    delivery = make_delivery(7)
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        assert await queue.release([(delivery, 2.5)]) == [Done()]
    assert operations(server) == ["SendMessageBatch", "DeleteMessageBatch"]
    sent, deleted = [request.parameters for request in server.requests]
    (copy,) = sent["Entries"]
    assert sent["QueueUrl"] == URLS.queue
    assert copy["MessageBody"].encode() == delivery.body
    assert copy["DelaySeconds"] == 3
    assert copy["MessageAttributes"] == {
        "TaskType": {"DataType": "String", "StringValue": "email"},
        "RetryCount": {"DataType": "Number", "StringValue": "1"},
        "CopyOf": {"DataType": "String", "StringValue": "message-7:1"},
    }
    assert deleted["Entries"][0]["ReceiptHandle"] == delivery.receipt


@pytest.mark.parametrize(
    ("max_receives", "receive_count", "copied"),
    [(3, 1, False), (3, 2, True), (3, 3, True), (10, 8, False), (10, 9, True), (1, 1, False)],
)
async def test_the_last_receives_are_kept_for_crashes(
    max_receives: int, receive_count: int, copied: bool
) -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        queue.configure(max_receives=max_receives, max_bytes=None)
        await queue.release([(make_delivery(receive_count=receive_count), 0.0)])
    assert ("SendMessageBatch" in operations(server)) is copied


async def test_what_could_not_be_copied_is_not_deleted() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = failing("SendMessageBatch", Code="InternalError", SenderFault=False)
        (verdict,) = await queue.release([(make_delivery(), 5.0)])
    assert isinstance(verdict, TryAgain)
    assert operations(server) == ["SendMessageBatch"]


@pytest.mark.parametrize("broken", ["an entry", "the request"])
async def test_a_copy_that_was_sent_is_not_sent_again(broken: str) -> None:
    """The old message comes back once and is found to be an extra copy."""

    def reply(request: Request) -> Answer:
        return (
            error("AccessDenied") if request.operation.startswith("Delete") else all_well(request)
        )

    async with serving() as server, queue_on(server) as queue:
        server.default = (
            failing("DeleteMessageBatch", Code="InternalError", SenderFault=False)
            if broken == "an entry"
            else reply
        )
        assert await queue.release([(make_delivery(), 5.0)]) == [Done()]


# --- dead letters ---------------------------------------------------------------------------


async def test_a_dead_letter_is_sent_before_the_message_is_deleted() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        assert await queue.dead_letter([dead_lettering(make_delivery())]) == [Done()]
    assert operations(server) == [
        "ChangeMessageVisibilityBatch",
        "SendMessageBatch",
        "DeleteMessageBatch",
    ]
    lease, sent, deleted = [request.parameters for request in server.requests]
    assert lease["Entries"][0]["VisibilityTimeout"] > 0
    assert sent["QueueUrl"] == URLS.dead
    assert deleted["QueueUrl"] == URLS.queue


async def test_what_another_owns_is_not_dead_lettered() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = failing(
            "ChangeMessageVisibilityBatch", Code="ReceiptHandleIsInvalid", SenderFault=True
        )
        assert await queue.dead_letter([dead_lettering(make_delivery())]) == [LeaseLost()]
    assert operations(server) == ["ChangeMessageVisibilityBatch"]


async def test_what_could_not_be_dead_lettered_is_not_deleted() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = failing("SendMessageBatch", Code="InternalError", SenderFault=False)
        (verdict,) = await queue.dead_letter([dead_lettering(make_delivery())])
    assert isinstance(verdict, TryAgain)
    assert "DeleteMessageBatch" not in operations(server)


async def test_a_purge_too_soon_says_when_to_try_again() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.script.append(answer({"Attributes": {"ApproximateNumberOfMessages": "3"}}))
        server.default = error("PurgeQueueInProgress", status=403)
        with pytest.raises(BackendUnavailable) as caught:
            await queue.dead_letters.purge()
    assert caught.value.retry_after == 60


@pytest.mark.parametrize("look", ["list", "take"])
async def test_dead_letters_that_were_looked_at_are_given_back_even_when_it_is_cancelled(
    look: str,
) -> None:
    def reply(request: Request) -> Answer:
        if request.operation == "ReceiveMessage":
            if operations(server).count("ReceiveMessage") > 1:
                scope.cancel()
                return Answer(then="hang")
            return answer({"Messages": messages_of(4)})
        return all_well(request)

    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        with trio.CancelScope() as scope:
            if look == "list":
                await queue.dead_letters.page(limit=10)
            else:
                await queue.dead_letters.take(limit=10)
        assert scope.cancelled_caught
    last = server.requests[-1]
    assert last.operation == "ChangeMessageVisibilityBatch"
    assert last.parameters["QueueUrl"] == URLS.dead
    entries = last.parameters["Entries"]
    assert {(one["ReceiptHandle"], one["VisibilityTimeout"]) for one in entries} == {
        (f"r{i}", 0) for i in range(4)
    }


@pytest.mark.parametrize("there", [4, 0])
async def test_a_look_at_dead_letters_does_not_wait_for_more(there: int) -> None:
    """SQS says how many there are: to be sure of it takes a receive of a second."""

    def reply(request: Request) -> Answer:
        if request.operation == "GetQueueAttributes":
            return answer({"Attributes": {"ApproximateNumberOfMessages": str(there)}})
        if request.operation == "ReceiveMessage":
            return answer({"Messages": messages_of(there)})
        return all_well(request)

    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        page = await queue.dead_letters.page(limit=10)
    assert len(page.dead_letters) == there
    first, receive, *rest = server.requests
    assert (first.operation, receive.operation) == ("GetQueueAttributes", "ReceiveMessage")
    assert (receive.parameters["WaitTimeSeconds"] > 0) is (there > 0)
    assert [one.operation for one in rest] == ["ChangeMessageVisibilityBatch"] * (there > 0)


@pytest.mark.parametrize("other", ["list", "take"])
async def test_looks_of_one_process_do_not_hide_dead_letters_from_each_other(other: str) -> None:
    hidden, watched = False, trio.Event()

    def reply(request: Request) -> Answer:
        nonlocal hidden
        if request.operation == "GetQueueAttributes":
            return answer({"Attributes": {"ApproximateNumberOfMessages": "2"}})
        if request.operation == "ReceiveMessage":
            shown = [] if hidden else messages_of(2)
            hidden = True
            watched.set()
            # The watcher's last receive waits, and so long hides what it has seen.
            return replace(answer({"Messages": shown}), delay=0.0 if shown else 0.5)
        hidden = hidden and request.operation != "ChangeMessageVisibilityBatch"
        return all_well(request)

    async with serving() as server, queue_on(server) as queue, trio.open_nursery() as nursery:
        server.default = reply
        nursery.start_soon(queue.dead_letters.moved_by_broker)
        with trio.fail_after(10):
            await watched.wait()
        if other == "list":
            found = (await queue.dead_letters.page(limit=10)).dead_letters
        else:
            found = tuple(await queue.dead_letters.take(limit=2))
        assert {one.id for one in found} == {"m0", "m1"}


async def test_the_watcher_looks_only_where_something_may_have_changed() -> None:
    count = 0

    def reply(request: Request) -> Answer:
        if request.operation == "GetQueueAttributes":
            return answer({"Attributes": {"ApproximateNumberOfMessages": str(count)}})
        if request.operation == "ReceiveMessage":
            looks.append(request)
            return answer({"Messages": messages_of(count) if len(looks) % 2 else []})
        return all_well(request)

    looks: list[Request] = []
    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        assert list(await queue.dead_letters.moved_by_broker()) == []
        assert not looks
        count = 2
        found = await queue.dead_letters.moved_by_broker()
        assert [dead_letter.message_id for dead_letter in found] == ["m0", "m1"]
        assert len(looks) == 2
        assert await queue.dead_letters.moved_by_broker() == found
        assert len(looks) == 2
        count = 3
        assert len(await queue.dead_letters.moved_by_broker()) == 3
        assert len(looks) == 4


async def test_very_many_dead_letters_do_not_hide_one_that_sqs_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is handed out last, behind those that engines have written."""
    # So many requests take a busy machine longer than the engine waits for them.
    monkeypatch.setattr(dead_letters, "_LONGEST_SEARCH", 60.0)
    monkeypatch.setattr(dead_letters, "_ANSWER_TIMEOUT", 60.0)
    monkeypatch.setattr(dead_letters, "_GIVE_BACK_TIMEOUT", 60.0)
    monkeypatch.setattr(dead_letters, "_LOOK_LEASE", 120)
    monkeypatch.setattr(queue_client, "CALL_TIMEOUT", 60.0)
    number = 2_500
    written = {"Reason": {"DataType": "String", "StringValue": "attempts exhausted"}}
    waiting = [
        {
            "MessageId": f"m{i}",
            "ReceiptHandle": f"r{i}",
            "Body": f'{{"id":"t{i}"}}',
            "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1"},
            **({"MessageAttributes": written} if i < number - 1 else {}),
        }
        for i in range(number)
    ]
    given_back: set[str] = set()
    left = list(waiting)

    def reply(request: Request) -> Answer:
        if request.operation == "GetQueueAttributes":
            return answer({"Attributes": {"ApproximateNumberOfMessages": str(number)}})
        if request.operation == "ReceiveMessage":
            found = left[:10]
            del left[:10]
            return answer({"Messages": found})
        given_back.update(entry["ReceiptHandle"] for entry in request.parameters["Entries"])
        return all_well(request)

    async with serving() as server, queue_on(server) as queue:
        server.default = reply
        (found,) = await queue.dead_letters.moved_by_broker()
        assert (found.task_id, found.message_id) == (f"t{number - 1}", f"m{number - 1}")
        assert given_back == {f"r{i}" for i in range(number)}
        # A look at so many is not made again because some have come or gone.
        looks = len(server.requests)
        number += 7
        assert await queue.dead_letters.moved_by_broker() == (found,)
        assert len(server.requests) == looks + 1
