"""Worker processes and how they end: killed, crashed, hung up on, orphaned."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from task_queue_engine import Discard
from task_queue_engine.errors import AttemptTimedOut, HandlerNotStarted, WorkerProcessDied
from task_queue_engine.execution import processes
from task_queue_engine.execution.processes import Recycling
from task_queue_engine.execution.worker_process import reap, spawn
from tests.execution import handlers
from tests.execution.support import Progress, bounded, make_runner, run, until


class Fifo:
    """Tells when the last process that holds it open for writing is gone: end of file."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def closed(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._reading)
            if os.read(self._reading, 1024) == b"":
                return

    def close(self) -> None:
        os.close(self._reading)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "fifo")
    yield fifo
    fifo.close()


@contextmanager
def no_descriptors_leak() -> Iterator[None]:
    before = set(Path("/proc/self/fd").iterdir())
    yield
    assert set(Path("/proc/self/fd").iterdir()) == before


def is_gone(pid: int) -> bool:
    """Dead, and reaped: no zombie either."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("handler", [handlers.hold, handlers.hold_in_subprocess])
@bounded(20)
async def test_a_timeout_kills_the_process_and_the_programs_it_runs(
    handler: handlers.Handler, fifo: Fifo
) -> None:
    progress = Progress()
    runner = make_runner()
    async with runner.open():
        await run(runner, handlers.pid, process=True)  # so that starting does not take its time
        with pytest.raises(AttemptTimedOut):
            await run(runner, handler, fifo.path, process=True, progress=progress, timeout=2)
        assert is_gone(progress.values[0])
        assert runner.statistics().worker_processes == 0
        await fifo.closed()
        assert await run(runner, handlers.pid, process=True) != progress.values[0]


@pytest.mark.parametrize("handler", [handlers.hold, handlers.hold_in_forked_child])
@bounded(20)
async def test_a_cancel_kills_the_process_at_once(handler: handlers.Handler, fifo: Fifo) -> None:
    progress = Progress()
    runner = make_runner()
    async with runner.open():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: run(runner, handler, fifo.path, process=True, progress=progress)
                )
                await progress.arrived.wait()
                scope.cancel()
        assert scope.cancelled_caught
        assert is_gone(progress.values[0])
        await fifo.closed()


@bounded(20)
async def test_a_cancel_while_a_process_starts_leaves_none() -> None:
    runner = make_runner()
    with no_descriptors_leak():
        async with runner.open():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: run(runner, handlers.pid, process=True))
                    await until(lambda: runner.statistics().worker_processes > 0)
                    scope.cancel()
            assert runner.statistics().worker_processes == 0


@pytest.mark.parametrize(
    ("handler", "payload", "said"),
    [
        (handlers.exit_at_once, 3, "exit code 3 in the middle of the task"),
        (handlers.exit_at_once, 0, "exit code 0 in the middle of the task"),
        (handlers.segfault, None, "killed by SIGSEGV"),
    ],
)
@bounded(20)
async def test_a_crash_is_a_failed_attempt_and_the_next_task_gets_a_new_process(
    handler: handlers.Handler, payload: object, said: str
) -> None:
    runner = make_runner(processes=1)
    async with runner.open():
        before = await run(runner, handlers.pid, process=True)
        with pytest.raises(WorkerProcessDied, match=said):
            await run(runner, handler, payload, process=True)
        assert runner.statistics().worker_processes == 0
        assert await run(runner, handlers.pid, process=True) != before


@pytest.mark.parametrize("handler", [handlers.crash_with_forked_child, handlers.crash_with_program])
@bounded(20)
async def test_a_crash_is_noticed_though_what_it_started_lives_on_and_ends_that_too(
    handler: handlers.Handler, fifo: Fifo
) -> None:
    runner = make_runner()
    async with runner.open():
        with pytest.raises(WorkerProcessDied, match="exit code 7"):
            await run(runner, handler, fifo.path, process=True)
        await fifo.closed()


@bounded(20)
async def test_a_process_that_hangs_up_but_lives_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_EXIT_WAIT", 0.1)
    runner = make_runner()
    async with runner.open():
        with pytest.raises(WorkerProcessDied, match="hung up in the middle of the task"):
            await run(runner, handlers.hang_up_without_ending, process=True)
        assert runner.statistics().worker_processes == 0


@bounded(20)
async def test_an_idle_process_that_was_killed_is_replaced() -> None:
    runner = make_runner()
    async with runner.open():
        first = await run(runner, handlers.pid, process=True)
        os.kill(first, signal.SIGKILL)
        await until(lambda: runner.statistics().worker_processes == 0)
        assert await run(runner, handlers.pid, process=True) != first


@bounded(20)
async def test_garbage_is_looked_for_once_a_process_has_started() -> None:
    """Not while it imports what it needs."""
    runner = make_runner()
    async with runner.open():
        assert await run(runner, handlers.looks_for_garbage, process=True)


@pytest.mark.parametrize("to_group", [False, True])
@bounded(20)
async def test_signals_for_the_whole_service_do_not_end_a_running_task(
    tmp_path: Path, to_group: bool
) -> None:
    progress = Progress()
    results: list[object] = []
    go_on = tmp_path / "go on"
    runner = make_runner()

    async def attempt() -> None:
        results.append(
            await run(
                runner,
                handlers.report_pid_and_wait,
                str(go_on),
                process=True,
                progress=progress,
            )
        )

    async with runner.open(), trio.open_nursery() as nursery:
        nursery.start_soon(attempt)
        await progress.arrived.wait()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            (os.killpg if to_group else os.kill)(progress.values[0], signum)
        go_on.touch()

    assert results == ["done"]


@bounded(20)
async def test_signals_do_not_end_a_process_that_is_just_starting() -> None:
    for _ in range(3):
        worker = await trio.to_thread.run_sync(spawn, os.environ)
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
        await worker.wait_ready()
        worker.kill()
        await trio.to_thread.run_sync(reap, [worker], 5)
        worker.close()


@bounded(20)
async def test_a_process_whose_engine_ends_while_it_starts_ends_quietly(
    capfd: pytest.CaptureFixture[str],
) -> None:
    worker = await trio.to_thread.run_sync(spawn, os.environ)
    worker.close()
    assert await trio.to_thread.run_sync(reap, [worker], 15) == []
    assert worker.describe_exit("") == f"worker process {worker.pid} ended with exit code 0 "
    assert capfd.readouterr().err == ""


@bounded(20)
async def test_a_terminal_does_not_reach_worker_processes() -> None:
    """Ctrl-C goes to the process group in the foreground: the engine's."""
    runner = make_runner()
    async with runner.open():
        pid = await run(runner, handlers.pid, process=True)
        assert os.getsid(pid) == pid != os.getsid(0)


