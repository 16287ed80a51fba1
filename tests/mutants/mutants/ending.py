"""How an engine and its process end."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

GIVEN_BACK = "Shutdown gives back what it has not started, at once, and costs no task an attempt."
BOUNDED = "Exit is bounded: drain budget, then a hard deadline, then the process is gone."

LEAVING = "tests/cli/test_leaving.py"
POLLER = "tests/actors/test_poller.py"
SERVE = "tests/cli/test_serve.py"
SHUTDOWN = "tests/engine/test_shutdown.py"
STATUS_WRITER = "tests/actors/test_status_writer.py"
WATCHDOG = "tests/cli/test_watchdog.py"
WORKER = "tests/actors/test_worker.py"
RECORD = "src/task_queue_engine/testing/conformance/record.py"

MUTANTS = (
    Mutant(
        promise=GIVEN_BACK,
        without="the release of what waits in the buffer",
        file="actors/claimer.py",
        old="            await self._channels.settlements.send(tuple(map(Release, unclaimed)))\n",
        new="            pass\n",
        killed_by=(
            f"{POLLER}::test_what_lies_in_the_prefetch_buffer_is_given_back",
            f"{SHUTDOWN}::test_all_that_has_not_started_goes_back_at_once_and_costs_no_attempt",
            f"{SERVE}::test_sigterm_gives_everything_back",
        ),
    ),
    Mutant(
        promise=GIVEN_BACK,
        without="the release of an interrupted attempt's message",
        file="actors/status_writer.py",
        old="                return Release(lease)\n",
        new="                return Leave(lease)\n",
        killed_by=(
            f"{STATUS_WRITER}::test_an_interruption_gives_the_task_back_at_no_cost",
            f"{SHUTDOWN}::test_when_the_grace_is_over_handlers_are_interrupted_after_their_cleanup",
        ),
    ),
    Mutant(
        promise=GIVEN_BACK,
        without="the end of the long poll",
        file="actors/poller.py",
        old="._queue.capabilities.poll_outlives_cancel):\n            self._stoppable.cancel()\n",
        new="._queue.capabilities.poll_outlives_cancel):\n            pass\n",
        killed_by=(f"{POLLER}::test_a_stop_ends_the_long_poll_and_takes_nothing_more",),
    ),
    Mutant(
        promise=GIVEN_BACK,
        without="that an interruption is free",
        file="lifecycle/record.py",
        old="            counted = isinstance(write, ScheduleRetry)\n",
        new="            counted = not isinstance(write, ScheduleSnooze)\n",
        killed_by=(
            f"{RECORD}::test_interrupt_costs_no_attempt_and_waits_for_nothing",
            f"{SHUTDOWN}::test_what_a_handler_raises_when_interrupted_costs_no_attempt",
        ),
    ),
    Mutant(
        promise=GIVEN_BACK,
        without="giving back what waits for a thread",
        file="actors/worker.py",
        old="        if self._current is not None and not self._has_started:\n",
        new="        if False:\n",
        killed_by=(f"{WORKER}::test_what_waits_for_a_thread_goes_back_when_no_more_work_is_taken",),
    ),
    Mutant(
        promise=BOUNDED,
        without="an end of the grace",
        file="engine/shutdown.py",
        old="        self._grace.deadline = trio.current_time() + self._grace_seconds\n",
        new="",
        killed_by=(
            f"{SHUTDOWN}::test_when_the_grace_is_over_handlers_are_interrupted_after_their_cleanup",
        ),
    ),
    Mutant(
        promise=BOUNDED,
        without="the hard deadline",
        file="engine/shutdown.py",
        old="            with trio.move_on_after(self._flush_seconds) as flush:\n",
        new="            with trio.CancelScope() as flush:\n",
        killed_by=(
            f"{SHUTDOWN}::test_a_backend_in_trouble_does_not_hold_the_exit_up_past_the_deadline",
            f"{SHUTDOWN}::test_a_call_that_hangs_does_not_hold_the_exit_up_past_the_deadline",
        ),
    ),
    Mutant(
        promise=BOUNDED,
        without="cancelling what hangs at the hard deadline",
        file="engine/shutdown.py",
        old="                pipeline.everything.cancel()\n",
        new="                pipeline.beside.cancel()\n",
        killed_by=(
            f"{SHUTDOWN}::test_a_backend_in_trouble_does_not_hold_the_exit_up_past_the_deadline",
            f"{SHUTDOWN}::test_a_call_that_hangs_does_not_hold_the_exit_up_past_the_deadline",
        ),
    ),
    Mutant(
        promise=BOUNDED,
        without="cutting connections off",
        file="http/server.py",
        old="                connections.cancel_scope.deadline = trio.current_time() + grace\n",
        new="",
        killed_by=(
            "tests/http/test_shutdown.py::test_a_client_that_never_reads_does_not_hold_it_up",
        ),
    ),
    Mutant(
        promise=BOUNDED,
        without="the watchdog's end",
        file="cli/watchdog.py",
        old="        self._end()\n",
        new="        pass\n",
        killed_by=(
            f"{WATCHDOG}::test_it_ends_the_process_after_its_timeout",
            f"{SERVE}::test_a_handler_that_blocks_the_loop_does_not_keep_the_process",
        ),
    ),
    Mutant(
        promise=BOUNDED,
        without="the guard's end",
        file="cli/guard_process.py",
        old="        os.kill(service, signal.SIGKILL)\n",
        new="",
        killed_by=(
            f"{LEAVING}::test_a_handler_that_holds_the_interpreter_does_not_keep_the_process",
        ),
    ),
    Mutant(
        promise=BOUNDED,
        without="an end that waits for no thread, child or atexit function",
        file="cli/leaving.py",
        old="    with contextlib.suppress(RuntimeError):  # no thread",
        new="    sys.exit(code)\n    with contextlib.suppress(RuntimeError):  # no thread",
        killed_by=(f"{LEAVING}::test_nothing_that_a_handler_leaves_keeps_the_process",),
    ),
)
