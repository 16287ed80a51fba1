"""Handlers that leave behind what keeps a process from ending; copied like `shop.py`."""

import atexit
import concurrent.futures
import ctypes
import logging.config
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import trio

from task_queue_engine import TaskRegistry

tasks = TaskRegistry()
FOR_EVER = 3600


@tasks.task("thread")
def thread(payload: Any) -> None:
    concurrent.futures.ThreadPoolExecutor().submit(time.sleep, FOR_EVER)


@tasks.task("child")
def child(payload: Any) -> None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(FOR_EVER,))
    process.start()
    Path("child.pid").write_text(str(process.pid))


@tasks.task("atexit")
def at_exit(payload: Any) -> None:
    atexit.register(Path("atexit.ran").touch)


@tasks.task("atexit-hangs")
def at_exit_hangs(payload: Any) -> None:
    atexit.register(time.sleep, FOR_EVER)


@tasks.task("lock")
def lock(payload: Any) -> None:
    Path("lock.running").touch()
    _hold_the_interpreter()


def _hold_the_interpreter() -> None:
    """Inside C, where no signal is noticed, for ever: a mutex that this thread has locked."""
    c = ctypes.PyDLL(None)  # keeps the interpreter's lock while it calls
    mutex = ctypes.create_string_buffer(128)  # more than any system's takes
    c.pthread_mutex_init(mutex, None)
    c.pthread_mutex_lock(mutex)
    c.pthread_mutex_lock(mutex)


@tasks.task("async-lock")
async def async_lock(payload: Any) -> None:
    await trio.Path("lock.running").touch()
    _hold_the_interpreter()


@tasks.task("terminate")
def terminate(payload: Any) -> int | None:
    return _terminate()


@tasks.task("terminate-in-process", process=True)
def terminate_in_process(payload: Any) -> int | None:
    return _terminate()


def _terminate() -> int | None:
    """How a forked child ends that is asked to."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(FOR_EVER,))
    process.start()
    process.terminate()
    process.join(10)
    code = process.exitcode
    process.kill()
    return code


@tasks.task("pool")
def pool(payload: Any) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return workers.map(abs, [-1, -2])


@tasks.task("start-method")
def start_method(name: str) -> list[int]:
    return _started(name)


@tasks.task("start-method-in-process", process=True)
def start_method_in_process(name: str) -> list[int]:
    return _started(name)


def _started(name: str) -> list[int]:
    with multiprocessing.get_context(name).Pool(1) as workers:
        return workers.map(abs, [-1, -2])


@tasks.task("orphan")
def orphan(payload: Any) -> None:
    """A program whose parent ends before it does."""
    subprocess.run(
        [sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '1'])"], check=True
    )


@tasks.task("variable", process=True)
def variable(name: str) -> str | None:
    return os.environ.get(name)


logger = logging.getLogger("shop.stock")


@tasks.task("log", process=True)
def log(payload: Any) -> None:
    logger.info("counted %d", 3, extra={"shelf": "A"})
    logger.debug("not at this level")
    warnings.warn("it is old", stacklevel=1)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it failed")


@tasks.task("configure-logging")
def configure_logging(payload: Any) -> None:
    """As an application does that never thought of the engine."""
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"none": {"class": "logging.NullHandler"}},
            "root": {"level": "ERROR", "handlers": ["none"]},
        }
    )


@tasks.task("fail")
async def fail(payload: Any) -> None:
    raise SystemExit("the handler's own exit")


@tasks.task("hang", timeout=0.2, max_attempts=1)
def hang(payload: Any) -> None:
    time.sleep(FOR_EVER)