@bounded(20)
async def test_programs_that_a_handler_starts_can_be_terminated() -> None:
    runner = make_runner()
    async with runner.open():
        code = await run(runner, handlers.terminate_a_program, process=True)

    assert code == -signal.SIGTERM


@bounded(20)
async def test_closing_ends_idle_processes_and_leaks_no_descriptor() -> None:
    runner = make_runner()
    with no_descriptors_leak():
        for _ in range(2):  # it may be opened again
            async with runner.open():
                pid = await run(runner, handlers.pid, process=True)
                with pytest.raises(WorkerProcessDied):
                    await run(runner, handlers.exit_at_once, 1, process=True)
                pid = await run(runner, handlers.pid, process=True)
            assert is_gone(pid)


@bounded(20)
async def test_closing_kills_a_process_that_hangs_at_its_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_CLOSE_GRACE", 0.2)
    runner = make_runner()
    with trio.CancelScope() as scope:
        async with runner.open():
            pid = await run(runner, handlers.hang_at_exit, process=True)
            scope.cancel()  # closing is bounded, and not cancelled half-way

    assert is_gone(pid)


@bounded(20)
async def test_closing_kills_what_still_runs(fifo: Fifo) -> None:
    progress = Progress()
    runner = make_runner()

    async def attempt() -> None:
        with pytest.raises(WorkerProcessDied):
            await run(runner, handlers.hold, fifo.path, process=True, progress=progress)

    async with trio.open_nursery() as nursery:
        async with runner.open():
            nursery.start_soon(attempt)
            await progress.arrived.wait()
        assert is_gone(progress.values[0])


@bounded(20)
async def test_a_program_that_cannot_start_processes_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    runner = make_runner()
    with no_descriptors_leak():
        async with runner.open():
            with pytest.raises(HandlerNotStarted, match=r"could be started.*/nowhere/python"):
                await run(runner, handlers.pid, process=True)
            assert "/nowhere/python" in str(runner.statistics().trouble)


@bounded(20)
async def test_a_process_that_fails_to_start_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    runner = make_runner()
    with no_descriptors_leak():
        async with runner.open():
            with pytest.raises(HandlerNotStarted, match="exit code 1 while it started"):
                await run(runner, handlers.pid, process=True)

    assert "task_queue_engine" in capfd.readouterr().err


