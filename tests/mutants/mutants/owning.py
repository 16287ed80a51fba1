"""Which attempt of a task may run."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CANCELLED = "No handler starts once its task is cancelled or finished."
DUPLICATE = "A live attempt is never acked by its duplicate."
LEASE = "Losing the lease stops the attempt."

CANCELLING = "tests/engine/test_cancelling.py"
CLAIMER = "tests/actors/test_claimer.py"
LEASE_KEEPER = "tests/actors/test_lease_keeper.py"
OUTAGES = "tests/engine/test_outages.py"
POLLER = "tests/actors/test_poller.py"
WORKER = "tests/actors/test_worker.py"
CLAIM = "src/task_queue_engine/testing/conformance/claim.py"

MUTANTS = (
    Mutant(
        promise=CANCELLED,
        without="a look at the row at the claim",
        file="lifecycle/claim.py",
        old="    if task.status.is_terminal:\n        return Finished(task.status), None\n",
        new=(
            "    if task.status.is_terminal:\n"
            "        return _start(row, request, now, retry_count=0, error=None)\n"
        ),
        killed_by=(
            f"{CLAIM}::test_task_cancelled_while_queued_does_not_start",
            f"{CLAIM}::test_finished_task_does_not_start",
            f"{CANCELLING}::test_a_cancel_that_lands_while_the_delivery_waits_in_the_buffer",
        ),
    ),
    Mutant(
        promise=CANCELLED,
        without="passing a cancel in this process on",
        file="engine/commands.py",
        old="            await self._running.pipeline.stop_cancelled(task)\n",
        new="            pass\n",
        killed_by=(
            f"{CANCELLING}::test_a_cancel_at_any_moment_means_it_does_not_start_after",
            f"{CANCELLING}::test_a_cancel_that_lands_while_the_claim_is_under_way",
        ),
    ),
    Mutant(
        promise=CANCELLED,
        without="waiting until the lease keeper has heard of it",
        file="engine/pipeline.py",
        old="            await event.reply.get()\n",
        new="            pass\n",
        killed_by=(f"{CANCELLING}::test_a_cancel_and_a_claim_that_are_answered_in_one_moment",),
    ),
    Mutant(
        promise=CANCELLED,
        without="a mark on the lease whose claim is under way",
        file="actors/lease_keeper.py",
        old="        lease.cancel_asked = True\n",
        new="",
        killed_by=(
            f"{LEASE_KEEPER}::test_a_cancel_asked_while_the_claim_is_under_way_keeps_it_from_starting",
            f"{CANCELLING}::test_a_cancel_at_any_moment_means_it_does_not_start_after",
            f"{CANCELLING}::test_a_cancel_that_lands_while_the_claim_is_under_way",
        ),
    ),
    Mutant(
        promise=CANCELLED,
        without="a look at that mark after the claim",
        file="actors/claimer.py",
        old="        elif lease.cancel_asked or task.cancel_requested:\n",
        new="        elif task.cancel_requested:\n",
        killed_by=(
            f"{CLAIMER}::test_an_attempt_cancelled_while_its_claim_was_under_way_does_not_start",
            f"{CANCELLING}::test_a_cancel_that_lands_while_the_claim_is_under_way",
        ),
    ),
    Mutant(
        promise=CANCELLED,
        without="a look at the row that the claim came back with",
        file="actors/claimer.py",
        old="        elif lease.cancel_asked or task.cancel_requested:\n",
        new="        elif lease.cancel_asked:\n",
        killed_by=(
            f"{CLAIMER}::test_what_was_cancelled_elsewhere_between_two_tries_does_not_start",
        ),
    ),
    Mutant(
        promise=CANCELLED,
        without="the worker's own look before the start",
        file="actors/worker.py",
        old=(
            "        if attempt.abort_reason is not None:\n"
            "            return self._stopped(attempt, None)\n"
        ),
        new="        attempt.scope = trio.CancelScope()\n",
        killed_by=(
            f"{WORKER}::test_an_attempt_stopped_before_its_start_does_not_start",
            f"{CANCELLING}::test_a_cancel_at_any_moment_means_it_does_not_start_after",
            f"{CANCELLING}::test_a_cancel_and_a_claim_that_are_answered_in_one_moment",
        ),
    ),
    Mutant(
        promise=CANCELLED,
        without="a checkpoint before an async handler",
        file="execution/runner.py",
        old="        await trio.lowlevel.checkpoint_if_cancelled()\n        self._runner",
        new="        self._runner",
        killed_by=(
            "tests/execution/test_trio_handlers.py::test_no_handler_starts_once_its_scope_is_cancelled",
        ),
    ),
    Mutant(
        promise=DUPLICATE,
        without="the receive count at the claim",
        file="lifecycle/claim.py",
        old="    if request.receives_of(row.message_id) <= row.receive_count:\n",
        new="    if request.receives_of(row.message_id) < row.receive_count:\n",
        killed_by=(
            f"{CLAIM}::test_same_delivery_twice_is_a_duplicate_and_changes_nothing",
            f"{OUTAGES}::test_a_duplicate_of_a_live_attempt_is_neither_run_nor_acked",
        ),
    ),
    Mutant(
        promise=DUPLICATE,
        without="telling another message of the task from the attempt's own",
        file="lifecycle/claim.py",
        old="        if message_id == self.message_id:\n",
        new="        if message_id:\n",
        killed_by=(f"{CLAIM}::test_another_message_never_takes_over",),
    ),
    Mutant(
        promise=DUPLICATE,
        without="leaving a duplicate's message alone",
        file="actors/unstarted.py",
        old="                return Leave(lease)\n",
        new="                return Ack(lease)\n",
        killed_by=(
            f"{POLLER}::test_a_duplicate_of_a_live_attempt_is_left_alone",
            f"{OUTAGES}::test_a_duplicate_of_a_live_attempt_is_neither_run_nor_acked",
        ),
    ),
    Mutant(
        promise=DUPLICATE,
        without="keeping a second message until the attempt has ended",
        file="actors/unstarted.py",
        old="                return Release(lease, min(self._visibility, self._max_delay))\n",
        new="                return Ack(lease)\n",
        killed_by=(f"{CLAIMER}::test_a_second_message_of_a_running_task_is_hidden_for_a_while",),
    ),
    Mutant(
        promise=LEASE,
        without="the lease keeper's abort",
        file="actors/lease_keeper.py",
        old="            lease.attempt.abort(AbortReason.LEASE_LOST)\n",
        new="            pass\n",
        killed_by=(
            f"{LEASE_KEEPER}::test_a_lease_the_queue_says_is_gone_stops_its_attempt",
            f"{LEASE_KEEPER}::test_a_lease_that_cannot_be_renewed_stops_its_attempt_before_it_runs_out",
            f"{OUTAGES}::test_a_lost_lease_stops_the_attempt_before_another_worker_starts",
        ),
    ),
    Mutant(
        promise=LEASE,
        without="a watch on leases that run out",
        file="actors/lease_keeper.py",
        old="                    nursery.start_soon(self._keep_expiring)\n",
        new="",
        killed_by=(
            f"{LEASE_KEEPER}::test_a_lease_that_cannot_be_renewed_stops_its_attempt_before_it_runs_out",
            f"{OUTAGES}::test_a_lost_lease_stops_the_attempt_before_another_worker_starts",
        ),
    ),
    Mutant(
        promise=LEASE,
        without="a limit for each renewal",
        file="actors/lease_keeper.py",
        old="            with trio.fail_after(self._visibility * _RENEW_INTERVAL):\n",
        new="            with trio.CancelScope():\n",
        killed_by=(f"{LEASE_KEEPER}::test_one_hanging_renewal_does_not_cost_the_other_leases",),
    ),
    Mutant(
        promise=LEASE,
        without="renewing",
        file="actors/lease_keeper.py",
        old="                    nursery.start_soon(self._keep_renewing)\n",
        new="",
        killed_by=(
            f"{LEASE_KEEPER}::test_a_lease_is_kept_for_as_long_as_it_takes",
            f"{OUTAGES}::test_a_handler_longer_than_many_leases_runs_once",
        ),
    ),
    Mutant(
        promise=LEASE,
        without="a look at the lease at the end of the claim",
        file="actors/claimer.py",
        old="            attempt.abort(AbortReason.LEASE_LOST)\n",
        new="            pass\n",
        killed_by=(
            f"{CLAIMER}::test_an_attempt_claimed_under_a_lost_lease_is_stopped_before_it_starts",
        ),
    ),
)
