"""Processes on one file tell each other what they have changed, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from task_queue_engine.backends.base import Delivery, Message, NewTask, TaskChange
from task_queue_engine.backends.sqlite import SqliteBackend, bells, doorbell
from task_queue_engine.backends.sqlite import queue as sqlite_queue
from task_queue_engine.backends.sqlite.ringer import Ringer
from task_queue_engine.lifecycle import Complete
from task_queue_engine.testing.conformance.harness import claim_request
from tests.backends.sqlite.child import new_task
from tests.backends.sqlite.test_processes import ROOT, child, read_line
from tests.cli.preloaded import PreloadedCompanion

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_queue, "LOOK_EVERY", 600.0)
    monkeypatch.setattr(sqlite_queue, "LOOK_EVERY_WHERE_HEARD", 600.0)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are for one."""
    with tempfile.TemporaryDirectory() as folder:
        set_mode(Path(folder), 0o777)
        yield Path(folder)


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def folder_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-bells")


async def line_of(process: PreloadedCompanion) -> str:
    return await trio.to_thread.run_sync(read_line, process, abandon_on_cancel=True)


async def send(backend: SqliteBackend) -> str:
    task = new_task()
    await backend.store.create([NewTask(task=task)])
    await backend.queue("default").send([Message(task=task)])
    return task.id


async def start(backend: SqliteBackend) -> tuple[str, Delivery]:
    await send(backend)
    (delivery,) = await backend.queue("default").receive(1, wait=0, visibility=30)
    await backend.store.claim([claim_request(delivery)])
    return delivery.task_id, delivery


async def complete(backend: SqliteBackend, *task_ids: str) -> None:
    await backend.store.record([Complete(task_id=id_, attempt=1, result=None) for id_ in task_ids])


class Ear:
    """What is heard of tasks that end."""

    def __init__(self) -> None:
        self.told: list[list[str] | None] = []
        self.hears = False
        self._changed = trio.Event()

    def heard(self, task_ids: Collection[str] | None) -> None:
        self.told.append(None if task_ids is None else list(task_ids))
        self._change()

    def set_hears(self, hears: bool) -> None:
        self.hears = hears
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, *, hears: bool = True, told: int = 0) -> None:
        while self.hears is not hears or len(self.told) < told:
            await self._changed.wait()


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Ear]:
    """A backend of its own, as of another process, that hears of ends."""
    ear, backend = Ear(), SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open(), trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(backend.hear_tasks, TaskChange.ENDED, ear.heard, hears=ear.set_hears)
            )
            await ear.until(told=1)
            assert ear.told.pop() is None  # what came before was not heard
            yield ear
            nursery.cancel_scope.cancel()


# --- between processes ----------------------------------------------------------------------


async def test_a_send_wakes_a_receive_in_another_process(path: Path) -> None:
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open():
            with child("receive", path) as process:
                assert await line_of(process) == "ready"
                task_id = await send(backend)
                assert await line_of(process) == task_id
                assert process.wait() == 0
    assert not folder_of(path).exists(), "it has cleared up"


async def test_a_message_that_is_given_back_wakes_a_receive_in_another_process(
    path: Path,
) -> None:
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open():
            _, delivery = await start(backend)
            with child("receive", path) as process:
                assert await line_of(process) == "ready"
                await backend.queue("default").release([(delivery, 0.0)])
                assert await line_of(process) == delivery.task_id


async def test_the_end_of_a_task_is_heard_in_another_process(path: Path) -> None:
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open():
            with child("ends", path) as process:
                assert [await line_of(process) for _ in range(2)] == ["ready", "some"]
                completed, _ = await start(backend)
                await complete(backend, completed)
                assert await line_of(process) == completed
                cancelled = new_task()
                await backend.store.create([NewTask(task=cancelled)])
                await backend.store.cancel([cancelled.id])
                assert await line_of(process) == cancelled.id


async def test_a_cancel_of_a_running_task_is_heard_in_another_process(path: Path) -> None:
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open():
            with child("cancels", path) as process:
                assert [await line_of(process) for _ in range(2)] == ["ready", "some"]
                task_id, _ = await start(backend)
                await backend.store.cancel([task_id])
                assert await line_of(process) == task_id


@pytest.mark.parametrize("finder", ["ringer", "listener"])
async def test_what_a_killed_process_leaves_is_removed_by_the_next(path: Path, finder: str) -> None:
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open():
            with child("ends", path) as process:
                assert await line_of(process) == "ready"
                process.kill()
                process.wait()
            assert len(list(folder_of(path).iterdir())) == 1
            if finder == "ringer":
                task_id, _ = await start(backend)
                await complete(backend, task_id)
                assert list(folder_of(path).iterdir()) == []
            else:
                async with listening(path):
                    assert len(list(folder_of(path).iterdir())) == 1
                assert not folder_of(path).exists()


