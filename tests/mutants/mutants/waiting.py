"""What waits, and for what."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

STUCK = "Nothing is stuck silently."
DELAYED = "A delayed task never starts early, and any delay works."
COUNTS = "Counts cost the same to read at 10 rows and at 100 million."

CRASHES = "tests/engine/test_crashes.py"
DELAYS = "tests/engine/test_delays.py"
RECONCILER = "tests/actors/test_reconciler.py"
CLAIM = "src/task_queue_engine/testing/conformance/claim.py"
COUNTING = "src/task_queue_engine/testing/conformance/counts.py"
STRANDED = "src/task_queue_engine/testing/conformance/stranded.py"

MUTANTS = (
    Mutant(
        promise=STUCK,
        without="a search for what was stored and never sent",
        file="backends/sqlite/listing.py",
        old="            ELSE due_at IS NULL AND NOT EXISTS (\n",
        new="            ELSE 0 AND NOT EXISTS (\n",
        killed_by=(
            f"{STRANDED}::test_saved_and_never_sent",
            f"{STRANDED}::test_given_back_without_its_message",
        ),
    ),
    Mutant(
        promise=STUCK,
        without="a search for what runs without its message",
        file="backends/sqlite/listing.py",
        old="            WHEN {_PROCESSING} THEN NOT EXISTS (\n",
        new="            WHEN {_PROCESSING} THEN 0 AND NOT EXISTS (\n",
        killed_by=(f"{STRANDED}::test_running_without_its_message",),
    ),
    Mutant(
        promise=STUCK,
        without="the reconciler's walk",
        file="actors/reconciler.py",
        old="        if page.found:\n",
        new="        if False:\n",
        killed_by=(
            f"{RECONCILER}::test_a_task_that_was_stored_and_never_sent_is_sent",
            f"{RECONCILER}::test_an_attempt_whose_message_is_gone_is_counted_and_comes_back",
            f"{CRASHES}::test_a_running_task_whose_message_vanished_and_whose_worker_died_comes_back",
        ),
    ),
    Mutant(
        promise=STUCK,
        without="a look at what the queue itself has given up",
        file="actors/reconciler.py",
        old="        found = await self._queue.dead_letters.moved_by_broker()\n",
        new="        found = ()\n",
        killed_by=(f"{RECONCILER}::test_a_task_whose_message_the_queue_gave_up_fails",),
    ),
    Mutant(
        promise=STUCK,
        without="making up for a crash between FAILED and its dead letter",
        file="lifecycle/claim.py",
        old="        return NeedsDeadLetter(task), None\n",
        new="        return Finished(task.status), None\n",
        killed_by=(
            f"{CLAIM}::test_the_message_of_a_failed_task_comes_back_for_its_dead_letter",
            f"{CRASHES}::test_a_crash_between_recording_a_failure_and_dead_lettering",
        ),
    ),
    Mutant(
        promise=DELAYED,
        without="a look at run_at at the claim",
        file="lifecycle/claim.py",
        old="        if task.run_at is not None and task.run_at > now:\n",
        new="        if False:\n",
        killed_by=(
            f"{CLAIM}::test_not_due_yet",
            f"{DELAYS}::test_a_message_that_comes_early_starts_nothing",
        ),
    ),
    Mutant(
        promise=DELAYED,
        without="long delays in the store",
        file="engine/submission.py",
        old=" and (run_at - now).total_seconds() > self._max_delay\n",
        new=" and False\n",
        killed_by=("tests/engine/test_submission.py::test_a_delay_waits_where_it_fits",),
    ),
    Mutant(
        promise=DELAYED,
        without="the scheduler",
        file="engine/pipeline.py",
        old='senders.start_soon(supervisor.restartable, "scheduler", self.scheduler.run)',
        new="pass",
        killed_by=(
            f"{DELAYS}::test_a_delay_of_any_length",
            f"{DELAYS}::test_a_delay_longer_than_any_process_lives",
        ),
    ),
    Mutant(
        promise=DELAYED,
        without="sending ahead what comes due",
        file="actors/scheduler.py",
        old="        before = self._clock.now() + self._lead\n",
        new="        before = self._clock.now()\n",
        killed_by=("tests/actors/test_scheduler.py::test_a_task_arrives_when_it_is_due",),
    ),
    Mutant(
        promise=COUNTS,
        without="counters in place of counting",
        file="backends/sqlite/store.py",
        old='"SELECT name, n FROM counters WHERE name IN (?, ?, ?, ?, ?)", tuple(STATUSES)\n',
        new=(
            '"SELECT name, (SELECT count(*) FROM tasks WHERE name = name) FROM counters '
            'WHERE name IN (?, ?, ?, ?, ?)", tuple(STATUSES)\n'
        ),
        killed_by=(
            "tests/backends/sqlite/test_counts.py::test_counts_read_no_task_and_no_message",
        ),
    ),
    Mutant(
        promise=COUNTS,
        without="a bound for what is counted one by one",
        file="backends/sqlite/queue.py",
        old="_COUNTED = 10_000\n",
        new="_COUNTED = 10**12\n",
        killed_by=(
            "tests/backends/sqlite/test_counts.py::test_the_depth_of_a_queue_costs_the_same_at_any_length",
        ),
    ),
    Mutant(
        promise=COUNTS,
        without="counters that move with the rows",
        file="backends/sqlite/store.py",
        old="        transaction.counters[row.task.status] += 1\n",
        new="",
        killed_by=(
            f"{COUNTING}::test_from_processing",
            f"{COUNTING}::test_takeovers",
        ),
    ),
)
