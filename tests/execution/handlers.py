"""Handlers for worker processes, which find them by this module's name."""

from __future__ import annotations

import atexit
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task_queue_engine import Discard, Retry, SyncTaskContext

Handler = Callable[..., Any]


@dataclass
class Order:
    item: str
    count: int = 1


class Refused(ValueError):
    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.lock = threading.Lock()  # which does not pickle


def double(order: Order, context: SyncTaskContext) -> Order:
    context.check_cancelled()
    assert context.deadline is not None
    context.progress({"share": 0.5, "of": order})
    context.progress([context.task_id, context.attempt, context.deadline])
    return Order(order.item, order.count * 2)


def pid(payload: Any) -> int:
    return os.getpid()


def looks_for_garbage(payload: Any) -> bool:
    return gc.isenabled()


_kept: list[bytes] = []


def keep(mib: int) -> int:
    """Leak so much memory."""
    _kept.append(os.urandom(2**20) * mib)
    return os.getpid()


def hold(path: str, context: SyncTaskContext) -> None:
    """Keep the FIFO at `path` open for writing for as long as this process lives."""
    os.open(path, os.O_WRONLY)
    context.progress(os.getpid())
    time.sleep(60)


def hold_in_forked_child(path: str, context: SyncTaskContext) -> None:
    """The same, with a forked child that holds it too, and every descriptor of this process."""
    os.open(path, os.O_WRONLY)
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    context.progress(os.getpid())
    time.sleep(60)


def crash_with_forked_child(path: str) -> None:
    os.open(path, os.O_WRONLY)
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os._exit(7)


def crash_with_program(path: str) -> None:
    with Path(path).open("wb") as fifo:
        subprocess.Popen(["sleep", "60"], stdout=fifo, close_fds=False)
        os._exit(7)


def hold_in_subprocess(path: str, context: SyncTaskContext) -> None:
    with Path(path).open("wb") as fifo, subprocess.Popen(["sleep", "60"], stdout=fifo):
        context.progress(os.getpid())
        time.sleep(60)


def exit_at_once(code: int) -> None:
    os._exit(code)


def segfault(payload: Any) -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # no report of faulthandler in the test's output
    os.kill(os.getpid(), signal.SIGSEGV)


def hang_up_without_ending(payload: Any) -> None:
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink() and str(entry.readlink()).startswith("socket:"):
            os.close(int(entry.name))
    time.sleep(60)


def retry(payload: Any) -> None:
    raise Retry(42, "busy")


def discard(payload: Any) -> None:
    raise Discard("no such address")


def refuse(payload: Any) -> None:
    refuse_with(7)


def refuse_with(code: int) -> None:
    raise Refused(code)


def raise_in_group(payload: Any) -> None:
    raise ExceptionGroup("one", [Retry(42)])


def leave(payload: Any) -> None:
    sys.exit("bye")


def not_a_number(payload: Any) -> Any:
    return {"share": math.nan}


def not_json(payload: Any) -> Any:
    return {"where": object()}


def large(size: int) -> str:
    return "x" * size


def bad_progress(payload: Any, context: SyncTaskContext) -> None:
    context.progress(object())


def leave_a_thread_behind(delay: float, context: SyncTaskContext) -> None:
    def report() -> None:
        time.sleep(delay)
        context.progress("from an attempt that is over")

    threading.Thread(target=report, daemon=True).start()


def take_a_while(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def report_pid_and_wait(path: str, context: SyncTaskContext) -> str:
    """Until the file at `path` is there."""
    context.progress(os.getpid())
    while not Path(path).exists():
        time.sleep(0.005)
    return "done"


def terminate_a_program(payload: Any) -> int:
    with subprocess.Popen(["sleep", "60"]) as program:
        program.terminate()
        return program.wait()


def hang_at_exit(payload: Any) -> int:
    atexit.register(time.sleep, 60)
    return os.getpid()


def shout(payload: Any) -> None:
    print("from the handler")


def wrapped(handler: Handler) -> Handler:
    def wrapper(*args: Any) -> Any:
        return handler(*args)

    wrapper.__qualname__ = handler.__qualname__
    wrapper.__module__ = handler.__module__
    return wrapper


def undecorated(payload: Any) -> None: ...


decorated = undecorated
undecorated = wrapped(undecorated)
