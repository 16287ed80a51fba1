"""What clients may send."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LIMITS = "Nothing a client sends holds the loop, the memory or the disk beyond its limits."

CHECKS = "tests/execution/test_checks.py"
CROWD = "tests/http/test_crowd.py"
FOLDERS = "tests/handlers/test_folder_limits.py"
QUERY = "tests/handlers/test_export_query.py"
TIMES = "tests/http/test_time_limits.py"
WIRE = "tests/http/test_wire.py"

MUTANTS = (
    Mutant(
        promise=LIMITS,
        without="a checkpoint between the items of a batch",
        file="engine/intake.py",
        old="            if time.perf_counter() > turn_ends:\n",
        new="            if False:\n",
        killed_by=("tests/end_to_end/test_loop_lag.py::test_nothing_that_is_sent_holds_the_loop",),
    ),
    Mutant(
        promise=LIMITS,
        without="checks of large payloads in a thread",
        file="execution/checks.py",
        old="all(self._slow.get(name, _QUICK)) or is_large(payload))",
        new="all(self._slow.get(name, _QUICK)))",
        killed_by=(f"{CHECKS}::test_large_is_checked_in_a_thread",),
    ),
    Mutant(
        promise=LIMITS,
        without="checks of slow types in a thread",
        file="execution/checks.py",
        old="(hangs or all(self._slow.get(name, _QUICK)) or is_large(payload))",
        new="(hangs or is_large(payload))",
        killed_by=(f"{CHECKS}::test_a_type_that_is_slow_is_checked_in_a_thread_from_then_on",),
    ),
    Mutant(
        promise=LIMITS,
        without="a limit for what comes in chunks",
        file="http/app.py",
        old='    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes\n',
        new='    app.config["MAX_CONTENT_LENGTH"] = None\n',
        killed_by=(f"{WIRE}::test_by_chunks_is_answered_before_the_end",),
    ),
    Mutant(
        promise=LIMITS,
        without="a limit for payloads",
        file="engine/submission.py",
        old="        if len(encoded) > limit:\n",
        new="        if False:\n",
        killed_by=("tests/engine/test_submission.py::test_a_payload_at_the_limit_and_over_it",),
    ),
    Mutant(
        promise=LIMITS,
        without="a time for a whole request",
        file="http/connection.py",
        old="            self._request_until = now + self._limits.request_timeout\n",
        new="            return now + self._limits.request_timeout\n",
        killed_by=(
            f"{TIMES}::test_slow_heads_are_cut_off",
            f"{TIMES}::test_slow_bodies_are_cut_off",
        ),
    ),
    Mutant(
        promise=LIMITS,
        without="connections that fit into the open files",
        file="http/open_files.py",
        old="    room = max(limit - others, limit // 4)\n",
        new="    room = wanted\n",
        killed_by=(f"{CROWD}::test_connections_fit_into_the_open_files",),
    ),
    Mutant(
        promise=LIMITS,
        without="a limit for a folder of results",
        file="handlers/folder_limits.py",
        old="            if limit and self._known.used + count > limit:\n",
        new="            if False:\n",
        killed_by=(f"{FOLDERS}::test_a_full_folder_fails_the_task_for_now_and_names_the_limit",),
    ),
    Mutant(
        promise=LIMITS,
        without="a limit for a query's temporary files",
        file="handlers/export/query.py",
        old="    with limited_temp_space(max_temp_bytes) as space:\n",
        new="    with limited_temp_space(2**60) as space:\n",
        killed_by=(f"{QUERY}::test_sorting_has_the_files_limit_for_its_temporary_files_too",),
    ),
)
