"""What an attempt costs, and what one that fails does to others."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

COST = "Only a started handler can cost an attempt."
POISON = "A poison task is quarantined after `max_attempts`; others go on."
OTHERS = (
    "One bad thing never stops another: "
    "task, type, queue, dead-letter queue, client, handler, hook."
)

AHEAD = "tests/engine/test_claiming_ahead.py"
ACKER = "tests/actors/test_acker.py"
CANCELLING = "tests/engine/test_cancelling.py"
CLAIMER = "tests/actors/test_claimer.py"
CRASHES = "tests/engine/test_crashes.py"
CROWD = "tests/http/test_crowd.py"
FOREIGN = "tests/engine/test_foreign_code.py"
OUTAGES = "tests/engine/test_outages.py"
OUTCOMES = "tests/engine/test_outcomes.py"
STATUS_WRITER = "tests/actors/test_status_writer.py"
WORKER = "tests/actors/test_worker.py"
CLAIM = "src/task_queue_engine/testing/conformance/claim.py"
TAKE = "src/task_queue_engine/testing/conformance/take.py"
RECORD = "src/task_queue_engine/testing/conformance/record.py"
SCHEDULE = "src/task_queue_engine/testing/conformance/schedule.py"

MUTANTS = (
    Mutant(
        promise=OTHERS,
        without="trying on, by itself, what alone could not be recorded",
        file="actors/status_writer.py",
        old="            if len(unrecorded) == len(finished):\n",
        new="            if unrecorded:\n",
        killed_by=(f"{STATUS_WRITER}::test_what_is_left_undone_holds_up_nothing_of_its_batch",),
    ),
    Mutant(
        promise=OTHERS,
        without="passing a late batch",
        file="actors/side_by_side.py",
        old="            if late_at <= trio.current_time():\n",
        new="            if False:\n",
        killed_by=(f"{STATUS_WRITER}::test_a_late_batch_holds_up_none_behind_it",),
    ),
    Mutant(
        promise=COST,
        without="claiming no more than workers are free",
        file="actors/demand.py",
        old="        self._balance = 0\n",
        new="        self._balance = 1\n",
        killed_by=(
            f"{CANCELLING}::test_what_waits_in_the_buffer_is_pending",
            "tests/cli/test_serve.py::test_killed_beside_a_full_buffer_only_what_had_started_lost_an_attempt",
        ),
    ),
    Mutant(
        promise=COST,
        without="that a lapse of what was claimed ahead is free",
        file="lifecycle/claim.py",
        old="    return row.task.retry_count + (not row.claimed_ahead)\n",
        new="    return row.task.retry_count + 1\n",
        killed_by=(
            f"{AHEAD}::test_a_kill_costs_no_task_a_retry_that_had_not_started",
            "tests/cli/test_serve.py::test_killed_with_many_claimed_ahead_no_more_than_its_workers_lost_an_attempt",
        ),
    ),
    Mutant(
        promise=COST,
        without="a place for each that is claimed with its receive, in SQLite",
        file="backends/sqlite/steps.py",
        old="            self._places[where] -= 1\n",
        new="            pass\n",
        killed_by=(f"{TAKE}::test_it_claims_no_more_than_may_run_in_a_place",),
    ),
    Mutant(
        promise=COST,
        without="leaving what has no place on the queue, in SQLite",
        file="backends/sqlite/steps.py",
        old="            return True  # it is passed\n",
        new="            pass\n",
        killed_by=(f"{TAKE}::test_it_claims_no_more_than_may_run_in_a_place",),
    ),
    Mutant(
        promise=COST,
        without="a process that is there before the claim",
        file="actors/claim_buffer.py",
        old="            free[RunsIn.PROCESS] = min(left, self._ready_processes(promised))\n",
        new="            free[RunsIn.PROCESS] = left\n",
        killed_by=(
            "tests/engine/test_process_start.py::test_a_kill_while_a_process_comes_up_costs_the_task_nothing",
        ),
    ),
    Mutant(
        promise=OTHERS,
        without="room for others beside what waits for a place",
        file="actors/claimer.py",
        old="            waiting=self._buffer.ready,\n",
        new="            waiting=len(self._buffer),\n",
        killed_by=("tests/actors/test_places.py::test_idle_workers_take_what_can_run",),
    ),
    Mutant(
        promise=OTHERS,
        without="an end of waiting for a place",
        file="actors/claim_buffer.py",
        old="HELD_FOR = 1.0\n",
        new="HELD_FOR = 1000.0\n",
        killed_by=("tests/actors/test_places.py::test_behind_any_number_that_cannot_run",),
    ),
    Mutant(
        promise=OTHERS,
        without="the end of a take when there is a place for what it passes",
        file="actors/poller.py",
        old="            take.cancel()\n",
        new="            pass\n",
        killed_by=(
            "tests/actors/test_places.py::test_a_take_that_passes_them_ends_when_there_is_a_place",
        ),
    ),
    Mutant(
        promise=COST,
        without="a stop at what has no place, in SQLite",
        file="backends/sqlite/steps.py",
        old="            goes_on = all(map(taking.add, found))\n            #",
        new="            goes_on = all([*map(taking.add, found)])\n            #",
        killed_by=(f"{TAKE}::test_what_has_no_place_stays_on_the_queue_with_all_behind_it",),
    ),
    Mutant(
        promise=COST,
        without="a look at the receive count, in SQLite",
        file="backends/sqlite/steps.py",
        old="        if visible.receive_count or row.status != _PENDING",
        new="        if row.status != _PENDING",
        killed_by=(f"{TAKE}::test_a_message_received_before_is_leased_and_not_claimed",),
    ),
    Mutant(
        promise=COST,
        without="taking back what waits for outcomes that cannot be recorded",
        file="actors/claimer.py",
        old="                    if self._demand.is_paused and self._demand.waiting_ahead:\n",
        new="                    if False:\n",
        killed_by=(
            "tests/actors/test_claiming_ahead.py::test_nothing_waits_or_starts_on_top_of_outcomes_that_cannot_be_recorded",
        ),
    ),
    Mutant(
        promise=COST,
        without="giving back a type that this worker does not know",
        file="actors/type_check.py",
        old=("                checked.refusal = _describe(error)\n                continue\n"),
        new="                continue\n",
        killed_by=(
            f"{OUTCOMES}::test_what_this_worker_cannot_run_is_left_for_one_that_can_at_no_cost",
        ),
    ),
    Mutant(
        promise=COST,
        without="giving back a payload that this worker's annotation refuses",
        file="actors/type_check.py",
        old="    except InvalidTask as error:\n        checked.refusal = _describe(error)\n",
        new="    except InvalidTask:\n        checked.data = UNSET\n",
        killed_by=(
            f"{OUTCOMES}::test_what_this_worker_cannot_run_is_left_for_one_that_can_at_no_cost",
        ),
    ),
    Mutant(
        promise=COST,
        without="telling a handler that could not be started from one that failed",
        file="actors/worker.py",
        old="            if isinstance(error, HandlerNotStarted):\n",
        new="            if False:\n",
        killed_by=(f"{WORKER}::test_what_could_not_be_started_comes_again_at_no_cost",),
    ),
    Mutant(
        promise=COST,
        without="a timeout that counts from the start",
        file="execution/runner.py",
        old="        await call.acquire()\n        try:\n",
        new=(
            "        with trio.fail_after(task.timeout_seconds or math.inf):\n"
            "            await call.acquire()\n"
            "        try:\n"
        ),
        killed_by=(
            "tests/execution/test_thread_handlers.py::test_waiting_for_a_thread_is_not_the_handlers_time",
        ),
    ),
    Mutant(
        promise=COST,
        without="recognising a claim whose answer was lost",
        file="actors/store_claims.py",
        old="            elif self._runs_as_mine(task):\n",
        new="            elif False:\n",
        killed_by=(
            f"{CLAIMER}::test_a_claim_whose_answer_was_lost_is_recognised_as_its_own",
            f"{CLAIMER}::test_a_stop_waits_to_hear_of_an_unanswered_claim",
        ),
    ),
    Mutant(
        promise=COST,
        without="that a snooze is free",
        file="lifecycle/record.py",
        old="            counted = isinstance(write, ScheduleRetry)\n",
        new="            counted = not isinstance(write, Interrupt)\n",
        killed_by=(f"{RECORD}::test_snooze_costs_no_attempt",),
    ),
    Mutant(
        promise=POISON,
        without="counting a lapsed attempt",
        file="lifecycle/claim.py",
        old="    return row.task.retry_count + (not row.claimed_ahead)\n",
        new="    return row.task.retry_count\n",
        killed_by=(
            f"{CLAIM}::test_lapse_of_the_last_attempt_fails_the_task",
            f"{CRASHES}::test_a_task_that_kills_its_process_is_quarantined_and_others_go_on",
        ),
    ),
    Mutant(
        promise=POISON,
        without="keeping those that run beside it from dying with it",
        file="actors/crash_isolation.py",
        old="            if others and any(map(_is_last_chance, [attempt.task, *others])):\n",
        new="            if False:\n",
        killed_by=(
            f"{CRASHES}::test_the_neighbours_of_such_a_task_are_not_quarantined_along_with_it",
            "tests/cli/test_serve.py::test_a_task_that_kills_its_process_is_quarantined_and_the_others_go_on",
        ),
    ),
    Mutant(
        promise=POISON,
        without="waiting until the store has it that those claimed beside it wait",
        file="actors/crash_isolation.py",
        old="        if not (may_not or self._waiting):\n",
        new="        self._running += may_run\n        may_run = []\n        if not may_not:\n",
        killed_by=(
            "tests/cli/test_serve.py::test_a_task_that_kills_its_process_is_quarantined_and_the_others_go_on",
        ),
    ),
    Mutant(
        promise=POISON,
        without="the dead letter of a task that outlived its attempts",
        file="actors/unstarted.py",
        old=(
            "                return MoveToDeadLetters(\n"
            "                    lease,\n"
            '                    f"its worker died'
        ),
        new=(
            "                return Ack(lease) or MoveToDeadLetters(\n"
            "                    lease,\n"
            '                    f"its worker died'
        ),
        killed_by=(
            f"{CLAIMER}::test_a_task_that_outlived_its_attempts_is_dead_lettered_with_the_reason",
            f"{CRASHES}::test_a_quarantined_task_can_be_redriven",
        ),
    ),
    Mutant(
        promise=POISON,
        without="a new worker process in place of one that died",
        file="execution/processes.py",
        old='raise await self._pool.reap(worker, "in the middle of the task") from None\n',
        new="self._worker = worker\n            raise\n",
        killed_by=(
            "tests/execution/test_worker_processes.py::test_a_crash_is_a_failed_attempt_and_the_next_task_gets_a_new_process",
        ),
    ),
    Mutant(
        promise=OTHERS,
        without="a lane for each kind of settlement",
        file="actors/acker.py",
        old="                    await self._carry_out(kind, batch)\n",
        new=(
            "                    async with self.__dict__.setdefault('one', trio.Lock()):\n"
            "                        await self._carry_out(kind, batch)\n"
        ),
        killed_by=(f"{ACKER}::test_trouble_with_one_kind_holds_up_no_other",),
    ),
    Mutant(
        promise=OTHERS,
        without="a limit for dead letters that wait",
        file="actors/acker.py",
        old="                if kind is Ack:\n",
        new="                if True:\n",
        killed_by=(f"{ACKER}::test_what_too_much_waits_for_is_let_go_and_comes_back",),
    ),
    Mutant(
        promise=OTHERS,
        without="a look for due tasks of its own queue alone",
        file="backends/memory/store.py",
        old="                    and row.task.queue == queue\n",
        new="",
        killed_by=(f"{SCHEDULE}::test_what_is_due_on_other_queues_is_not_in_the_way",),
    ),
    Mutant(
        promise=OTHERS,
        without="a look for due tasks of its own queue alone, in SQLite",
        file="backends/sqlite/store.py",
        old='AND queue = ? ORDER BY due_at, number LIMIT ?)"',
        new='AND ? IS NOT NULL ORDER BY due_at, number LIMIT ?)"',
        killed_by=(f"{SCHEDULE}::test_what_is_due_on_other_queues_is_not_in_the_way",),
    ),
    Mutant(
        promise=OTHERS,
        without="steps of the reconciler that fail each for itself",
        file="actors/reconciler.py",
        old="            failures.append(error)\n",
        new="            raise\n",
        killed_by=(
            "tests/actors/test_reconciler.py::test_a_dead_letter_queue_that_is_gone_keeps_nothing_else_from_being_done",
        ),
    ),
    Mutant(
        promise=OTHERS,
        without="containment of what payloads and checks raise",
        file="foreign.py",
        old="if error is None or isinstance(error, InvalidTask | KeyboardInterrupt):",
        new="if not isinstance(error, MemoryError):",
        killed_by=(
            "tests/engine/test_intake.py::test_a_check_with_a_defect_refuses_its_own_submission_alone",
        ),
    ),
    Mutant(
        promise=OTHERS,
        without="containment of what handlers raise",
        file="execution/runner.py",
        old="        failure = contain(error)\n",
        new="        failure = error\n",
        killed_by=(f"{FOREIGN}::test_what_a_handler_raises_fails_its_task_and_no_other",),
    ),
    Mutant(
        promise=OTHERS,
        without="containment of what hooks raise",
        file="engine/hooks.py",
        old="            except BaseException as error:\n",
        new="            except MemoryError as error:\n",
        killed_by=(f"{FOREIGN}::test_a_hook_may_raise_anything",),
    ),
    Mutant(
        promise=OTHERS,
        without="a new thread in place of one that hangs",
        file="execution/threads.py",
        old="        self._threads.limiter.release_on_behalf_of(self)\n",
        new=(
            "        if not self._thread_runs:\n"
            "            self._threads.limiter.release_on_behalf_of(self)\n"
        ),
        killed_by=(
            f"{FOREIGN}::test_hung_threads_cost_healthy_tasks_nothing",
            "tests/execution/test_thread_handlers.py::test_a_stuck_thread_is_abandoned_and_another_takes_its_place",
        ),
    ),
    Mutant(
        promise=OTHERS,
        without="room made by clients that half ask",
        file="http/crowd.py",
        old="        victim.crowd_out()\n        return True\n",
        new="        return False\n",
        killed_by=(f"{CROWD}::test_lock_nobody_out",),
    ),
    Mutant(
        promise=OTHERS,
        without="a reserve for probes",
        file="http/server.py",
        old="            if not crowd.has_room_for(address):\n                return None\n",
        new="            return None\n",
        killed_by=(f"{CROWD}::test_probes_are_answered_where_all_places_are_taken",),
    ),
)