Program = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Starts a Python program of its own, as users do; it is killed when the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(source: str) -> subprocess.Popen[bytes]:
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(source))
        path = os.pathsep.join(entry for entry in sys.path if entry)
        process = subprocess.Popen(
            # Newer Pythons warn where a program with threads forks, as one of these does.
            [sys.executable, "-Wignore::DeprecationWarning", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def output_of(process: subprocess.Popen[bytes]) -> str:
    stdout, _ = await trio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    return stdout.decode()


@bounded(20)
async def test_an_engine_killed_by_force_leaves_no_process_behind(
    fifo: Fifo, program: Program
) -> None:
    engine = program(
        f"""
        import trio
        from tests.execution import handlers
        from tests.execution.support import Progress, make_runner, run

        async def main():
            runner = make_runner()
            busy = Progress()
            async with runner.open(), trio.open_nursery() as nursery:
                await run(runner, handlers.pid, process=True)  # and then idle
                for handler in (handlers.hold, handlers.hold_in_forked_child):
                    nursery.start_soon(
                        lambda handler=handler: run(
                            runner, handler, {fifo.path!r}, process=True, progress=busy
                        )
                    )
                while len(busy.values) < 2:
                    await trio.sleep(0.001)
                print("all are busy", flush=True)
                await trio.sleep_forever()

        trio.run(main)
        """
    )
    assert engine.stdout is not None
    line = await trio.to_thread.run_sync(engine.stdout.readline, abandon_on_cancel=True)
    assert line == b"all are busy\n"

    engine.kill()

    # Every process it started holds its standard output or the FIFO.
    await fifo.closed()
    assert await output_of(engine) == ""


@bounded(20)
async def test_a_killed_engine_is_noticed_though_a_fork_of_it_holds_its_sockets(
    fifo: Fifo, program: Program
) -> None:
    engine = program(
        f"""
        import os, time, trio
        from tests.execution import handlers
        from tests.execution.support import Progress, make_runner, run

        async def main():
            runner, busy = make_runner(), Progress()
            async with runner.open(), trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: run(runner, handlers.hold, {fifo.path!r}, process=True, progress=busy)
                )
                await busy.arrived.wait()
                fork = os.fork()
                if fork == 0:
                    time.sleep(20)
                    os._exit(0)
                print(fork, flush=True)
                await trio.sleep_forever()

        trio.run(main)
        """
    )
    assert engine.stdout is not None
    fork = int(await trio.to_thread.run_sync(engine.stdout.readline, abandon_on_cancel=True))

    engine.kill()

    try:
        await fifo.closed()
    finally:
        os.kill(fork, signal.SIGKILL)


@bounded(20)
async def test_a_handler_in_the_main_file_works_behind_the_usual_guard(program: Program) -> None:
    process = program(
        """
        import trio
        from tests.execution.support import make_runner, run

        print("loaded as", __name__, flush=True)

        class Refused(Exception):
            pass

        def handler(payload):
            if payload < 0:
                raise Refused(payload)
            return payload + 1

        async def main():
            runner = make_runner()
            async with runner.open():
                print(await run(runner, handler, 41, process=True))
                try:
                    await run(runner, handler, -1, process=True)
                except Refused as error:
                    print("refused", error)

        if __name__ == "__main__":
            trio.run(main)
        """
    )

    assert (await output_of(process)).splitlines() == [
        "loaded as __main__",
        "loaded as __mp_main__",
        "42",
        "refused -1",
    ]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@bounded(40)
async def test_a_handler_in_the_main_file_may_start_processes_of_its_own(
    program: Program, method: str
) -> None:
    process = program(
        f"""
        import multiprocessing
        import trio
        from tests.execution.support import make_runner, run

        def increased(number):
            return number + 1

        def handler(payload):
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                return pool.map(increased, payload)

        async def main():
            runner = make_runner()
            async with runner.open():
                print(await run(runner, handler, [1, 2], process=True, timeout=30))

        if __name__ == "__main__":
            trio.run(main)
        """
    )

    assert await output_of(process) == "[2, 3]\n"


@bounded(20)
async def test_the_main_file_is_left_alone_when_no_handler_is_in_it(program: Program) -> None:
    process = program(
        """
        import trio
        from tests.execution import handlers
        from tests.execution.support import make_runner, run

        print("loaded as", __name__, flush=True)

        async def main():
            runner = make_runner()
            async with runner.open():
                print(await run(runner, handlers.large, 3, process=True))

        trio.run(main)
        """
    )

    assert (await output_of(process)).splitlines() == ["loaded as __main__", "xxx"]


@bounded(20)
async def test_a_main_file_without_a_guard_fails_the_attempt_and_not_the_machine(
    program: Program,
) -> None:
    process = program(
        """
        import trio
        from tests.execution.support import make_runner, run

        def handler(payload):
            return 1

        async def main():
            runner = make_runner()
            async with runner.open():
                try:
                    await run(runner, handler, process=True)
                except Exception as error:
                    print(f"{type(error).__name__}: {error}")

        trio.run(main)
        """
    )

    output = await output_of(process)
    assert output.startswith("RegistryError: the program's main file starts the engine")
    assert "__name__" in output


@contextmanager
def all_descriptors_taken(*, but: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in taken[:but]:
            os.close(descriptor)
        del taken[:but]
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("free", range(5))
@bounded(60)
async def test_no_descriptors_for_a_process_cost_no_attempt(free: int) -> None:
    """Wherever on the way they run out."""
    runner = make_runner(processes=1)
    async with runner.open():
        await trio.to_thread.run_sync(lambda: None)  # threads are there, and Python's lazy imports
        with no_descriptors_leak():
            with all_descriptors_taken(but=free), pytest.raises(HandlerNotStarted):
                await run(runner, handlers.pid, process=True)
            assert runner.statistics().trouble is not None  # for /ready
        assert await run(runner, handlers.pid, process=True) > 0


# --- recycling ------------------------------------------------------------------------------


@bounded(20)
async def test_a_process_is_replaced_after_so_many_tasks() -> None:
    runner = make_runner(processes=1, recycling=Recycling(max_tasks=2))
    with no_descriptors_leak():
        async with runner.open():
            pids = [await run(runner, handlers.pid, process=True) for _ in range(5)]
            assert runner.statistics().worker_processes == 1
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert all(is_gone(pid) for pid in pids)


@bounded(20)
async def test_a_process_that_holds_too_much_memory_is_replaced() -> None:
    """It ends right after the task, and no task is cut short for it."""
    runner = make_runner(processes=1, recycling=Recycling(max_mib=300))
    async with runner.open():
        small = await run(runner, handlers.keep, 1, process=True)
        assert await run(runner, handlers.keep, 1, process=True) == small
        assert await run(runner, handlers.keep, 400, process=True) == small
        assert await run(runner, handlers.keep, 1, process=True) != small
        assert is_gone(small)


@bounded(20)
async def test_a_failed_task_counts_too() -> None:
    runner = make_runner(processes=1, recycling=Recycling(max_tasks=1))
    async with runner.open():
        first = await run(runner, handlers.pid, process=True)
        with pytest.raises(Discard):
            await run(runner, handlers.discard, process=True)
        assert await run(runner, handlers.pid, process=True) != first


@bounded(30)
async def test_a_spent_process_that_does_not_end_is_killed_before_the_next() -> None:
    runner = make_runner(processes=1, recycling=Recycling(max_tasks=1))
    async with runner.open():
        spent = await run(runner, handlers.hang_at_exit, process=True)
        assert await run(runner, handlers.pid, process=True) != spent
        assert is_gone(spent)


# --- ready before they are needed -----------------------------------------------------------


@bounded(30)
async def test_a_process_can_be_made_ready_and_is_promised_once() -> None:
    runner = make_runner(processes=2)
    async with runner.open():
        assert runner.ready_processes(0) == 0
        await runner.make_process_ready()
        assert [runner.ready_processes(promised) for promised in range(3)] == [1, 0, -1]
        first = await run(runner, handlers.pid, None, process=True)
        assert runner.ready_processes(0) == 1
        assert await run(runner, handlers.pid, None, process=True) == first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.make_process_ready)
            await trio.testing.wait_all_tasks_blocked()
            assert runner.ready_processes(0) == 1, "what comes up is not ready"
        assert runner.ready_processes(0) == runner.statistics().worker_processes == 2
        with pytest.raises(HandlerNotStarted):  # as many as may run
            await runner.make_process_ready()


@bounded(30)
async def test_what_cannot_be_made_ready_is_said_and_comes_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = make_runner(processes=1)

    def refuse(environment: object) -> None:
        raise OSError("no memory")

    async with runner.open():
        with monkeypatch.context() as patch:
            patch.setattr(processes, "spawn", refuse)
            with pytest.raises(HandlerNotStarted, match="no memory"):
                await runner.make_process_ready()
        assert runner.statistics().trouble is not None
        assert runner.ready_processes(0) == 0
        await runner.make_process_ready()
        assert runner.statistics().trouble is None
        assert runner.ready_processes(0) == 1


@bounded(30)
async def test_who_is_cancelled_while_it_makes_one_ready_leaves_none() -> None:
    runner = make_runner(processes=1)
    async with runner.open():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.make_process_ready)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert runner.statistics().worker_processes == 0
        await runner.make_process_ready()
        assert runner.ready_processes(0) == 1
