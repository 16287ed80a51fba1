"""What was accepted, and what became of it."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ACCEPTED = "A task answered with 201 is never lost."
DURABLE = "A terminal status is durable before its message is deleted."
FINAL = "COMPLETED means a handler returned; a terminal status never changes."

SUBMITTER = "tests/actors/test_submitter.py"
STATUS_WRITER = "tests/actors/test_status_writer.py"
SUBMITTING = "tests/engine/test_submitting.py"
CRASHES = "tests/engine/test_crashes.py"
OUTAGES = "tests/engine/test_outages.py"
RECORD = "src/task_queue_engine/testing/conformance/record.py"

_FINISH = (
    "        finished = await self._retry.call(lambda: self._finish(outcomes, writes, is_rest))\n"
)

MUTANTS = (
    Mutant(
        promise=ACCEPTED,
        without="the row before the message",
        file="backends/base/steps.py",
        old="    verdicts: list[SubmitVerdict] = [*await store.create(tasks)]\n",
        new=(
            "    queue = queue_of(tasks[0].task.queue)\n"
            "    now = clock.now()\n"
            "    await queue.send([message_of(new, now, queue.max_delay) for new in tasks])\n"
            "    verdicts: list[SubmitVerdict] = [*await store.create(tasks)]\n"
        ),
        killed_by=(f"{SUBMITTING}::test_a_task_is_stored_before_its_message_is_sent",),
    ),
    Mutant(
        promise=ACCEPTED,
        without="the message before the answer",
        file="backends/base/steps.py",
        old="                sent: Sequence[QueueVerdict] = await queue.send(messages)\n",
        new=(
            "                __import__('trio').lowlevel.spawn_system_task(queue.send, messages)\n"
            "                sent: Sequence[QueueVerdict] = [None] * len(part)\n"
        ),
        killed_by=(f"{SUBMITTER}::test_nothing_is_answered_before_it_is_stored_and_sent",),
    ),
    Mutant(
        promise=ACCEPTED,
        without="a mark for the scheduler where the queue is down",
        file="actors/submitter.py",
        old="                await self._leave_to_scheduler(unsent)",
        new="                pass",
        killed_by=(f"{SUBMITTER}::test_what_cannot_be_sent_is_left_to_the_scheduler",),
    ),
    Mutant(
        promise=ACCEPTED,
        without="the refusal of what the queue will never take",
        file="actors/submitter.py",
        old="        if refused:\n            await self._fail(refused)\n",
        new="",
        killed_by=(f"{SUBMITTING}::test_a_task_whose_message_the_queue_refuses_is_told_and_fails",),
    ),
    Mutant(
        promise=ACCEPTED,
        without="the reconciler's sending of what was stored and not sent",
        file="actors/reconciler.py",
        old="[item.task for item in found if item.kind is StrandedKind.UNSENT]",
        new="[item.task for item in found if item is None]",
        killed_by=(
            f"{SUBMITTING}::test_a_task_whose_sender_died_before_sending_is_found_and_sent",
        ),
    ),
    Mutant(
        promise=ACCEPTED,
        without="going on with a plain request whose client has hung up",
        file="http/exchange.py",
        old="        if request.method in _SAFE_METHODS:\n            with receive",
        new="        if True:\n            with receive",
        killed_by=("tests/http/test_disconnect.py::test_a_whole_submission_is_carried_out",),
    ),
    Mutant(
        promise=ACCEPTED,
        without="going on with a request whose client has hung up",
        file="http/exchange.py",
        old="        if not complete or request.method in _SAFE_METHODS:\n",
        new="        if True:\n",
        killed_by=("tests/http/test_disconnect.py::test_a_whole_submission_is_carried_out",),
    ),
    Mutant(
        promise=ACCEPTED,
        without="a look at whether the open file is still the one of its name",
        file="backends/sqlite/files_in_use.py",
        old="            if found != self._opened[name]:\n",
        new="            if False:\n",
        killed_by=(
            "tests/backends/sqlite/test_replaced.py::test_a_file_that_is_removed",
            "tests/backends/sqlite/test_replaced.py::test_a_backup_moved_into_its_place",
        ),
    ),
    Mutant(
        promise=ACCEPTED,
        without="a takeover of what a dead process was running",
        file="lifecycle/claim.py",
        old="    if request.receives_of(row.message_id) <= row.receive_count:\n",
        new="    if True:\n",
        killed_by=(
            "tests/cli/test_serve.py::test_killed_in_mid_flight_and_started_again_every_task_ends",
        ),
    ),
    Mutant(
        promise=DURABLE,
        without="recording before the message is deleted",
        file="actors/status_writer.py",
        old=_FINISH,
        new=(
            "        await self._settlements.send(tuple(Ack(o.attempt.lease) for o in outcomes))\n"
            + _FINISH
        ),
        killed_by=(
            f"{STATUS_WRITER}::test_nothing_is_settled_before_it_is_recorded",
            f"{STATUS_WRITER}::test_while_the_store_is_down_it_waits_and_says_so",
            f"{OUTAGES}::test_while_the_store_is_down_finished_work_is_kept_and_nothing_acked",
        ),
    ),
    Mutant(
        promise=DURABLE,
        without="waiting for a store that is down",
        file="actors/status_writer.py",
        old=_FINISH,
        new=(
            "        try:\n"
            "            finished = await self._finish(outcomes, writes, is_rest)\n"
            "        except Exception:\n"
            "            return tuple(Ack(outcome.attempt.lease) for outcome in outcomes), (), []\n"
        ),
        killed_by=(
            f"{STATUS_WRITER}::test_while_the_store_is_down_it_waits_and_says_so",
            f"{OUTAGES}::test_while_the_store_is_down_finished_work_is_kept_and_nothing_acked",
        ),
    ),
    Mutant(
        promise=FINAL,
        without="the attempt in the condition of a write",
        file="lifecycle/record.py",
        old="    if row is None or row.task.attempt != write.attempt:\n",
        new="    if row is None:\n",
        killed_by=(
            f"{RECORD}::test_writes_of_an_attempt_that_was_taken_over_are_refused",
            f"{CRASHES}::test_a_zombie_that_finishes_after_it_was_taken_over_changes_nothing",
        ),
    ),
    Mutant(
        promise=FINAL,
        without="the status in the condition of a write",
        file="lifecycle/record.py",
        old="    if task.status is not TaskStatus.PROCESSING:\n",
        new="    if task.status is TaskStatus.PENDING:\n",
        killed_by=(f"{RECORD}::test_terminal_is_final",),
    ),
    Mutant(
        promise=FINAL,
        without="the attempt in the condition of SQLite's own statement",
        file="backends/sqlite/store.py",
        old=" AND tasks.attempt = done.attempt AND status",
        new=" AND status",
        killed_by=(f"{RECORD}::test_writes_of_an_attempt_that_was_taken_over_are_refused",),
    ),
    Mutant(
        promise=FINAL,
        without="the status in the condition of SQLite's own statement",
        file="backends/sqlite/store.py",
        old=" AND tasks.attempt = done.attempt AND status = {_PROCESSING}",
        new=" AND tasks.attempt = done.attempt",
        killed_by=(f"{RECORD}::test_terminal_is_final",),
    ),
    Mutant(
        promise=FINAL,
        without="leaving the message of an attempt that was taken over",
        file="actors/status_writer.py",
        old="return None if isinstance(outcome, Progressed) else Leave(lease)",
        new="return None if isinstance(outcome, Progressed) else Ack(lease)",
        killed_by=(f"{STATUS_WRITER}::test_an_attempt_that_was_taken_over_changes_nothing",),
    ),
    Mutant(
        promise=FINAL,
        without="that a COMPLETED task is not run again",
        file="lifecycle/requests.py",
        old="    if task.status not in (TaskStatus.FAILED, TaskStatus.CANCELLED):\n",
        new="    if not task.status.is_terminal:\n",
        killed_by=(
            "src/task_queue_engine/testing/conformance/requests.py::test_only_failed_and_cancelled_tasks_reopen",
        ),
    ),
    Mutant(
        promise=FINAL,
        without="telling a handler that was stopped from one that returned",
        file="actors/worker.py",
        old=(
            "                return Succeeded(attempt, result)\n"
            "            return self._stopped(attempt, None)\n"
        ),
        new=(
            "                return Succeeded(attempt, result)\n"
            "            return Succeeded(attempt, None)\n"
        ),
        killed_by=(
            "tests/actors/test_worker.py::test_a_running_attempt_is_stopped_after_its_cleanup",
        ),
    ),
)
