"""Actions on many tasks: over which set they go, what they do, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import (
    ActionProgress,
    ActionRequest,
    Engine,
    Submission,
    Task,
    TaskAction,
    TaskFilter,
    TaskNotFound,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.backends.base import DeadLettering, DeadLetterPage, ListQuery
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.engine import actions
from task_queue_engine.errors import (
    InvalidQuery,
    RegistryError,
    UnknownTaskType,
    WrongState,
)
from task_queue_engine.lifecycle import PendingFailure, Progress
from task_queue_engine.task import TaskError
from task_queue_engine.task_actions import ACTION_TYPE, MAX_REFUSALS
from tests.engine.engines import claim_and_die, running

CANCEL, RETRY, REDRIVE, DELETE = TaskAction
ALL = TaskFilter()


def quiet_types() -> TaskRegistry:
    """`later`: submitted with a delay it stays PENDING."""
    tasks = TaskRegistry()

    @tasks.task("later")
    async def later(payload: Any) -> Any:
        return payload

    @tasks.task("other")
    async def other(payload: Any) -> Any:
        return payload

    @tasks.task("fails", max_attempts=1)
    async def fails(payload: Any) -> Any:
        raise ValueError(f"no route to {payload}")

    return tasks


async def submitted(
    engine: Engine, number: int, task_type: str = "later", *, delay: float = 3600
) -> list[str]:
    await trio.sleep(1e-6)  # later than those before, on the virtual clock
    batch = [Submission(task_type, n, delay=delay) for n in range(number)]
    return [created.task.id for created in await engine.submit_many(batch)]


async def failed(engine: Engine, number: int) -> list[str]:
    ids = await submitted(engine, number, "fails", delay=0)
    for task_id in ids:
        assert (await engine.wait(task_id, timeout=60)).status is TaskStatus.FAILED
    await trio.sleep(1)  # on the virtual clock: their dead letters are there
    return ids


async def act(
    engine: Engine, action: TaskAction, which: TaskFilter = ALL, **more: Any
) -> tuple[Task, ActionProgress]:
    await trio.sleep(0.01)
    task = await engine.start_action(ActionRequest(action=action, which=which, **more))
    assert task is not None
    return task, await ended(engine, task)


async def ended(engine: Engine, task: Task) -> ActionProgress:
    result = await engine.result(task.id, timeout=3000)
    return msgspec.convert(result, ActionProgress)


async def statuses(engine: Engine, ids: list[str]) -> list[TaskStatus]:
    return [(await engine.get(task_id)).status for task_id in ids]


async def test_cancel_by_filter_and_undo(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        ids = await submitted(engine, 250)
        others = await submitted(engine, 3, "other")
        before = await engine.cancel((await submitted(engine, 1))[0])
        which = TaskFilter(type="later")
        matching = await engine.preview_action(ActionRequest(action=CANCEL, which=which))
        assert (matching.matching, matching.at_least) == (250, False)

        task, said = await act(engine, CANCEL, which)

        assert (said.done, said.failed, said.skipped, said.of) == (250, 0, 0, 250)
        assert said.refusals == ()
        assert set(await statuses(engine, ids)) == {TaskStatus.CANCELLED}
        assert set(await statuses(engine, others)) == {TaskStatus.PENDING}
        assert (await engine.get(task.id)).progress["of"] == 250

        undo = await engine.undo_action(task.id)
        assert undo is not None
        said = await ended(engine, undo)
        assert (said.done, said.of) == (250, 250)
        assert TaskStatus.CANCELLED not in await statuses(engine, ids)
        assert (await engine.get(before.id)).status is TaskStatus.CANCELLED, "by another"


async def test_the_set_is_frozen_when_the_action_begins(backend: MemoryBackend) -> None:
    """What comes to pass the filter later is no part of it, though it was created before."""
    async with running(quiet_types(), backend) as engine:
        ids = await failed(engine, 150)
        (waiting,) = await submitted(engine, 1, "fails")
        store, listed = backend.store, backend.store.list_tasks

        async def list_tasks(query: ListQuery) -> Any:
            """While it is under way another one fails, and one is created and fails."""
            store.list_tasks = listed  # type: ignore[method-assign]
            await trio.sleep(0.01)
            new = await engine.submit("fails", 1, delay=3600)
            for task_id in (waiting, new.id):
                error = TaskError(type="ValueError", message="no route")
                await store.fail_pending([PendingFailure(task_id=task_id, attempt=0, error=error)])
            late.append(new.id)
            return await listed(query)

        late: list[str] = []
        store.list_tasks = list_tasks  # type: ignore[method-assign]
        _, said = await act(engine, DELETE, TaskFilter(error="NO ROUTE"))

        assert (said.done, said.of) == (150, 150)
        assert await statuses(engine, [waiting, *late]) == [TaskStatus.FAILED] * 2
        with pytest.raises(TaskNotFound):
            await engine.get(ids[0])


async def test_what_is_created_while_an_action_waits_is_no_part_of_it(
    backend: MemoryBackend,
) -> None:
    async with running(quiet_types(), backend, consume=False) as engine:
        ids = await submitted(engine, 3)
        await trio.sleep(0.01)
        task = await engine.start_action(ActionRequest(action=CANCEL))
        assert task is not None
        await trio.sleep(0.01)
        late = await submitted(engine, 2)
    async with running(quiet_types(), backend) as engine:
        said = await ended(engine, task)
        assert (said.done, said.of) == (3, 3)
        assert set(await statuses(engine, ids)) == {TaskStatus.CANCELLED}
        assert set(await statuses(engine, late)) == {TaskStatus.PENDING}


async def test_a_dead_letter_that_comes_later_is_no_part_of_a_redrive(
    backend: MemoryBackend,
) -> None:
    async with running(quiet_types(), backend) as engine:
        early = await failed(engine, 3)
    async with running(quiet_types(), backend, consume=False) as engine:
        task = await engine.start_action(ActionRequest(action=REDRIVE))
        assert task is not None
        await trio.sleep(0.01)
        # Another queue's worker ends it while the action waits for one.
        late = (await engine.submit("fails", 1)).id
        queue = backend.queue("default")
        deliveries = await queue.receive(2, wait=0, visibility=600)
        (delivery,) = [each for each in deliveries if each.task_id == late]
        error = TaskError(type="ValueError", message="no route")
        await backend.store.fail_pending([PendingFailure(task_id=late, attempt=0, error=error)])
        await queue.dead_letter(
            [DeadLettering(delivery=delivery, reason="", at=backend.clock.now())]
        )
        await queue.release([(each, 0.0) for each in deliveries if each is not delivery])
    async with running(quiet_types(), backend) as engine:
        said = await ended(engine, task)
        assert said.done == 3
        assert (await engine.get(late)).attempt == 0
        assert {(await engine.wait(each, timeout=60)).attempt for each in early} == {2}


def hide_dead_letters(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """As SQS does from all but the one who looks at them."""
    dead_letters = backend.queue("default").dead_letters
    page, visible_again = dead_letters.page, trio.current_time() + seconds

    async def looks(**values: Any) -> DeadLetterPage:
        if trio.current_time() < visible_again:
            return DeadLetterPage(dead_letters=(), next_cursor=None)
        return await page(**values)

    monkeypatch.setattr(dead_letters, "page", looks)


async def test_dead_letters_that_another_looks_at_are_waited_for(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend(clock=TrioClock())
    async with running(quiet_types(), backend) as engine:
        await failed(engine, 3)
        hide_dead_letters(backend, monkeypatch, 1)
        task = await engine.start_action(ActionRequest(action=REDRIVE))
        assert task is not None
        said = await ended(engine, task)
        assert (said.done, said.of) == (3, 3)


async def test_dead_letters_that_are_there_again_are_counted(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's look was over between two of this one."""
    async with running(quiet_types(), backend) as engine:
        await failed(engine, 3)
        dead_letters = backend.queue("default").dead_letters
        page, looks = dead_letters.page, 0

        async def sees(**values: Any) -> DeadLetterPage:
            nonlocal looks
            looks += 1
            return (
                DeadLetterPage(dead_letters=(), next_cursor=None)
                if looks == 1
                else (await page(**values))
            )

        monkeypatch.setattr(dead_letters, "page", sees)
        assert (await engine.preview_action(ActionRequest(action=REDRIVE))).matching == 3


