"""Everything that only ever goes up: what it is called, what it counts, which actor knows it."""

from __future__ import annotations

from task_queue_engine.engine.pipeline import Pipeline

COUNTERS = {
    "tasks_submitted": "Tasks stored through this process.",
    "submissions_replayed": "Submissions whose idempotency key had been used before.",
    "submissions_unsent": "Tasks stored whose message could not be sent; the scheduler sends it.",
    "scheduled_sent": "Messages sent when the time of a long delay had come.",
    "reconciler_resent": "Messages sent for tasks that were found without one.",
    "reconciler_reclaimed": "Running tasks found without a message, and ended or started again.",
    "reconciler_buried": "Tasks ended, since the broker itself had dead-lettered their message.",
    "tasks_expired": "Finished tasks deleted after their retention.",
    "leases_renewed": "Leases of held messages that were extended.",
    "leases_lost": "Leases that could not be kept; their attempts were stopped.",
    "messages_received": "Messages received from the queue.",
    "messages_deleted": "Messages deleted because their task had ended or waits in the store.",
    "messages_released": "Messages given back: for a retry, or unstarted.",
    "messages_dead_lettered": "Messages moved to the dead-letter queue.",
    "duplicate_deliveries": "Messages of tasks that had ended or were running already.",
    "settlements_stale": "Messages that another worker had by the time they were to be settled.",
    "attempts_claimed": "Attempts claimed in the store.",
    "attempts_taken_over": "Attempts claimed from a worker that died or lost its lease.",
    "attempts_started": "Attempts whose handler was started.",
    "attempts_completed": "Attempts that completed their task.",
    "attempts_retried": "Attempts that failed and are followed by another one.",
    "attempts_failed_for_good": "Attempts that failed and were the last one of their task.",
    "attempts_snoozed": "Attempts whose handler asked to be called later, or could not be started.",
    "attempts_cancelled": "Attempts stopped because their task was cancelled.",
    "attempts_interrupted": "Attempts given back at shutdown or before they started; not counted.",
    "attempts_fenced": "Attempts whose outcome was dropped: the task was no longer theirs.",
    "tasks_quarantined": "Tasks failed because their workers died too often.",
}
"""What each of the engine's counters counts, since this process started."""


def counters_of(pipeline: Pipeline) -> dict[str, int]:
    """Name to count, since this process started; the workers' side only where it has workers."""
    submitter = pipeline.submitter.statistics()
    reconciler = pipeline.reconciler.statistics()
    leases = pipeline.lease_keeper.statistics()
    counters = {
        "tasks_submitted": submitter.submitted,
        "submissions_replayed": submitter.replayed,
        "submissions_unsent": submitter.unsent,
        "scheduled_sent": pipeline.scheduler.statistics().sent,
        "reconciler_resent": reconciler.resent,
        "reconciler_reclaimed": reconciler.reclaimed,
        "reconciler_buried": reconciler.broker_dead_lettered,
        "tasks_expired": reconciler.expired,
        "leases_renewed": leases.renewed,
        "leases_lost": leases.lost,
    }
    if pipeline.line is not None:
        line = pipeline.line
        poller = line.poller.statistics()
        claimer = line.claimer.statistics()
        writer = line.status_writer.statistics()
        acker = line.acker.statistics()
        counters |= {
            "messages_received": poller.received,
            "attempts_claimed": claimer.claimed,
            "attempts_taken_over": claimer.taken_over,
            "tasks_quarantined": claimer.quarantined,
            "duplicate_deliveries": poller.duplicates + claimer.duplicates,
            "attempts_started": sum(worker.statistics().started for worker in line.workers),
            "attempts_completed": writer.completed,
            "attempts_failed_for_good": writer.failed,
            "attempts_retried": writer.retried,
            "attempts_snoozed": writer.snoozed,
            "attempts_cancelled": writer.cancelled,
            "attempts_interrupted": writer.interrupted,
            "attempts_fenced": writer.fenced,
            # Settled with the record, or by a step of its own.
            "messages_deleted": writer.deleted + acker.deleted,
            "messages_released": writer.released + acker.released,
            "messages_dead_lettered": writer.dead_lettered + acker.dead_lettered,
            "settlements_stale": writer.stale + acker.stale,
        }
    return counters
