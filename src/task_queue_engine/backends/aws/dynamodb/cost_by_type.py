"""Which task type a write is charged to."""

from __future__ import annotations

from collections import OrderedDict

from task_queue_engine.backends.aws.dynamodb.writers import Answer, Applied, ConditionFailed
from task_queue_engine.backends.aws.usage import UsageByType
from task_queue_engine.task import Task

# Far more than one process runs at a time: tasks that were started here and ended elsewhere stay.
_REMEMBERED = 50_000


class CostByType:
    """Sums up what the writes of tasks cost, by the tasks' types."""

    def __init__(self) -> None:
        self.usage = UsageByType()
        # Of what is running here: a record names no type.
        self._types: OrderedDict[str, str] = OrderedDict()

    def started(self, task: Task) -> None:
        """Until it has `ended`, what its id costs is its type's."""
        self._types[task.id] = task.type
        if len(self._types) > _REMEMBERED:
            self._types.popitem(last=False)

    def ended(self, task_id: str) -> None:
        self._types.pop(task_id, None)

    def charge(self, task_id: str, answer: Answer, *, task_type: str | None) -> None:
        """Add a write of this task; one whose type cannot be known is left out.

        Args:
            task_type: None where the caller does not know it.
        """
        task_type = task_type or self._types.get(task_id) or _type_in(answer)
        if task_type is None:
            return
        usage = self.usage.of(task_type)
        usage.items += 1
        usage.requests += answer.requests
        usage.write_units += answer.units


def _type_in(answer: Answer) -> str | None:
    result = answer.result
    if isinstance(result, Applied | ConditionFailed) and result.item is not None:
        found: str | None = result.item.get("type", {}).get("S")
        return found
    return None