async def test_dead_letters_that_were_hidden_while_they_were_counted_are_counted(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another looked at them just then."""
    async with running(quiet_types(), backend) as engine:
        await failed(engine, 3)
    async with running(quiet_types(), backend, consume=False) as engine:
        task = await engine.start_action(ActionRequest(action=REDRIVE))
        assert task is not None
    dead_letters = backend.queue("default").dead_letters
    page, looks = dead_letters.page, 0

    async def sees(**values: Any) -> DeadLetterPage:
        nonlocal looks
        looks += 1
        if looks == 2:  # the first asks whether any are hidden
            return DeadLetterPage(dead_letters=(), next_cursor=None)
        return await page(**values)

    monkeypatch.setattr(dead_letters, "page", sees)
    async with running(quiet_types(), backend) as engine:
        said = await ended(engine, task)
        assert (said.done, said.skipped, said.of) == (3, 0, 3)


async def test_dead_letters_that_a_worker_has_taken_that_died_are_waited_for(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS hides them for a minute."""
    backend = MemoryBackend(clock=TrioClock())
    async with running(quiet_types(), backend) as engine:
        ids = await failed(engine, 3)
    async with running(quiet_types(), backend, consume=False) as engine:
        task = await engine.start_action(ActionRequest(action=REDRIVE))
        assert task is not None
    await claim_and_die(backend)
    hide_dead_letters(backend, monkeypatch, 80)
    async with running(quiet_types(), backend) as engine:
        said = await ended(engine, task)
        assert (said.done, said.of) == (3, 3)
        assert {(await engine.wait(each, timeout=60)).attempt for each in ids} == {2}


async def test_two_people_press_retry_at_once(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend, worker_count=3) as engine:
        ids = await failed(engine, 4)
        await submitted(engine, 1)
        request = ActionRequest(action=RETRY, ids=tuple(ids))
        first = await engine.start_action(request)
        second = await engine.start_action(request)
        assert first is not None
        assert second is not None
        said = [await ended(engine, first), await ended(engine, second)]
        assert sum(each.done for each in said) == 4
        assert sum(each.skipped for each in said) == 4
        reasons = {each.reason for one in said for each in one.refusals}
        assert reasons <= {"it is PENDING already", "it is PROCESSING already"}
        for task_id in ids:
            assert (await engine.history(task_id)).attempts[-1].number == 2, "once each"


async def test_redrive_of_the_dead_letters_of_tasks_that_pass(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        ids = await failed(engine, 3)
        request = ActionRequest(action=REDRIVE, which=TaskFilter(error="route to 1"))
        assert (await engine.preview_action(request)).matching == 1
        _, said = await act(engine, REDRIVE, request.which)
        assert (said.done, said.skipped, said.of) == (1, 0, 1)
        await engine.wait(ids[1], timeout=60)
        await trio.sleep(1)
        attempts = [(await engine.get(task_id)).attempt for task_id in ids]
        assert attempts == [1, 2, 1]
        assert len((await engine.list_dead()).dead_letters) == 3, "its new one, no old one"


async def test_delete_of_one_and_of_many(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        done = (await engine.submit("other", 1)).id
        await engine.result(done)
        (waiting,) = await submitted(engine, 1)
        await engine.delete(done)
        with pytest.raises(TaskNotFound):
            await engine.get(done)
        with pytest.raises(TaskNotFound):
            await engine.delete(done)
        with pytest.raises(WrongState, match="only what has ended can be deleted"):
            await engine.delete(waiting)
        _, said = await act(engine, DELETE, ids=(waiting, done))
        assert (said.done, said.skipped) == (0, 2)
        assert [each.reason for each in said.refusals] == [
            "it is PENDING: only what has ended can be deleted",
            "there is no such task",
        ]


async def test_a_filter_that_matches_nothing(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        await submitted(engine, 2)
        request = ActionRequest(action=RETRY)
        assert (await engine.preview_action(request)).matching == 0
        assert await engine.start_action(request) is None
        assert len((await engine.list_tasks(ListQuery())).tasks) == 2, "no task was made"


async def test_refusals_are_bounded(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        ids = await submitted(engine, 2 * MAX_REFUSALS)
        _, said = await act(engine, RETRY, ids=tuple(ids))
        assert said.skipped == 2 * MAX_REFUSALS
        assert len(said.refusals) == MAX_REFUSALS


@pytest.mark.parametrize("action", [CANCEL, RETRY, DELETE])
@pytest.mark.parametrize("is_lost", [True, False])
async def test_an_attempt_goes_on_where_the_last_one_died(
    backend: MemoryBackend, action: TaskAction, is_lost: bool
) -> None:
    """It dies after it has written which piece comes next: with the piece done, or not."""
    async with running(quiet_types(), backend) as engine:
        ids = await failed(engine, 250) if action is not CANCEL else await submitted(engine, 250)
        store, record = backend.store, backend.store.record
        lost: list[tuple[str, ...]] = []

        async def dies(writes: Any) -> Any:
            (write,) = writes
            if isinstance(write, Progress) and write.value["done"] == 100:
                store.record = record  # type: ignore[method-assign]
                await record(writes)
                piece = tuple(write.value["piece"])
                if not is_lost:
                    await DOES[action](store, piece)
                lost.append(piece)
                raise OSError("as if it died here")
            return await record(writes)

        store.record = dies  # type: ignore[method-assign]
        _, said = await act(
            engine, action, TaskFilter(type="later" if action is CANCEL else "fails")
        )
        assert len(lost) == 1
        assert (said.done, said.failed, said.skipped, said.of) == (250, 0, 0, 250)
        if action is CANCEL:
            assert set(said.ids) == set(ids)
            assert set(await statuses(engine, ids)) == {TaskStatus.CANCELLED}
        elif action is RETRY:
            for task_id in ids:
                await engine.wait(task_id, timeout=60)
                assert len((await engine.history(task_id)).attempts) == 2


@pytest.mark.parametrize("action", [RETRY, REDRIVE])
async def test_what_has_run_again_since_the_last_attempt_died_is_not_done_twice(
    backend: MemoryBackend, action: TaskAction
) -> None:
    """Other workers go on: what was retried has failed once more by the time of the takeover."""
    async with running(quiet_types(), backend) as engine:
        ids = await failed(engine, 120)
        store, record = backend.store, backend.store.record
        dead_letters = backend.queue("default").dead_letters

        async def dies(writes: Any) -> Any:
            (write,) = writes
            if isinstance(write, Progress) and write.value["done"] == 0:
                store.record = record  # type: ignore[method-assign]
                await record(writes)
                await trio.sleep(0.01)
                piece = tuple(write.value["piece"])
                if action is REDRIVE:
                    found = await dead_letters.take(limit=len(piece), ids=piece)
                    piece = tuple(each.task_id for each in found)
                for task_id in piece[:60]:
                    await engine.retry(task_id)
                    assert (await engine.wait(task_id, timeout=60)).status is TaskStatus.FAILED
                raise OSError("as if it died here")
            return await record(writes)

        store.record = dies  # type: ignore[method-assign]
        _, said = await act(engine, action, TaskFilter(type="fails"))
        assert (said.done, said.failed, said.skipped, said.of) == (120, 0, 0, 120)
        await trio.sleep(60)
        for task_id in ids:
            assert (await engine.get(task_id)).attempt == 2
        left = (await engine.list_dead(limit=1000)).dead_letters
        if action is REDRIVE:
            assert sorted(each.task_id for each in left) == sorted(ids), "new ones, no old one"


DOES: dict[TaskAction, Callable[..., Any]] = {
    CANCEL: lambda store, ids: store.cancel(ids),
    RETRY: lambda store, ids: store.reopen(ids),  # and is not sent
    DELETE: lambda store, ids: store.delete(ids),
}


@pytest.fixture
def together(autojump_clock: MockClock) -> MemoryBackend:
    return MemoryBackend(clock=TrioClock(), is_one_transaction=True)


async def test_it_makes_room_for_others_and_goes_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_TURN", 0.0)
    backend = MemoryBackend(clock=TrioClock())
    async with running(quiet_types(), backend, worker_count=1) as engine:
        await submitted(engine, 250)
        task, said = await act(engine, CANCEL)
        assert (said.done, said.of) == (250, 250)
        history = await engine.history(task.id)
        assert len(history.attempts) == 3, "a piece each"


async def test_it_does_not_wait_behind_what_it_is_to_stop(together: MemoryBackend) -> None:
    tasks = quiet_types()

    @tasks.task("mail")
    async def mail(payload: Any) -> None:
        await trio.sleep(5)

    async with running(tasks, together, worker_count=2) as engine:
        for n in range(300):
            await engine.submit("mail", n)
        await trio.sleep(60)
        before = trio.current_time()
        _, said = await act(engine, CANCEL, TaskFilter(status=TaskStatus.PENDING))
        assert trio.current_time() - before < 30, "as soon as a worker is free"
        assert said.done > 250
        assert (await engine.metrics()).counts.pending == 0


async def test_others_have_their_turn_meanwhile(
    together: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a worker that is alone, though the action comes first."""
    monkeypatch.setattr(actions, "_TURN", 0.0)
    tasks = quiet_types()

    @tasks.task("mail")
    async def mail(payload: Any) -> None:
        await trio.sleep(1)

    async with running(tasks, together, worker_count=1) as engine:
        await submitted(engine, 250)
        mails = [(await engine.submit("mail", n)).id for n in range(40)]
        await trio.sleep(3)
        task, said = await act(engine, CANCEL, TaskFilter(type="later"))
        assert (said.done, said.of) == (250, 250)
        done = (await statuses(engine, mails)).count(TaskStatus.COMPLETED)
        assert done >= 2 + 2 * 8, "in the two rests"
        assert done < 40, "and the action was not put behind all of them"
        attempts = (await engine.history(task.id)).attempts
        rests = [
            (later.started_at - former.ended_at).total_seconds()
            for former, later in pairwise(attempts)
            if former.ended_at is not None
        ]
        assert all(10 <= rest < 15 for rest in rests), rests


async def test_an_action_can_be_cancelled(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(quiet_types(), backend) as engine:
        ids = await submitted(engine, 250)
        store, cancel = backend.store, backend.store.cancel
        hang = trio.Event()

        async def hangs(task_ids: Any) -> Any:
            if task is not None and task.id in task_ids:
                return await cancel(task_ids)
            hang.set()
            return await trio.sleep_forever()

        task = None
        store.cancel = hangs  # type: ignore[method-assign]
        await trio.sleep(0.01)
        task = await engine.start_action(ActionRequest(action=CANCEL))
        assert task is not None
        await hang.wait()
        await engine.cancel(task.id)
        assert (await engine.wait(task.id, timeout=60)).status is TaskStatus.CANCELLED
        assert set(await statuses(engine, ids)) == {TaskStatus.PENDING}


async def test_actions_are_left_alone_unless_they_are_meant(backend: MemoryBackend) -> None:
    """ "Retry all that was cancelled" does not go on with a delete that was stopped."""
    async with running(quiet_types(), backend) as engine:
        await submitted(engine, 1)
        task = await engine.start_action(ActionRequest(action=CANCEL))
        assert task is not None
        await ended(engine, task)
        await trio.sleep(0.01)
        await act(engine, DELETE)
        assert (await engine.get(task.id)).status is TaskStatus.COMPLETED
        await act(engine, DELETE, TaskFilter(type=ACTION_TYPE))
        with pytest.raises(TaskNotFound):
            await engine.get(task.id)


async def test_types_that_may_not_be_meant(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        mine = await submitted(engine, 1)
        others = await submitted(engine, 1, "other")
        _, said = await act(engine, CANCEL, ids=(*mine, *others), types=("later",))
        assert (said.done, said.skipped) == (1, 1)
        assert said.refusals[0].reason == "there is no such task"
        assert await statuses(engine, others) == [TaskStatus.PENDING]


async def test_what_cannot_be_undone(backend: MemoryBackend) -> None:
    async with running(quiet_types(), backend) as engine:
        ids = await failed(engine, 1)
        task, _ = await act(engine, RETRY, ids=tuple(ids))
        with pytest.raises(InvalidQuery, match="undo_of: a retry cannot be undone"):
            await engine.undo_action(task.id)
        with pytest.raises(InvalidQuery, match="not the id of an action"):
            await engine.undo_action(ids[0])


async def test_its_type_is_the_engines_own(backend: MemoryBackend) -> None:
    tasks = quiet_types()
    with pytest.raises(RegistryError, match=r"names that begin with 'tqe\.' are the engine's own"):
        tasks.task("tqe.bulk")(lambda payload: payload)
    async with running(tasks, backend) as engine:
        with pytest.raises(UnknownTaskType):
            await engine.submit(ACTION_TYPE, {"action": "delete", "filter": {}})


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ActionRequest(action=CANCEL, ids=()), "ids"),
        (ActionRequest(action=CANCEL, ids=("x",)), "ids[0]"),
        (ActionRequest(action=CANCEL, which=TaskFilter(id="no")), "id"),
        (ActionRequest(action=CANCEL, which=TaskFilter(error="")), "error"),
    ],
)
async def test_bad_requests(backend: MemoryBackend, request_: ActionRequest, field: str) -> None:
    async with running(quiet_types(), backend) as engine:
        with pytest.raises(InvalidQuery) as caught:
            await engine.start_action(request_)
        assert caught.value.field == field


def test_a_task_that_waited_is_in_the_set_by_when_it_came_into_its_status() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    base = {"id": "x", "type": "t", "payload": 1, "created_at": moment}
    later = moment + timedelta(hours=1)
    running_ = Task(**base, updated_at=later, status=TaskStatus.PROCESSING, started_at=moment)
    assert actions._since(running_) == moment, "progress does not count"