async def test_a_process_that_is_killed_while_it_is_known_costs_nothing_but_its_bell(
    path: Path,
) -> None:
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open(), listening(path) as ear:
            with child("ends", path) as process:
                assert [await line_of(process) for _ in range(2)] == ["ready", "some"]
                first, _ = await start(backend)
                await complete(backend, first)
                assert await line_of(process) == first
                process.kill()
                process.wait()
            second, _ = await start(backend)
            await complete(backend, second)
            await ear.until(told=2)
            assert ear.told == [[first], [second]]
            assert len(list(folder_of(path).iterdir())) == 1


async def test_a_path_longer_than_a_socket_could_have(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    folder.mkdir(parents=True)
    path = folder / "tasks.db"
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open():
            with child("receive", path) as process:
                assert await line_of(process) == "ready"
                task_id = await send(backend)
                assert await line_of(process) == task_id


async def test_processes_that_come_by_different_links_meet(tmp_path: Path, path: Path) -> None:
    backend = SqliteBackend(path)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    with trio.fail_after(20):
        async with backend.open():
            with child("receive", link) as process:
                assert await line_of(process) == "ready"
                task_id = await send(backend)
                assert await line_of(process) == task_id


# --- users ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_file", "of_folder", "of_bell"),
    [(0o600, 0o700, 0o600), (0o640, 0o700, 0o600), (0o660, 0o770, 0o620), (0o666, 0o777, 0o622)],
)
async def test_who_may_write_to_the_database_may_ring(
    path: Path, of_file: int, of_folder: int, of_bell: int
) -> None:
    async with SqliteBackend(path).open():
        pass
    set_mode(path, of_file)
    async with listening(path):
        (bell,) = folder_of(path).iterdir()
        assert stat.S_IMODE(folder_of(path).stat().st_mode) == of_folder
        assert stat.S_IMODE(bell.stat().st_mode) == of_bell


async def test_a_database_that_is_shared_later_takes_its_bells_along(path: Path) -> None:
    async with listening(path):
        set_mode(path, 0o660)
        async with listening(path):
            assert stat.S_IMODE(folder_of(path).stat().st_mode) == 0o770


@needs_root
async def test_users_that_share_a_database_hear_each_other(for_all: Path) -> None:
    path = for_all / "tasks.db"
    async with SqliteBackend(path).open():
        pass
    set_mode(path, 0o666)
    with trio.fail_after(20):
        with child("ends", path, str(NOBODY)) as process:
            assert [await line_of(process) for _ in range(2)] == ["ready", "some"]
            backend = SqliteBackend(path)
            async with backend.open():
                task_id, _ = await start(backend)
                await complete(backend, task_id)
                assert await line_of(process) == task_id
            # And the other way round, in a folder that the other one has made.
            backend = SqliteBackend(path)
            async with backend.open(), trio.open_nursery() as nursery:
                nursery.start_soon(backend.hear_messages, "default")
                with child("send", path, str(NOBODY)) as sender:
                    assert await line_of(sender) == "ready"
                    async with trio.open_nursery() as both:
                        both.start_soon(
                            partial(backend.queue("default").receive, 1, wait=60, visibility=30)
                        )
                        await trio.to_thread.run_sync(sender.communicate, "now\n")
                nursery.cancel_scope.cancel()


@needs_root
async def test_in_a_folder_that_may_only_be_read_it_looks_and_says_so(for_all: Path) -> None:
    path = for_all / "tasks.db"
    backend = SqliteBackend(path)
    with trio.fail_after(20):
        async with SqliteBackend(path).open():
            pass
        set_mode(path, 0o666)
        async with backend.open():
            set_mode(for_all, 0o755)
            with child("notes", path, str(NOBODY)) as process:
                assert "(Permission denied)" in await line_of(process)
                task_id = await send(backend)
                assert await line_of(process) == task_id


