"""The main program of a worker process. It needs no trio, and starts faster without.

The main thread runs handlers, one at a time. A second thread reads the socket, so that the end of
the engine is noticed while a handler runs: then the process ends itself, and its process group
with it. (PR_SET_PDEATHSIG would not do: it fires when the *thread* that made the process ends.)
A handler that holds the interpreter lock inside C code delays this until it lets go.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

import msgspec

from task_queue_engine.errors import AttemptEnded, HandlerExited
from task_queue_engine.execution import wire
from task_queue_engine.execution.child_logs import EngineSocket, ToEngine
from task_queue_engine.execution.contexts import AttemptContext
from task_queue_engine.execution.failures import unwrap_single
from task_queue_engine.execution.forks import set_signals_in_forks
from task_queue_engine.execution.locating import HandlerPath, load
from task_queue_engine.execution.memory import resident_bytes
from task_queue_engine.execution.remote_errors import pack
from task_queue_engine.execution.values import encode_progress, encode_result
from task_queue_engine.registry import TaskDefinition, TaskRegistry
from task_queue_engine.tracing import within

SHUTDOWN_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What a terminal or a service manager sends to every process of a service at once. The engine
decides when its worker processes end: they get these signals blocked and then ignore them."""

# Seconds between looks at who the parent process is, for the case that the engine died but a
# process forked from it holds its end of the socket open.
_PARENT_CHECK = 2.0

# Seconds for atexit functions and stray threads, once the engine has hung up.
_EXIT_GRACE = 5.0


def main(descriptor: int, engine_pid: int) -> None:
    """Serve the engine on this socket until it hangs up."""
    gc.freeze()  # what was imported stays
    gc.enable()  # see _BOOTSTRAP in worker_process.py
    for signum in SHUTDOWN_SIGNALS:
        # A handler that does nothing rather than SIG_IGN: programs started from here do not
        # inherit it, so that they can be terminated.
        signal.signal(signum, _ignore)
        signal.siginterrupt(signum, False)
    set_signals_in_forks(
        {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
            signal.SIGHUP: signal.SIG_DFL,
        }
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SHUTDOWN_SIGNALS)
    if sys.stderr is not None:
        faulthandler.enable()

    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    engine = EngineSocket(connection)
    logs = ToEngine(engine)
    logging.root.addHandler(logs)
    jobs: SimpleQueue[bytes | None] = SimpleQueue()
    listener = _Listener(connection, engine_pid, jobs)
    threading.Thread(target=listener.run, name="engine listener", daemon=True).start()
    try:
        engine.send(wire.WorkerReady())
    except OSError:
        return  # the engine is gone

    while (body := jobs.get()) is not None:
        job = wire.decode_job(body)
        logs.start(job)
        reply = _run(job, engine)
        logs.end()
        _flush_output()
        if job.measure_memory:
            reply.memory = resident_bytes()
        listener.busy = False
        try:
            engine.send(reply)
        except OSError:
            return  # the engine is gone


class _Listener:
    def __init__(
        self, engine: socket.socket, engine_pid: int, jobs: SimpleQueue[bytes | None]
    ) -> None:
        self._engine = engine
        self._engine_pid = engine_pid
        self._jobs = jobs
        self.busy = False

    def run(self) -> None:
        with contextlib.suppress(OSError):  # a broken socket is a lost engine too
            self._listen()
        if self.busy:
            _die()
        self._jobs.put(None)
        time.sleep(_EXIT_GRACE)
        _die()

    def _listen(self) -> None:
        """Until the engine hangs up or is gone."""
        frames = wire.FrameBuffer()
        with selectors.DefaultSelector() as selector:
            selector.register(self._engine, selectors.EVENT_READ)
            while True:
                readable = selector.select(_PARENT_CHECK)
                if os.getppid() != self._engine_pid:
                    return
                if not readable:
                    continue
                data = self._engine.recv(65536)
                if not data:
                    return
                frames.feed(data)
                while (body := frames.next()) is not None:
                    self.busy = True
                    self._jobs.put(body)


class ProcessContext(AttemptContext):
    """The context of a handler in a worker process."""

    __slots__ = ("_engine", "_limit", "_lock", "_over")

    def __init__(self, job: wire.Job, engine: EngineSocket) -> None:
        super().__init__(job.task, job.waited)
        self._engine = engine
        self._limit = job.max_result_bytes
        self._lock = threading.Lock()
        self._over = False

    def progress(self, value: Any) -> None:
        progress = wire.ProgressReported(msgspec.Raw(encode_progress(value, self._limit)))
        with self._lock:
            if self._over:
                raise AttemptEnded
            self._engine.send(progress)

    def check_cancelled(self) -> None:
        """Nothing to check: this process is killed when the attempt ends."""

    def end(self) -> None:
        """The attempt is over: a thread it left behind must not write into the next one."""
        with self._lock:
            self._over = True


def _run(job: wire.Job, engine: EngineSocket) -> wire.Returned | wire.Raised:
    context = ProcessContext(job, engine)
    try:
        definition = _definition(job.handler, job.task.type)
        payload = definition.convert_payload(job.task.payload)
        arguments = (payload, context) if definition.takes_context else (payload,)
        with within(job.trace_context):
            returned = definition.handler(*arguments)
        result = encode_result(returned, job.max_result_bytes, definition.convert_result)
        return wire.Returned(msgspec.Raw(result))
    except BaseException as raised:  # noqa: BLE001 - all that a handler raises goes to the engine
        error = unwrap_single(raised)
        if not isinstance(error, Exception):
            exited = HandlerExited(error)
            exited.__cause__ = error
            error = exited
        return wire.Raised(pack(error))
    finally:
        context.end()


_definitions: dict[tuple[HandlerPath, str], TaskDefinition] = {}


def _definition(path: HandlerPath, type_name: str) -> TaskDefinition:
    """The handler with its payload conversion, as the engine registered it."""
    definition = _definitions.get((path, type_name))
    if definition is None:
        registry = TaskRegistry()
        registry.task(type_name, process=True)(load(path))
        definition = _definitions[path, type_name] = registry.get(type_name)
    return definition


def _flush_output() -> None:
    """What a handler printed belongs to its attempt, and would be lost if the next is killed."""
    for stream in (sys.stdout, sys.stderr):
        # Closed, replaced or full: no reason to fail a task.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _ignore(signum: int, frame: object) -> None:
    pass


def _die() -> None:
    """With everything this process started and did not move to a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
