"""Cancels all orders that wait: python recall.py; takes that back: python recall.py --undo ID"""

import os
import sys

from task_queue_engine import ActionRequest, Task, TaskAction, TaskFilter, TaskStatus
from task_queue_engine.client import Client

WAITING = ActionRequest(
    action=TaskAction.CANCEL, which=TaskFilter(type="pack", status=TaskStatus.PENDING)
)


def main(undo: str = "", action_id: str = "") -> None:
    with Client(os.environ.get("TQE_URL", "http://127.0.0.1:8080")) as client:
        action: Task | None
        if undo == "--undo":
            action = client.undo_action(action_id)
        else:
            print(f"{client.preview_action(WAITING).matching} orders wait")
            action = client.start_action(WAITING)
        if action is None:
            print("nothing to do")
            return
        # An action is a task: it can be waited for, followed, and stopped by a cancel.
        said = client.result(action.id, timeout=3600)
        print(f"{said['done']} of {said['of']}: {action.id}")


main(*sys.argv[1:])
