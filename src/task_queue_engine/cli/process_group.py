"""`--processes N`: the process that starts the others, and runs no task itself.

It binds the port, which all accept from; passes signals on; starts a process anew that has ended;
gathers what /metrics and /ready say of all. Between these it sleeps: ends come as SIGCHLD. Should
it be killed itself, the kernel and the end of its sockets tell the others, which stop in order
(`membership.py`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from task_queue_engine.cli import group_messages as messages
from task_queue_engine.cli.failures import ExitCode
from task_queue_engine.cli.member_process import MemberProcess, describe_exit
from task_queue_engine.cli.time_to_end import TimeToEnd
from task_queue_engine.cli.watchdog import Watchdog
from task_queue_engine.config import Settings
from task_queue_engine.engine.signals import on_child_ends, on_signals
from task_queue_engine.http.listeners import bound, open_listeners

logger = logging.getLogger("task_queue_engine.processes")

# Seconds until a process that died is started again: the first time, and at most.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
# Seconds that a process has to serve for its next end to count as the first again.
_STEADY = 60.0
# A process that ends so to be started anew has done what it should.
_REPLACE_AT_ONCE = frozenset({ExitCode.OK, ExitCode.WORN_OUT})
# Seconds for it to have served all the same, or it would start and end without a pause.
_SERVED = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    line: str | None = None
    """Why, where a process could not do its work: for the user."""


def run_processes(settings: Settings, *, count: int, http: bool, monitoring: bool = False) -> Ended:
    """Run `count` processes of this very program until a signal ends them.

    Args:
        http, monitoring: as in `service.ServiceConfig`.

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    group = _Group(settings, count, http=http, monitoring=monitoring)
    return trio.run(group.run, restrict_keyboard_interrupt_to_checkpoints=True)


@dataclass(slots=True)
class _Place:
    """One of the N, whichever process fills it."""

    number: int
    process: MemberProcess | None = None
    state: str = "is starting"
    """What there is to say while no process in it serves."""
    ends: int = 0
    """In a row, each too soon after its start."""
    code: int = 0
    """How the last one ended that was asked to stop."""


