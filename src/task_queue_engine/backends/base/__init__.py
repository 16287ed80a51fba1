"""The contract between the engine and a backend: a queue of messages and a store of tasks.

Everything works in batches and answers per item, in the order asked: one bad item never fails its
neighbours. A call that fails as a whole raises `BackendUnavailable` (expected, try again) or
`BackendRefused` (trying again does not help); then nothing is known about any of its items, and all
of these operations may safely be repeated.

Cancellation: a call is cancellable while it waits. A write once begun is either finished or never
happened, and `receive` never loses a message it took: it raises `Cancelled` having taken nothing,
or returns.

The rules of the store are those of `task_queue_engine.lifecycle`. `testing.conformance` holds every
backend to this contract, and says how to run it on another one.

| file | part |
|---|---|
| `verdicts.py` | what is answered for each item of a batch |
| `queue.py`, `dead_letters.py` | the queue, and where messages go that are not to be tried again |
| `store.py` | the rows of the tasks |
| `steps.py` | what both do together: submit, take, finish |
| `usage.py` | what a billed backend has asked for |
| `workers.py` | which processes there are |
| `changes.py` | what processes that share a backend tell each other |
| `backend.py` | queue and store together |
"""

from task_queue_engine.backends.base.backend import Backend, BackendInfo
from task_queue_engine.backends.base.changes import (
    BroadcastingBackend,
    Heard,
    NotifyingBackend,
    TaskChange,
)
from task_queue_engine.backends.base.dead_letters import (
    DeadLetter,
    DeadLetterPage,
    DeadLetterQueue,
)
from task_queue_engine.backends.base.queue import (
    DeadLettering,
    Delivery,
    Message,
    QueueCapabilities,
    QueueDepth,
    TaskQueue,
)
from task_queue_engine.backends.base.steps import (
    Finish,
    Finished,
    GiveBack,
    Steps,
    SubmitVerdict,
    Taken,
    TakePlan,
    TwoServices,
    Unsent,
    is_settled_by,
    message_of,
    submit_to_two,
    then_after,
)
from task_queue_engine.backends.base.store import (
    Counts,
    DueChange,
    DueTask,
    ListQuery,
    NewTask,
    Stranded,
    StrandedKind,
    StrandedPage,
    TaskCount,
    TaskPage,
    TaskStore,
)
from task_queue_engine.backends.base.usage import (
    BackendUsage,
    MeteredBackend,
    OperationUsage,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.backends.base.verdicts import (
    AlreadyExists,
    Created,
    CreateVerdict,
    Done,
    LeaseLost,
    QueueVerdict,
    Rejected,
    TooLarge,
    TryAgain,
)
from task_queue_engine.backends.base.workers import WorkerStore

__all__ = [
    "AlreadyExists",
    "Backend",
    "BackendInfo",
    "BackendUsage",
    "BroadcastingBackend",
    "Counts",
    "CreateVerdict",
    "Created",
    "DeadLetter",
    "DeadLetterPage",
    "DeadLetterQueue",
    "DeadLettering",
    "Delivery",
    "Done",
    "DueChange",
    "DueTask",
    "Finish",
    "Finished",
    "GiveBack",
    "Heard",
    "LeaseLost",
    "ListQuery",
    "Message",
    "MeteredBackend",
    "NewTask",
    "NotifyingBackend",
    "OperationUsage",
    "QueueCapabilities",
    "QueueDepth",
    "QueueVerdict",
    "Rejected",
    "StepUsage",
    "Steps",
    "Stranded",
    "StrandedKind",
    "StrandedPage",
    "SubmitVerdict",
    "TakePlan",
    "Taken",
    "TaskChange",
    "TaskCount",
    "TaskPage",
    "TaskQueue",
    "TaskStore",
    "TaskTypeUsage",
    "TooLarge",
    "TryAgain",
    "TwoServices",
    "Unsent",
    "WorkerStore",
    "is_settled_by",
    "message_of",
    "submit_to_two",
    "then_after",
]
