"""The lifecycle of a task as pure functions: (row, what happened, now) -> (verdict, new row).

`PENDING -> PROCESSING -> COMPLETED | FAILED | CANCELLED`, and PROCESSING -> PENDING for a retry, a
snooze or an interruption. Terminal is final, unless an operator asks for a new round.

| file | rule |
|---|---|
| `row.py` | what is stored of a task, and how it looks once it has ended |
| `claim.py` | which delivery starts an attempt, takes over a dead one, or is settled unrun |
| `record.py` | what an attempt may write, and when it is fenced |
| `requests.py` | cancel and reopen |
| `history.py` | which attempt is put away when, and what is read from the row |
| `repair.py` | reclaim an attempt without a message; fail what was given up or cannot be sent |

This is the reference every backend is held to. The memory backend calls these functions; the
others express the same rules as conditional writes and prove it in `testing.conformance`. No rule
here asks a wall clock who owns a task: ownership is `attempt` and the message's receive count.
"""

from task_queue_engine.lifecycle.claim import (
    ClaimRequest,
    ClaimVerdict,
    DuplicateDelivery,
    Exhausted,
    ExtraCopy,
    Finished,
    NeedsDeadLetter,
    NotAhead,
    NotDue,
    Receive,
    Started,
    crash_error,
    decide_claim,
    may_be_claimed_ahead,
    retry_count_after_crash,
)
from task_queue_engine.lifecycle.history import (
    CRASH_ERROR_TYPE,
    DEAD_LETTERED_ERROR_TYPE,
    SLOTS,
    history_of,
    latest,
    slot_of,
    supersedes,
)
from task_queue_engine.lifecycle.record import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Fenced,
    Interrupt,
    LoseLease,
    Progress,
    Recorded,
    RecordVerdict,
    ScheduleRetry,
    ScheduleSnooze,
    decide_record,
    ended_by,
    target_status,
)
from task_queue_engine.lifecycle.repair import (
    MESSAGE_REFUSED_ERROR_TYPE,
    BrokerDeadLetter,
    PendingFailure,
    decide_fail_dead_lettered,
    decide_fail_pending,
    decide_reclaim,
)
from task_queue_engine.lifecycle.requests import (
    AlreadyFinished,
    CancelledNow,
    CancelRequested,
    CancelVerdict,
    Deleted,
    DeleteVerdict,
    NotDeleted,
    NotReopened,
    Reopened,
    ReopenVerdict,
    decide_cancel,
    decide_delete,
    decide_reopen,
)
from task_queue_engine.lifecycle.row import Missing, Row, delay_until

__all__ = [
    "CRASH_ERROR_TYPE",
    "DEAD_LETTERED_ERROR_TYPE",
    "MESSAGE_REFUSED_ERROR_TYPE",
    "SLOTS",
    "AlreadyFinished",
    "AttemptWrite",
    "BrokerDeadLetter",
    "Cancel",
    "CancelRequested",
    "CancelVerdict",
    "CancelledNow",
    "ClaimRequest",
    "ClaimVerdict",
    "Complete",
    "DeleteVerdict",
    "Deleted",
    "DuplicateDelivery",
    "Exhausted",
    "ExtraCopy",
    "Fail",
    "Fenced",
    "Finished",
    "Interrupt",
    "LoseLease",
    "Missing",
    "NeedsDeadLetter",
    "NotAhead",
    "NotDeleted",
    "NotDue",
    "NotReopened",
    "PendingFailure",
    "Progress",
    "Receive",
    "RecordVerdict",
    "Recorded",
    "ReopenVerdict",
    "Reopened",
    "Row",
    "ScheduleRetry",
    "ScheduleSnooze",
    "Started",
    "crash_error",
    "decide_cancel",
    "decide_claim",
    "decide_delete",
    "decide_fail_dead_lettered",
    "decide_fail_pending",
    "decide_reclaim",
    "decide_record",
    "decide_reopen",
    "delay_until",
    "ended_by",
    "history_of",
    "latest",
    "may_be_claimed_ahead",
    "retry_count_after_crash",
    "slot_of",
    "supersedes",
    "target_status",
]