class _Group:
    def __init__(self, settings: Settings, count: int, *, http: bool, monitoring: bool) -> None:
        self._settings = settings
        self._http = http or monitoring
        self._monitoring = monitoring
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._listeners: list[trio.SocketListener] = []
        self._stopping = trio.Event()
        self._now = False
        self._ended: Ended | None = None
        self._has_served = False
        self._told_up = False
        self._restarts = 0
        self._gone: msgspec.Raw | None = None
        """What processes that have ended have counted, as one MetricsView."""
        # The guard of a process is the last that ends it from inside.
        guard = TimeToEnd.of_watchdog(settings, http=self._http).then()
        self._time = guard.then()
        own = self._time.then()
        self._watchdog = Watchdog(
            timeout=own.timeout, hurried_timeout=own.hurried, end=self._end_all_at_once
        )
        self._killing = trio.CancelScope()
        # A browser's next request may come to another process than the one that it logged in at.
        self._shared = (
            {"TQE_SESSION_SECRET": secrets.token_hex(32)}
            if self._http and settings.session_secret is None
            else {}
        )
        self._nursery: trio.Nursery | None = None

    async def run(self) -> Ended:
        if self._http:
            self._listeners = await open_listeners(self._settings, only_monitoring=self._monitoring)
        self._watchdog.start()
        wakeup, wakeup_in = socket.socketpair()
        with wakeup, wakeup_in:
            for end in (wakeup, wakeup_in):
                end.setblocking(False)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(
                    partial(
                        on_signals,
                        self._on_signal,
                        at_once=self._watchdog.arm,
                        wakeup=wakeup,
                        wakeup_fd=wakeup_in.fileno(),
                    )
                )
                await nursery.start(on_child_ends, self._look)
                nursery.start_soon(self._kill_what_outlives)
                async with trio.open_nursery() as places:
                    for place in self._places:
                        places.start_soon(self._fill, place)
                nursery.cancel_scope.cancel()
        self._watchdog.stop()
        if self._has_served:
            logger.info("all processes have ended")
        return self._ended or Ended(self._code())

    def _on_ready(self) -> None:
        self._has_served = True
        if self._told_up or not all(
            place.process and place.process.is_ready for place in self._places
        ):
            return
        self._told_up = True
        where = f", all behind {bound(self._listeners).url}" if self._listeners else ""
        logger.info(
            "%d processes are up%s; SIGTERM or Ctrl-C stops them all", len(self._places), where
        )

    # --- a place, and who fills it ------------------------------------------------------------

    async def _fill(self, place: _Place) -> None:
        while not self._stopping.is_set():
            pause = await self._run_one(place)
            if pause:
                with trio.move_on_after(pause):
                    await self._stopping.wait()

    async def _run_one(self, place: _Place) -> float:
        """Start a process and wait for its end; returns the seconds until the next."""
        try:
            process = MemberProcess(
                number=place.number,
                size=len(self._places),
                listeners=[listener.socket.fileno() for listener in self._listeners],
                environment=self._shared,
            )
        except OSError as error:  # no memory, no more processes, no descriptor
            return self._after(place, f"could not be started: {error}", ExitCode.FAILED)
        place.process, place.state = process, "is starting"
        await process.run(on_ready=self._on_ready, on_ask=self._on_ask)
        place.process = None
        self._keep_counts(process)
        code = process.exit_code
        served = 0.0
        if process.ready_at is not None:
            served = trio.current_time() - process.ready_at
        if self._stopping.is_set():
            # One that had not come to its event loop is ended by the signal itself.
            place.code = 0 if code < 0 and not process.is_ready else code
            return 0.0
        what = f"{describe_exit(code)} (pid {process.pid})"
        return self._after(place, what, code, served=served, why=process.refusal)

    def _after(
        self, place: _Place, what: str, code: int, *, served: float = 0.0, why: str | None = None
    ) -> float:
        """What to do about an end that was not asked for: the whole ends too, or the seconds until
        the next start."""
        if code == ExitCode.USAGE or not self._has_served:
            # Another start would end alike; or the whole has not come up, and the service manager
            # is to hear of it, as it would of a process on its own.
            self._end(Ended(_as_shells_have_it(code), why or f"process {place.number} {what}"))
            return 0.0
        self._restarts += 1
        if code in _REPLACE_AT_ONCE and served >= _SERVED:
            place.ends, pause = 0, 0.0
        else:
            place.ends = 1 if served >= _STEADY else place.ends + 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (place.ends - 1))
        when = f"in {pause:g} s" if pause else "now"
        reason = f": {why}" if why else ""
        place.state = f"{what}{reason}; starting again {when}"
        logger.warning("process %d %s%s; starting it again %s", place.number, what, reason, when)
        return pause

    def _look(self) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.look()

    # --- the end ----------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if not self._stopping.is_set():
            logger.info("stopping: a second signal stops at once")
            self._stop(self._time.timeout)
        elif not self._now:
            logger.info("stopping at once")
            self._now = True
            self._watchdog.hurry()
            self._stop(self._time.hurried)

    def _end(self, ended: Ended) -> None:
        if self._ended is None and not self._stopping.is_set():
            self._ended = ended
            self._watchdog.arm()
            self._stop(self._time.timeout)

    def _stop(self, seconds: float) -> None:
        self._stopping.set()
        deadline = trio.current_time() + seconds
        self._killing.deadline = min(self._killing.deadline, deadline)
        for listener in self._listeners:
            listener.socket.close()
        assert self._nursery is not None  # noqa: S101 - signals come only while it is open
        for place in self._places:
            if place.process is not None:
                self._nursery.start_soon(partial(place.process.stop, now=self._now))

    async def _kill_what_outlives(self) -> None:
        with self._killing:
            await trio.sleep_forever()
        for place in self._places:
            if place.process is not None:
                logger.critical(
                    "process %d (pid %d) has not ended in its time: killing it; held tasks are "
                    "taken over when their leases end",
                    place.number,
                    place.process.pid,
                )
                place.process.kill()

    def _end_all_at_once(self) -> None:
        """The watchdog's, from its thread: the event loop does not turn."""
        for place in self._places:
            if place.process is not None:
                place.process.kill()
        os._exit(ExitCode.OVERRUN)

    def _code(self) -> int:
        """Of the first process that did not end well."""
        codes = [place.code for place in self._places if place.code]
        return _as_shells_have_it(codes[0]) if codes else ExitCode.OK

    # --- the whole --------------------------------------------------------------------------

    async def _on_ask(self, asker: MemberProcess, ask: messages.Ask) -> None:
        if ask.own != messages.NOTHING:
            asker.metrics = ask.own
        values: dict[int, msgspec.Raw] = {}
        silent: dict[int, str] = {}

        async def question(place: _Place) -> None:
            process = place.process
            if process is None or not process.is_ready:
                silent[place.number] = place.state
                return
            value = await process.question(ask.what)
            if value is None:
                silent[place.number] = "does not answer: does a handler block its event loop?"
                value = messages.NOTHING
            if ask.what == "metrics":
                if value != messages.NOTHING:
                    process.metrics = value
                value = process.metrics
            if value != messages.NOTHING:
                values[place.number] = value

        async with trio.open_nursery() as nursery:
            for place in self._places:
                if place.process is not asker:
                    nursery.start_soon(question, place)
        if ask.what == "metrics" and self._gone is not None:
            values[0] = self._gone
        await asker.send(
            messages.Whole(
                id=ask.id,
                values=tuple(values.items()),
                silent=tuple(silent.items()),
                restarts=self._restarts,
            )
        )

    def _keep_counts(self, process: MemberProcess) -> None:
        if process.metrics == messages.NOTHING:
            return
        # Only here: most groups never lose one, and it loads much of the engine.
        from task_queue_engine.cli.whole import add_up, what_stays
        from task_queue_engine.engine.views import MetricsView

        gone = what_stays(msgspec.json.decode(process.metrics, type=MetricsView).metrics())
        if self._gone is not None:
            before = msgspec.json.decode(self._gone, type=MetricsView).metrics()
            gone = add_up(before, [gone])
        self._gone = msgspec.Raw(msgspec.json.encode(MetricsView.of(gone)))


def _as_shells_have_it(code: int) -> int:
    return code if code >= 0 else 128 - code
