"""Errors inside an answer of 200, throttles, what is left undone, and missing permissions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed, Throttled
from task_queue_engine.backends.base import Counts, Created, NewTask, TooLarge, TryAgain
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    CancelledNow,
    Complete,
    DuplicateDelivery,
    Fenced,
    Interrupt,
    Missing,
    Progress,
    Recorded,
    Started,
)
from task_queue_engine.task import TaskStatus, new_task_id
from tests.backends.aws.dynamodb.faults import (
    FaultyClient,
    Parameters,
    Send,
    failing,
    not_sent,
    nothing_explained,
    nothing_wrong,
    statements_failing,
)
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import (
    create,
    get,
    known_of,
    make_task,
    record_all,
    request_of,
    start,
)

batches_only = pytest.mark.parametrize("table", ["dynamodb-local"], indirect=True)

ANSWERED = 1.0
"""Seconds without an event after which a local server has answered what it was asked, on a busy
machine too."""

PASSING = [
    "ThrottlingError",
    "ProvisionedThroughputExceeded",
    "RequestLimitExceeded",
    "InternalServerError",
    "TransactionConflict",
]


@batches_only
@pytest.mark.parametrize("code", PASSING)
async def test_statements_left_undone_are_tried_again(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, code: str
) -> None:
    tasks = await create(store, clock, 5)
    client.statements.clear()
    client.arm(statements_failing(code, code), "BatchExecuteStatement", times=2)

    verdicts = await store.claim([request_of(task.id) for task in tasks])

    assert [verdict.task.id for verdict in verdicts if isinstance(verdict, Started)] == [
        task.id for task in tasks
    ]
    # Only what failed is sent again.
    assert client.statements == [5, 2, 2]
    assert await store.counts() == Counts(processing=5)


@batches_only
async def test_throttled_for_long(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """The call fails within its time; repeated, it starts each task once."""
    tasks = await create(store, clock, 3)
    requests = [request_of(task.id) for task in tasks]
    client.arm(statements_failing("ThrottlingError"), "BatchExecuteStatement", times=1000)
    with trio.fail_after(9), pytest.raises(BackendUnavailable, match="ThrottlingError"):
        await store.claim(requests)
    client.disarm()

    verdicts = await store.claim(requests)

    assert [type(verdict) for verdict in verdicts] == [Started] * 3
    assert {verdict.task.attempt for verdict in verdicts} == {1}
    assert await store.counts() == Counts(processing=3)


@batches_only
async def test_one_submission_that_is_throttled_does_not_fail_the_others(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    client.arm(statements_failing("ThrottlingError"), "BatchExecuteStatement", times=1000)
    verdicts = await store.create([NewTask(task=make_task(clock)) for _ in range(3)])
    assert isinstance(verdicts[0], TryAgain)
    assert verdicts[1:] == [Created(), Created()]
    assert await store.counts() == Counts(pending=2)


@batches_only
async def test_an_outcome_that_is_throttled_holds_up_no_other(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """And is recorded once when it is written again."""
    tasks = await start(store, clock, 3)
    endings = [Complete(task_id=task.id, attempt=1, result=1) for task in tasks]
    client.statements.clear()
    client.arm(statements_failing("ThrottlingError"), "BatchExecuteStatement", times=1000)
    verdicts = await store.record(endings)
    assert isinstance(verdicts[0], TryAgain)
    assert verdicts[1:] == [Recorded(TaskStatus.COMPLETED)] * 2
    assert client.statements == [3, 1, 1], "others wait for their answers"
    client.disarm()
    assert await store.record(endings[:1]) == [Recorded(TaskStatus.COMPLETED)]
    assert await store.counts() == Counts(completed=3)


async def test_a_throttled_request_is_a_backend_in_trouble(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    client.arm_writes(failing(Throttled("slow down")), times=10)
    with pytest.raises(BackendUnavailable, match="slow down"):
        await store.create([NewTask(task=make_task(clock))])


@batches_only
@pytest.mark.parametrize("code", ["AccessDenied", "ResourceNotFound"])
async def test_a_statement_that_may_not_be_carried_out(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, code: str
) -> None:
    """Not tried again in a hurry, and nothing is lost: work waits until an operator mends it."""
    tasks = await start(store, clock, 2)
    client.arm(statements_failing(code), "BatchExecuteStatement")
    endings = [Complete(task_id=task.id, attempt=1, result=1) for task in tasks]
    with pytest.raises(BackendUnavailable, match=code) as caught:
        await store.record(endings)
    assert caught.value.retry_after >= 5
    assert await store.record(endings) == [Recorded(TaskStatus.COMPLETED)] * 2
    assert await store.counts() == Counts(completed=2)


async def test_no_permission_in_mid_run(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    denied = AwsRequestFailed("AccessDeniedException", "no identity-based policy", 400)
    operations = ("BatchExecuteStatement", "PutItem", "GetItem", "BatchGetItem", "Query")
    client.arm(failing(denied), *operations, times=50)
    calls: list[Any] = [
        lambda: store.create([NewTask(task=make_task(clock))]),
        lambda: store.get([new_task_id()]),
        lambda: store.counts(),
        lambda: store.due("default", before=clock.now(), limit=1),
    ]
    for call in calls:
        with pytest.raises(BackendUnavailable, match="no identity-based policy"):
            await call()


@batches_only
async def test_a_request_refused_as_a_whole_spares_the_innocent(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """One parameter that DynamoDB does not take fails all 25 statements with it."""
    good, bad = make_task(clock), make_task(clock, max_attempts=10**140)
    verdicts = await store.create([NewTask(task=bad), NewTask(task=good)])
    assert isinstance(verdicts[0], TryAgain)
    assert verdicts[1] == Created()
    assert await store.get([bad.id, good.id]) == [None, good]


@batches_only
async def test_refusals_that_explain_nothing(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """Not every server says what stood in the way; then the rows are read."""
    (running,) = await start(store, clock)
    client.arm(nothing_explained, "BatchExecuteStatement", times=10)
    verdicts = await store.claim([request_of(running.id), request_of(new_task_id())])
    assert verdicts == [DuplicateDelivery(), Missing()]
    assert await store.record([Complete(task_id=running.id, attempt=7, result=1)]) == [Fenced()]


@batches_only
async def test_an_answer_for_another_number_of_statements(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    async def cut_short(send: Send, parameters: Parameters) -> dict[str, Any]:
        answer = await send(parameters)
        return answer | {"Responses": answer["Responses"][1:]}

    tasks = await create(store, clock, 2)
    requests = [request_of(task.id) for task in tasks]
    client.arm(cut_short, "BatchExecuteStatement")
    with pytest.raises(BackendUnavailable):
        await store.claim(requests)
    verdicts = await store.claim(requests)
    assert [type(verdict) for verdict in verdicts] == [Started] * 2
    assert await store.counts() == Counts(processing=2)


async def test_keys_left_unread_are_asked_for_again(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    tasks = await create(store, clock, 5)
    asked: list[int] = []

    async def half(send: Send, parameters: Parameters) -> dict[str, Any]:
        request = parameters["RequestItems"][table.name]
        keys = request["Keys"]
        asked.append(len(keys))
        now, later = keys[: len(keys) // 2], keys[len(keys) // 2 :]
        if not now:
            return {"Responses": {}, "UnprocessedKeys": {table.name: {"Keys": later}}}
        answer = await send({"RequestItems": {table.name: {**request, "Keys": now}}})
        return answer | {"UnprocessedKeys": {table.name: {"Keys": later}}}

    client.arm(half, "BatchGetItem", times=4)
    assert await store.get([task.id for task in tasks]) == tasks
    assert asked == [5, 3, 2, 1]


async def test_keys_left_unread_for_good(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    async def nothing(send: Send, parameters: Parameters) -> dict[str, Any]:
        return {"Responses": {}, "UnprocessedKeys": parameters["RequestItems"]}

    client.arm(nothing, "BatchGetItem", times=100)
    with pytest.raises(BackendUnavailable):
        await store.get([new_task_id(), new_task_id()])


async def test_a_batch_goes_out_in_requests_of_25(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, table: Table
) -> None:
    await create(store, clock, 60)
    if table.writes == "single":
        assert client.calls["PutItem"] == 60
    else:
        assert sorted(client.statements) == [10, 25, 25]


@batches_only
async def test_large_items_go_out_in_smaller_requests(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    await create(store, clock, 25, payload="x" * 300_000)
    assert len(client.statements) == 2


@batches_only
async def test_one_task_is_named_once_in_a_request(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """DynamoDB refuses a request that names an item twice. Order is kept all the same."""
    tasks = await start(store, clock, 2)
    client.statements.clear()
    writes = [
        *(Progress(task_id=task.id, attempt=1, value=1) for task in tasks),
        *(Complete(task_id=task.id, attempt=1, result=2) for task in tasks),
    ]
    assert (
        await store.record(writes)
        == [Recorded(TaskStatus.PROCESSING)] * 2 + [Recorded(TaskStatus.COMPLETED)] * 2
    )
    assert client.statements == [2, 2]


async def test_nothing_overtakes_a_write_without_an_answer(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    (task,) = await start(store, clock)
    writes = [
        Progress(task_id=task.id, attempt=1, value="half"),
        Complete(task_id=task.id, attempt=1, result="all"),
    ]
    client.arm_writes(not_sent)
    with pytest.raises(BackendUnavailable):
        await store.record(writes)
    client.disarm()
    assert (await get(store, task.id)).status is TaskStatus.PROCESSING

    assert await store.record(writes) == [
        Recorded(TaskStatus.PROCESSING),
        Recorded(TaskStatus.COMPLETED),
    ]
    assert (await get(store, task.id)).progress == "half"


async def test_a_write_that_is_under_way_is_not_cancelled(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    (task,) = await create(store, clock)
    under_way = trio.Event()

    async def slow(send: Send, parameters: Parameters) -> dict[str, Any]:
        under_way.set()
        await trio.sleep(0.05)
        return await send(parameters)

    client.arm_writes(slow)
    verdicts: list[Any] = []

    async def claim() -> None:
        verdicts.extend(await store.claim([request_of(task.id)]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim)
        await under_way.wait()
        nursery.cancel_scope.cancel()

    assert [type(verdict) for verdict in verdicts] == [Started]
    assert await store.counts() == Counts(processing=1)


async def test_a_write_to_a_silent_server_ends_in_time(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, mock_clock: MockClock
) -> None:
    """Shielded from cancellation, but not for ever."""
    (task,) = await create(store, clock)
    client.arm_writes(silent)
    mock_clock.autojump_threshold = ANSWERED
    start_time = trio.current_time()
    with pytest.raises(BackendUnavailable):
        await store.claim([request_of(task.id)])
    assert trio.current_time() - start_time < 10
    mock_clock.autojump_threshold = float("inf")
    client.disarm()
    (verdict,) = await store.claim([request_of(task.id)])
    assert isinstance(verdict, Started)


async def test_a_read_before_a_write_is_not_cancelled_either(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    (task,) = await create(store, clock)
    under_way = trio.Event()

    async def slow(send: Send, parameters: Parameters) -> dict[str, Any]:
        under_way.set()
        await trio.sleep(0.05)
        return await send(parameters)

    client.arm(slow, "GetItem")
    verdicts: list[Any] = []

    async def cancel() -> None:
        verdicts.extend(await store.cancel([task.id]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await under_way.wait()
        nursery.cancel_scope.cancel()

    assert [type(verdict) for verdict in verdicts] == [CancelledNow]
    assert (await get(store, task.id)).status is TaskStatus.CANCELLED


async def test_a_read_from_a_silent_server_ends_in_time(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, mock_clock: MockClock
) -> None:
    (task,) = await create(store, clock)
    client.arm(silent, "GetItem")
    mock_clock.autojump_threshold = 0.05
    start_time = trio.current_time()
    with pytest.raises(BackendUnavailable, match="did not answer within 8 s"):
        await store.cancel([task.id])
    assert trio.current_time() - start_time < 10
    mock_clock.autojump_threshold = float("inf")
    (verdict,) = await store.cancel([task.id])
    assert isinstance(verdict, CancelledNow)


async def silent(send: Send, parameters: Parameters) -> dict[str, Any]:
    await trio.sleep_forever()
    raise AssertionError


def arm_half(client: FaultyClient, *, done_before: int = 0) -> None:
    """Of the next write of two tasks one is carried out and the other one refused.

    Args:
        done_before: writes of both that go well.
    """
    client.arm(nothing_wrong, "BatchExecuteStatement", times=done_before)
    client.arm(statements_failing("AccessDenied"), "BatchExecuteStatement")
    client.arm(nothing_wrong, "UpdateItem", times=2 * done_before)
    client.arm(not_sent, "PutItem", "UpdateItem")


def interrupt(task_id: str) -> Interrupt:
    return Interrupt(task_id=task_id, attempt=1, record=known_of(ManualClock()))


PROCESSING = Counts(processing=2)
# By name: what the two tasks go through before, the call, its writes before the one of which half
# fails, and what the two count as afterwards.
STEPS: dict[str, tuple[str, Callable[[DynamoStore, list[str]], Any], int, Counts]] = {
    "start": ("create", lambda s, ids: s.claim([request_of(i) for i in ids]), 0, PROCESSING),
    "take over": (
        "start",
        lambda s, ids: s.claim([request_of(i, count=2) for i in ids]),
        1,
        PROCESSING,
    ),
    "exhaust": (
        "start the last",
        lambda s, ids: s.claim([request_of(i, count=2) for i in ids]),
        1,
        Counts(failed=2),
    ),
    "complete": (
        "start",
        lambda s, ids: record_all(s, [Complete(task_id=i, attempt=1, result=1) for i in ids]),
        0,
        Counts(completed=2),
    ),
    "interrupt": (
        "start",
        lambda s, ids: record_all(s, [interrupt(i) for i in ids]),
        0,
        Counts(pending=2),
    ),
    "interrupt where cancelled": (
        "cancel the running",
        lambda s, ids: record_all(s, [interrupt(i) for i in ids]),
        1,
        Counts(cancelled=2),
    ),
    "cancel": ("create", lambda s, ids: s.cancel(ids), 0, Counts(cancelled=2)),
    "reopen": ("cancel", lambda s, ids: s.reopen(ids), 0, Counts(pending=2)),
    "reclaim": ("start", lambda s, ids: s.reclaim([(i, 1) for i in ids]), 0, Counts(pending=2)),
}


@pytest.mark.parametrize("step", STEPS)
async def test_what_is_counted_is_not_counted_again(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, step: str
) -> None:
    """Half of a call is carried out; its repetitions are refused, again and again, and then not."""
    before, call, writes, counts = STEPS[step]
    most = 1 if before == "start the last" else 3
    ids = [task.id for task in await create(store, clock, 2, max_attempts=most)]
    if "start" in before or "running" in before:
        await store.claim([request_of(task_id) for task_id in ids])
    if "cancel" in before:
        await store.cancel(ids)

    arm_half(client, done_before=writes)
    with pytest.raises(BackendUnavailable):
        await call(store, ids)
    client.disarm()
    for _ in range(2):
        client.arm_writes(not_sent, times=2)
        with pytest.raises(BackendUnavailable):
            await call(store, ids)
        client.disarm()
    await call(store, ids)

    assert await store.counts() == counts
    assert {task.status.lower() for task in await store.get(ids) if task} == {
        name for name in Counts.__slots__ if getattr(counts, name)
    }


@pytest.mark.parametrize("call", ["create", "claim"])
async def test_what_was_answered_is_counted_though_the_rest_takes_too_long(
    store: DynamoStore,
    client: FaultyClient,
    clock: ManualClock,
    mock_clock: MockClock,
    call: str,
) -> None:
    """And the call is not repeated: a submitter answers its caller, a lease may be over."""
    tasks = [make_task(clock) for _ in range(2)]
    if call == "claim":
        await store.create([NewTask(task=task) for task in tasks])
    client.arm(statements_failing("ThrottlingError"), "BatchExecuteStatement")
    client.arm(silent, "BatchExecuteStatement", "PutItem", "UpdateItem")
    mock_clock.autojump_threshold = ANSWERED
    if call == "create":
        verdicts = await store.create([NewTask(task=task) for task in tasks])
        assert {type(verdict) for verdict in verdicts} == {TryAgain, Created}
    else:
        with pytest.raises(BackendUnavailable):
            await store.claim([request_of(task.id) for task in tasks])
    mock_clock.autojump_threshold = float("inf")
    client.disarm()

    rows = [task.status for task in await store.get([task.id for task in tasks]) if task]
    assert len(rows) == (1 if call == "create" else 2)
    assert await store.counts() == Counts(
        pending=rows.count(TaskStatus.PENDING), processing=rows.count(TaskStatus.PROCESSING)
    )


async def test_a_listing_does_not_hold_up_the_writes(
    table: Table, client: FaultyClient, clock: ManualClock
) -> None:
    store = table.store(client, clock=clock, concurrency=2)
    stuck = trio.Event()

    async def hanging(send: Send, parameters: Parameters) -> dict[str, Any]:
        await stuck.wait()
        return await send(parameters)

    async with store.open():
        (task,) = await create(store, clock)
        client.arm(hanging, "Query", times=2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.cancel_requested, [task.id])
            nursery.start_soon(store.cancel_requested, [task.id])
            await wait_all_tasks_blocked()
            with trio.fail_after(30):
                verdicts = await store.claim([request_of(task.id)])
            assert isinstance(verdicts[0], Started)
            stuck.set()


async def test_too_large_is_found_out_before_anything_is_sent(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    client.calls.clear()
    task = make_task(clock, payload="ü" * 200_000)
    (verdict,) = await store.create([NewTask(task=task)])
    assert isinstance(verdict, TooLarge)
    assert verdict.size > 400_000 > verdict.limit > 380_000
    assert not client.calls
    # The limit given is one that holds.
    fits = make_task(clock, payload="x" * (verdict.limit - 100))
    assert await store.create([NewTask(task=fits)]) == [Created()]