@needs_root
async def test_a_folder_of_another_user_is_not_used(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a place like /tmp any user could have made it, to see which tasks there are."""
    async with SqliteBackend(path).open():
        pass
    folder_of(path).mkdir()
    os.chown(folder_of(path), NOBODY, NOBODY)
    backend = SqliteBackend(path)
    async with backend.open(), trio.open_nursery() as nursery:
        nursery.start_soon(backend.hear_messages, "default")
        with trio.fail_after(20):
            while not backend.notes():  # noqa: ASYNC110  # soon, and no event says it
                await trio.sleep(0.01)
        assert "others than the users of the database" in backend.notes()[0]
        await send(backend)
        nursery.cancel_scope.cancel()
    assert list(folder_of(path).iterdir()) == []


# --- where it cannot be made ----------------------------------------------------------------


async def test_without_a_doorbell_it_looks_says_so_once_and_tries_again(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "_RETRY_EVERY", 0.01)
    folder_of(path).write_text("in the way")
    caplog.set_level(logging.INFO, "task_queue_engine.sqlite")
    backend = SqliteBackend(path)
    queue = backend.queue("default")
    with trio.fail_after(20):
        async with backend.open(), trio.open_nursery() as nursery:
            nursery.start_soon(backend.hear_messages, "default")
            with child("send", path) as process:
                assert await line_of(process) == "ready"
                await trio.to_thread.run_sync(process.communicate, "now\n")
                assert await queue.receive(1, wait=60, visibility=30)
            while not backend.notes():  # noqa: ASYNC110  # soon, and no event says it
                await trio.sleep(0.01)
            await trio.sleep(0.1)  # time for several tries
            (note,) = backend.notes()
            assert "found by looking" in note
            assert caplog.messages.count(note) == 1
            folder_of(path).unlink()
            while not queue.hears_others:  # noqa: ASYNC110  # soon, and no event says it
                await trio.sleep(0.01)
            assert backend.notes() == ()
            nursery.cancel_scope.cancel()


async def test_a_bell_that_cannot_be_rung_is_told_by_the_one_who_cannot(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SqliteBackend(path)
    async with backend.open(), listening(path) as ear:
        name = f"ended.{'0' * 16}"
        (folder_of(path) / name).symlink_to("/dev/null")
        first, _ = await start(backend)
        second, _ = await start(backend)
        await complete(backend, first)
        await complete(backend, second)
        await ear.until(told=2)
        (note,) = backend.notes()
        assert "cannot be rung" in note
        assert caplog.messages.count(note) == 1
        (folder_of(path) / name).unlink()
        third, _ = await start(backend)
        await complete(backend, third)
        assert backend.notes() == ()


async def test_a_bell_that_is_swept_away_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "_CHECK_EVERY", 0.01)
    backend = SqliteBackend(path)
    async with backend.open(), listening(path) as ear:
        (bell,) = folder_of(path).iterdir()
        bell.unlink()
        folder_of(path).rmdir()
        await ear.until(told=1)
        assert ear.told.pop() is None
        task_id, _ = await start(backend)
        await complete(backend, task_id)
        await ear.until(told=1)
        assert ear.told == [[task_id]]


# --- what is rung ---------------------------------------------------------------------------


async def test_only_what_makes_messages_visible_wakes_a_receive(path: Path) -> None:
    """Nor does what another queue is sent."""
    rung: list[str] = []

    class Spy(Ringer):
        def ring(self, news: object) -> None:
            assert isinstance(news, dict)
            rung.extend(news)

    backend = SqliteBackend(path)
    queue = backend.queue("default")
    topic = bells.topic_of_messages("default")
    async with backend.open():
        assert backend._ringer is not None
        backend._ringer.__class__ = Spy
        task_id, delivery = await start(backend)
        assert rung == [topic]
        rung.clear()
        await queue.extend([delivery], visibility=60)
        await backend.ping()
        await complete(backend, task_id)
        await queue.delete([delivery])
        assert rung == ["ended"]
        rung.clear()
        await backend.queue("other").send([Message(task=new_task())])
        assert topic not in rung


async def test_a_backend_does_not_ring_itself(path: Path, no_looks: None) -> None:
    """It knows; unless several engines have it in hand."""
    ear, backend = Ear(), SqliteBackend(path)
    with trio.fail_after(20):
        async with backend.open(), trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(backend.hear_tasks, TaskChange.ENDED, ear.heard, hears=ear.set_hears)
            )
            await ear.until(told=1)
            async with listening(path) as other:
                alone, _ = await start(backend)
                await complete(backend, alone)
                await other.until(told=1)
                await wait_all_tasks_blocked(0.01)
                assert ear.told == [None]
            async with backend.open():
                shared, _ = await start(backend)
                await complete(backend, shared)
                await ear.until(told=2)
                assert ear.told == [None, [shared]]
            nursery.cancel_scope.cancel()


async def test_a_worker_that_has_work_is_not_disturbed(path: Path, no_looks: None) -> None:
    """What is rung meanwhile it finds when it waits again."""
    sender, backend = SqliteBackend(path), SqliteBackend(path)
    queue = backend.queue("default")
    woken = 0
    wake, is_woken = queue.wake, trio.Event()

    def count() -> None:
        nonlocal woken
        woken += 1
        is_woken.set()
        wake()

    with trio.fail_after(20):
        async with sender.open(), backend.open(), trio.open_nursery() as nursery:
            nursery.start_soon(backend.hear_messages, "default")
            while not queue.hears_others:  # noqa: ASYNC110  # soon, and no event says it
                await trio.sleep(0.01)
            queue.wake = count  # type: ignore[method-assign]  # to be counted
            for _ in range(20):
                await send(sender)
            await wait_all_tasks_blocked(0.01)
            assert woken == 0
            assert len(await queue.receive(20, wait=60, visibility=30)) == 20
            nursery.start_soon(partial(queue.receive, 1, wait=60, visibility=30))
            await is_woken.wait()
            await wait_all_tasks_blocked(0.01)
            assert woken == 1
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [1, 100, 400])
async def test_many_ends_of_one_commit_are_heard_each(path: Path, count: int) -> None:
    backend = SqliteBackend(path)
    async with backend.open(), listening(path) as ear:
        tasks = [new_task() for _ in range(count)]
        await backend.store.create([NewTask(task=task) for task in tasks])
        await backend.store.cancel([task.id for task in tasks])
        heard: set[str] = set()
        while len(heard) < count:
            await ear.until(told=1)
            told = ear.told.pop()
            if told is None:  # where pipes are small it is "some"
                break
            heard.update(told)
        assert heard <= {task.id for task in tasks}


async def test_so_many_that_some_find_no_room_are_some(path: Path) -> None:
    async with SqliteBackend(path).open():
        pass
    released = trio.Event()
    ear = Ear()
    ringer = Ringer(str(path), own=(), is_shared=lambda: True)
    bell = doorbell.Doorbell(str(path))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(bell.listen, "ended", ear.heard, hears=ear.set_hears, wanted=released.wait)
            )
            await ear.until(told=1)
            for n in range(5000):  # more than any pipe holds; none of it waits
                ringer.ring({"ended": [f"{n:032}"]})
            released.set()
            await ear.until(told=2)
            assert ear.told == [None, None]
            ringer.ring({"ended": ["a", "b"]})
            await ear.until(told=3)
            assert ear.told[2] == ["a", "b"]
            nursery.cancel_scope.cancel()
    ringer.close()


async def test_a_bell_that_comes_during_a_long_look_is_rung(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not change the folder's time, which is as coarse as the kernel's tick."""
    async with SqliteBackend(path).open():
        pass
    first = bells.make(str(path), "ended")
    changed = folder_of(path).stat().st_mtime_ns
    now = changed / 1e9 + 0.01
    later: list[bells.Bell] = []
    names_in = bells.names_in

    def look(folder: Path) -> Iterator[tuple[str, str]]:
        nonlocal now
        found = list(names_in(folder))
        if now < changed / 1e9 + 1:
            now += 1
            later.append(bells.make(str(path), "ended"))
            os.utime(folder, ns=(changed, changed))
        return iter(found)

    monkeypatch.setattr(bells, "names_in", look)
    monkeypatch.setattr(time, "time", lambda: now)
    ringer = Ringer(str(path), own=(), is_shared=lambda: True)
    for n in range(2):
        ringer.ring({"ended": [str(n)]})
    assert first.take() == b"0\0001\000"
    assert later[0].take() == b"1\000"
    ringer.close()
    for bell in (first, *later):
        bell.remove()


async def test_a_reader_that_is_gone_ends_no_program(path: Path) -> None:
    """Not even one that has set SIGPIPE to its default, as many command-line programs do."""
    async with SqliteBackend(path).open():
        pass
    script = """
import os, signal, sys, threading, time
from task_queue_engine.backends.sqlite import bells
from task_queue_engine.backends.sqlite.ringer import Ringer

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
path = sys.argv[1]

def work():
    bell = bells.make(path, "ended")
    time.sleep(0.1)
    ringer = Ringer(path, own=(), is_shared=lambda: True)
    ringer.ring({"ended": ["1"]})
    assert bell.take() == b"1\\0"
    bell.close()
    ringer.ring({"ended": ["2"]})
    assert not bell.path.exists()

thread = threading.Thread(target=work)
thread.start()
thread.join()
print("alive")
"""
    found = await trio.run_process(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_stdout=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, b"alive\n")
