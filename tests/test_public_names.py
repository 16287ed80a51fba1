from __future__ import annotations

import subprocess
import sys

import task_queue_engine


def test_every_public_name_is_there() -> None:
    for name in task_queue_engine.__all__:
        assert getattr(task_queue_engine, name) is not None
    assert set(task_queue_engine._WHERE) == set(task_queue_engine.__all__) - {"__version__"}


def test_a_worker_process_does_not_load_the_engine() -> None:
    program = "import sys, task_queue_engine.execution.child; print('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
