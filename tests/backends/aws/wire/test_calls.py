"""One call at a time and many at once, against a server that does as it should."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.errors import (
    AwsRequestFailed,
    EndpointUnreachable,
    UnexpectedAnswer,
)
from task_queue_engine.errors import BackendError, BackendUnavailable
from tests.backends.aws.wire.canned import CLOSE, HANG, Answer, answer, error
from tests.backends.aws.wire.opened_client import delete, elapsed_since, opened, put, receive


async def test_a_call(server, virtual_clock):
    server.script.append(answer({"Successful": [{"Id": "0"}]}))
    async with opened(server.url, virtual_clock) as client:
        assert await delete(client) == {"Successful": [{"Id": "0"}]}
    (request,) = server.requests
    assert request.head == "POST / HTTP/1.1"
    assert request.headers["x-amz-target"] == "AmazonSQS.DeleteMessageBatch"
    assert request.headers["content-type"] == "application/x-amz-json-1.0"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["user-agent"].startswith("task-queue-engine/")
    assert request.parameters == {"QueueUrl": "q", "Entries": [{"Id": "0", "ReceiptHandle": "r"}]}


async def test_each_service_has_its_target_and_scope(server, virtual_clock):
    async with opened(server.url, virtual_clock) as client:
        await put(client)
        await receive(client)
    targets = [request.headers["x-amz-target"] for request in server.requests]
    assert targets == ["DynamoDB_20120810.PutItem", "AmazonSQS.ReceiveMessage"]
    scopes = [request.headers["authorization"].split("/")[2:4] for request in server.requests]
    assert scopes == [["eu-central-1", "dynamodb"], ["eu-central-1", "sqs"]]


async def test_text_of_any_script_arrives(server, virtual_clock):
    text = 'h\u00e9 \U0001f600 \u2028 \\ " \x01'
    server.default = lambda request: answer(request.parameters)
    async with opened(server.url, virtual_clock) as client:
        assert await client.call("sqs", "SendMessage", {"MessageBody": text}) == {
            "MessageBody": text
        }


async def test_an_empty_answer_is_an_empty_result(server, virtual_clock):
    server.script.append(answer(body=b""))
    async with opened(server.url, virtual_clock) as client:
        assert await delete(client) == {}


async def test_a_refusal_carries_what_the_service_said(server, virtual_clock):
    server.script.append(
        answer(
            {
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "Message": "why\n  so",
                "CancellationReasons": [{"Code": "ConditionalCheckFailed"}],
            },
            status=400,
        )
    )
    async with opened(server.url, virtual_clock) as client:
        with pytest.raises(AwsRequestFailed) as caught:
            await put(client)
    failed = caught.value
    assert (failed.code, failed.message, failed.status) == (
        "TransactionCanceledException",
        "why so",
        400,
    )
    assert failed.answer["CancellationReasons"] == [{"Code": "ConditionalCheckFailed"}]
    assert str(failed) == (
        f"DynamoDB PutItem at {server.url}: TransactionCanceledException: why so"
    )
    assert isinstance(failed, BackendError)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (error("QueueDoesNotExist"), "QueueDoesNotExist"),
        (answer({"__type": "AWS.SimpleQueueService.NonExistentQueue"}, status=400),
         "QueueDoesNotExist"),
        (answer({"code": "ValidationException"}, status=400), "ValidationException"),
        (answer({}, status=400, x_amzn_errortype="ResourceNotFoundException:http://x/"),
         "ResourceNotFoundException"),
    ],
)  # fmt: skip
async def test_an_error_is_named_without_its_decorations(server, virtual_clock, said, code):
    server.script.append(said)
    async with opened(server.url, virtual_clock) as client:
        with pytest.raises(AwsRequestFailed) as caught:
            await delete(client)
    assert caught.value.code == code


async def test_connections_are_used_again(server, virtual_clock):
    async with opened(server.url, virtual_clock) as client:
        for _ in range(5):
            await delete(client)
    assert [request.connection for request in server.requests] == [0] * 5
    await server.closed[0].wait()


async def test_a_connection_the_server_closed_meanwhile_is_replaced(server, virtual_clock):
    server.script.append(Answer(answer({"n": 1}).data, then="close"))
    server.script.append(answer({"n": 2}))
    async with opened(server.url, virtual_clock) as client:
        await delete(client)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await delete(client) == {"n": 2}
        assert client.statistics().requests == 2


async def test_a_connection_closed_just_as_it_is_used_costs_no_retry(server, virtual_clock):
    server.script.extend([answer({"n": 1}), CLOSE, answer({"n": 2})])
    async with opened(server.url, virtual_clock) as client:
        await delete(client)
        start = trio.current_time()
        assert await delete(client) == {"n": 2}
        assert elapsed_since(start) == 0
        counted = client.statistics().operations["sqs", "DeleteMessageBatch"]
    assert (counted.requests, counted.retries) == (3, 0)
    assert [request.connection for request in server.requests] == [0, 0, 1]


async def test_and_the_next_one_is_a_new_one(server, virtual_clock):
    """A server that goes away takes all of our connections with it."""
    server.default = Answer(answer().data, delay=1)
    async with opened(server.url, virtual_clock) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(delete, client)
        server.script.extend([CLOSE, answer({"n": 1})])
        assert await delete(client) == {"n": 1}
    assert server.requests[-1].connection == 3


async def test_a_call_that_outlives_the_block(server, virtual_clock):
    server.default = Answer(answer({"n": 1}).data, delay=1)
    got = []

    async def take(client: AwsClient) -> None:
        got.append(await delete(client))

    async with trio.open_nursery() as nursery:
        async with opened(server.url) as client:
            nursery.start_soon(take, client)
            await server.arrived.wait()
        virtual_clock.jump(1)
        await server.closed[0].wait()
    assert got == [{"n": 1}]


async def test_connections_grow_old(server, virtual_clock):
    async with opened(server.url, virtual_clock, max_idle=50) as client:
        await delete(client)
        await trio.sleep(49)
        await delete(client)
        await trio.sleep(51)
        await delete(client)
    assert [request.connection for request in server.requests] == [0, 0, 1]


async def test_the_least_recently_used_connections_are_let_go(server, virtual_clock):
    async with opened(server.url, virtual_clock, max_idle=50) as client:
        server.default = Answer(answer().data, delay=1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(delete, client)
        server.default = answer()
        for _ in range(6):
            await trio.sleep(10)
            await delete(client)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sum(event.is_set() for event in server.closed.values()) == 2


async def test_long_polls_do_not_keep_acks_waiting(server, virtual_clock):
    server.default = lambda request: HANG if request.operation == "ReceiveMessage" else answer()
    async with (
        opened(server.url, virtual_clock, max_connections=2) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(4):
            nursery.start_soon(receive, client)
        await server.arrived.wait()
        start = trio.current_time()
        for _ in range(10):
            await delete(client)
        assert elapsed_since(start) == 0
        nursery.cancel_scope.cancel()
    assert len({request.connection for request in server.requests}) == 3


async def test_a_service_in_trouble_does_not_keep_the_other_waiting(server, virtual_clock):
    server.default = lambda request: HANG if request.operation == "PutItem" else answer()
    async with (
        opened(server.url, virtual_clock, max_connections=1) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(put, client)
        await server.arrived.wait()
        start = trio.current_time()
        await delete(client)
        assert elapsed_since(start) == 0
        nursery.cancel_scope.cancel()


async def test_more_calls_than_connections_take_turns(server, virtual_clock):
    server.default = Answer(answer().data, delay=1)
    async with opened(server.url, virtual_clock, max_connections=2) as client:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(delete, client)
        assert elapsed_since(start) == pytest.approx(3)
    assert server.connections == 2


async def test_cancelling_closes_the_connection(server, virtual_clock):
    server.script.append(HANG)
    async with opened(server.url, virtual_clock) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, client)
            await server.arrived.wait()
            nursery.cancel_scope.cancel()
        await server.closed[0].wait()
        assert await delete(client) == {}


async def test_cancelling_a_call_that_waits_for_a_connection(server, virtual_clock):
    server.script.append(HANG)
    async with opened(server.url, virtual_clock, max_connections=1) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete, client)
            await server.arrived.wait()
            with trio.move_on_after(1) as waited:
                await delete(client)
            assert waited.cancelled_caught
            nursery.cancel_scope.cancel()
        assert await delete(client) == {}  # its place was given back
    assert len(server.requests) == 2


async def test_an_answer_that_has_begun_is_read_to_its_end(server, virtual_clock):
    whole = answer({"Messages": [{"MessageId": "m"}]}).data
    got = []

    async def take(client: AwsClient) -> None:
        got.append(await receive(client))

    server.script.append(Answer(whole[:-5], rest=whole[-5:], pause=1.0))
    async with opened(server.url, virtual_clock) as client, trio.open_nursery() as nursery:
        nursery.start_soon(take, client)
        await server.arrived.wait()
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
    assert got == [{"Messages": [{"MessageId": "m"}]}]


async def test_but_not_for_ever(server, virtual_clock):
    server.script.append(Answer(answer().data[:-1], then="hang"))
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, client)
            await server.arrived.wait()
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
        assert elapsed_since(start) == pytest.approx(2)
        await server.closed[0].wait()


async def test_a_silent_server(server, virtual_clock):
    server.default = HANG
    async with opened(server.url, virtual_clock, request_timeout=3, total_timeout=30) as client:
        start = trio.current_time()
        with pytest.raises(EndpointUnreachable, match=r"no answer within 3 s"):
            await delete(client)
        assert 9 <= elapsed_since(start) < 10
    assert len(server.requests) == 3


async def test_a_call_ends_within_its_timeout(server, virtual_clock):
    server.default = HANG
    async with opened(server.url, virtual_clock) as client:
        start = trio.current_time()
        with pytest.raises(BackendUnavailable):
            await delete(client, timeout=5)
        assert elapsed_since(start) == pytest.approx(5)
        start = trio.current_time()
        with pytest.raises(BackendUnavailable):
            await delete(client)
        assert elapsed_since(start) == pytest.approx(30, abs=1)


async def test_no_free_connection_in_time(server, virtual_clock):
    server.default = HANG
    async with (
        opened(server.url, virtual_clock, max_connections=1) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_swallow, client)
        await server.arrived.wait()
        with pytest.raises(EndpointUnreachable, match="no connection within 5 s"):
            await delete(client, timeout=5)
        nursery.cancel_scope.cancel()


async def _swallow(client: AwsClient) -> None:
    with pytest.raises(BackendUnavailable):
        await delete(client)


async def test_a_long_poll_may_wait_as_long_as_it_asked_to(server, virtual_clock):
    server.script.append(Answer(answer({"Messages": []}).data, delay=20))
    async with opened(server.url, virtual_clock, request_timeout=3) as client:
        assert await receive(client, wait=20) == {"Messages": []}
    assert len(server.requests) == 1


async def test_a_long_poll_that_gets_no_answer_at_all(server, virtual_clock):
    server.default = HANG
    async with opened(server.url, virtual_clock, request_timeout=3) as client:
        start = trio.current_time()
        with pytest.raises(EndpointUnreachable, match=r"no answer within 23\.5 s"):
            await receive(client, wait=20, timeout=23.5)
        assert elapsed_since(start) == pytest.approx(23.5)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("said", "error_type", "text"),
    [
        (answer(body=b"<html>Welcome</html>", content_type="text/html"), UnexpectedAnswer,
         "not JSON (HTTP 200, text/html): '<html>Welcome</html>'"),
        (answer(body=b"[1]"), UnexpectedAnswer, "not a JSON object"),
        (answer(body=b'{"a": "\xff"}'), UnexpectedAnswer, "not JSON"),
        (answer(body=b"[" * 2000), UnexpectedAnswer, "not JSON"),
        (answer(body=b"Forbidden", status=403), UnexpectedAnswer, "HTTP 403"),
        (answer({"error": "no"}, status=404), UnexpectedAnswer, "HTTP 404 without an error code"),
        (answer(body=b"", status=301, location="http://elsewhere/"), UnexpectedAnswer, "HTTP 301"),
        (answer({"a": 1}, content_encoding="gzip"), UnexpectedAnswer, "encoded (gzip)"),
        (answer({"a": 1}, x_amz_crc32="1"), UnexpectedAnswer, "checksum"),
        (answer(body=b"<html>Bad Gateway</html>", status=502), BackendUnavailable, "HTTP 502"),
        (Answer(b"SSH-2.0-x\r\n"), UnexpectedAnswer, "not HTTP"),
        (answer(body=b"x" * 2001), UnexpectedAnswer, "larger than 2000 bytes"),
        (CLOSE, EndpointUnreachable, "closed before an answer came"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_of_the_service(server, virtual_clock, said, error_type, text):
    server.default = said
    async with opened(server.url, virtual_clock, max_response_bytes=2000) as client:
        with pytest.raises(BackendUnavailable) as caught:
            await put(client)
    assert type(caught.value) is error_type
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"DynamoDB PutItem at {server.url}: ")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 4


async def test_a_right_checksum(server, virtual_clock):
    server.script.append(answer(body=b"{}", x_amz_crc32="2745614147"))
    async with opened(server.url, virtual_clock) as client:
        assert await put(client) == {}


async def test_nothing_listens(server, virtual_clock):
    async with opened("http://127.0.0.1:1", virtual_clock, max_connections=1) as client:
        with pytest.raises(EndpointUnreachable, match="cannot connect: Connection refused"):
            await put(client)


async def test_statistics(server, virtual_clock):
    server.script.extend(
        [
            error("ThrottlingException"),
            answer({"ConsumedCapacity": {"TableName": "t", "CapacityUnits": 1.5}}),
            answer({"ConsumedCapacity": [{"CapacityUnits": 2.0}, {"CapacityUnits": 0.5}]}),
            error("ValidationException"),
            answer(),
        ]
    )
    async with opened(server.url, virtual_clock) as client:
        await put(client)
        await put(client)
        with pytest.raises(AwsRequestFailed):
            await put(client)
        await delete(client)
        statistics = client.statistics()
    puts = statistics.operations["dynamodb", "PutItem"]
    assert (puts.requests, puts.retries, puts.throttles, puts.failures) == (4, 1, 1, 1)
    assert puts.capacity_units == 4.0
    assert statistics.operations["sqs", "DeleteMessageBatch"].requests == 1
    assert statistics.requests == 5
    assert statistics.connections_opened == 2


async def test_calls_only_inside_open(server, virtual_clock):
    client = AwsClient(endpoints={"sqs": server.url, "dynamodb": server.url})
    with pytest.raises(RuntimeError, match="open"):
        await delete(client)
    async with client.open():
        await delete(client)
        with pytest.raises(RuntimeError, match="open already"):
            async with client.open():
                pass
        assert client.region == "eu-central-1"
        assert client.endpoint("sqs") == server.url
    with pytest.raises(RuntimeError, match="open"):
        await delete(client)
    await server.closed[0].wait()


async def test_an_error_in_the_block_comes_out_as_it_is(server, virtual_clock):
    with pytest.raises(ZeroDivisionError):
        async with opened(server.url, virtual_clock):
            raise ZeroDivisionError
