"""What was received and waits for its claim."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import chain

import trio

from task_queue_engine.actors.messages import Lease
from task_queue_engine.registry import RunsIn

# Seconds for which a lease waits for a place here, before it is for other processes. SQS hides what
# is given back for whole seconds: given back sooner, it would be away for longer than it was here.
HELD_FOR = 1.0
# Leases that wait for places of one kind before no more is received, where there are fewer of those
# places: what one request to SQS brings.
_HELD_AT_LEAST = 10


class ClaimBuffer:
    """Leases in their order, but for those that would wait for a thread or a worker process: they
    stay here while others pass them. Claimed, they would be PROCESSING without a handler, and a
    process that dies would cost them an attempt.

    Only a queue that cannot choose what it receives brings many of them. They take nothing away
    from what can run: as many are held as there are places (`_HELD_AT_LEAST` at least), and one
    receive more, and none for longer than `HELD_FOR`.

    Args:
        runs_in: where handlers of a task type run; None where the type is not known.
        places: so many handlers may run there at a time; where it says nothing, any number.
        ready_processes: how many wait for a task, when so many are promised to tasks or have one.
            What would have to wait until one has been started is held back too.
    """

    def __init__(
        self,
        *,
        runs_in: Callable[[str], RunsIn | None],
        places: Mapping[RunsIn, int],
        ready_processes: Callable[[int], int],
    ) -> None:
        self._runs_in = runs_in
        self._places = places
        self._ready_processes = ready_processes
        self._being_started = 0
        self._start_from = -math.inf
        self._free = dict(places)
        self._incoming: deque[Lease] = deque()
        self._for_worker: deque[Lease] = deque()
        self._most_held = {where: max(_HELD_AT_LEAST, number) for where, number in places.items()}
        # With the time until which they wait.
        self._held_back: dict[RunsIn, deque[tuple[float, Lease]]] = {
            where: deque() for where in places
        }

    def __len__(self) -> int:
        return self.ready + sum(map(len, self._held_back.values()))

    def add(self, leases: Iterable[Lease]) -> None:
        self._incoming.extend(leases)

    def take(self, most: int) -> list[Lease]:
        """At most so many to claim now. Places are taken with `started`, not here."""
        taken: list[Lease] = []
        free = self._ready_places()
        for where, held in self._held_back.items():
            while held and free[where] > 0 and len(taken) < most:
                free[where] -= 1
                taken.append(held.popleft()[1])
        while (self._for_worker or self._incoming) and len(taken) < most:
            lease = (self._for_worker or self._incoming).popleft()
            where_to = self._runs_in(lease.delivery.task_type)
            if where_to is not None and where_to in free:
                if free[where_to] <= 0:
                    self._hold_back(lease, where_to)
                    continue
                free[where_to] -= 1
            taken.append(lease)
        return taken

    def take_ahead(
        self, most: int, short_types: Container[str], *, beside: Iterable[Lease]
    ) -> list[Lease]:
        """At most so many to claim before a worker is free: those of these types that are next in
        turn. What has to wait for its worker keeps those behind it waiting too; what has to wait
        for a place does not. `beside`: taken for the same claim, and in places of their own."""
        taken: list[Lease] = []
        free = self._ready_places()
        for lease in beside:
            where_to = self._runs_in(lease.delivery.task_type)
            if where_to is not None and where_to in free:
                free[where_to] -= 1
        while self._incoming and len(taken) < most:
            lease = self._incoming[0]
            task_type = lease.delivery.task_type
            where_to = self._runs_in(task_type)
            if where_to is not None and where_to in free and free[where_to] <= 0:
                self._hold_back(self._incoming.popleft(), where_to)
                continue
            if task_type not in short_types or where_to is None or lease.delivery.receives > 1:
                break
            if where_to in free:
                free[where_to] -= 1
            taken.append(self._incoming.popleft())
        return taken

    def hold_for_worker(self, leases: Sequence[Lease]) -> None:
        """They are claimed when a worker is free for them, and next in turn."""
        self._for_worker.extend(leases)

    def _hold_back(self, lease: Lease, where: RunsIn) -> None:
        self._held_back[where].append((trio.current_time() + HELD_FOR, lease))

    def _ready_places(self) -> dict[RunsIn, int]:
        free = self._free.copy()
        if (left := free.get(RunsIn.PROCESS, 0)) > 0:
            promised = self._places[RunsIn.PROCESS] - left
            free[RunsIn.PROCESS] = min(left, self._ready_processes(promised))
        return free

    def to_claim_unseen(
        self, types: Mapping[str, RunsIn]
    ) -> tuple[Mapping[str, RunsIn], dict[RunsIn, int]]:
        """Of what may be claimed with its receive, see `TakePlan`: types and places. What has a
        place in a process that is still to be started is received, so that it is, and not claimed.
        """
        ready = self._ready_places()
        places = {where: ready[where] - len(held) for where, held in self._held_back.items()}
        place, total = RunsIn.PROCESS, self._free.get(RunsIn.PROCESS, 0)
        if places.get(place, 1) <= 0 and total > len(self._held_back[place]):
            types = {name: where for name, where in types.items() if where is not place}
        return types, places

    def processes_to_start(self) -> int:
        """For what is held back. They are being started from now on."""
        if not self._held_back.get(RunsIn.PROCESS) or trio.current_time() < self._start_from:
            return 0
        wanted = min(len(self._held_back[RunsIn.PROCESS]), self._free[RunsIn.PROCESS])
        ready = max(0, self._ready_places()[RunsIn.PROCESS])
        number = max(0, wanted - ready - self._being_started)
        self._being_started += number
        return number

    def process_tried(self, not_for: float) -> None:
        """One that was to be started is ready, or is not to be tried for so many seconds."""
        self._being_started -= 1
        self._start_from = trio.current_time() + not_for

    @property
    def holds_enough(self) -> bool:
        """As many wait for places as may."""
        return any(len(held) >= self._most_held[where] for where, held in self._held_back.items())

    @property
    def held_until(self) -> float:
        """When the first of those that wait for a place has waited for long enough."""
        return min((held[0][0] for held in self._may_be_overdue() if held), default=math.inf)

    def _may_be_overdue(self) -> list[deque[tuple[float, Lease]]]:
        """Not what a process is being started for: that has its place in a moment."""
        return [
            held
            for where, held in self._held_back.items()
            if where is not RunsIn.PROCESS or not self._being_started
        ]

    def take_overdue(self) -> list[Lease]:
        """Those that have."""
        overdue: list[Lease] = []
        for held in self._may_be_overdue():
            while held and held[0][0] <= trio.current_time():
                overdue.append(held.popleft()[1])
        return overdue

    @property
    def ready(self) -> int:
        """Those that wait for a worker, and for no place."""
        return len(self._for_worker) + len(self._incoming)

    def take_ready(self) -> list[Lease]:
        leases = [*self._for_worker, *self._incoming]
        self._for_worker.clear()
        self._incoming.clear()
        return leases

    def take_all(self) -> list[Lease]:
        held_back = [lease for _, lease in chain.from_iterable(self._held_back.values())]
        for held in self._held_back.values():
            held.clear()
        return self.take_ready() + held_back

    def started(self, task_type: str) -> None:
        self._change(task_type, -1)

    def ended(self, task_type: str) -> None:
        self._change(task_type, 1)

    def _change(self, task_type: str, places: int) -> None:
        where = self._runs_in(task_type)
        if where is not None and where in self._free:
            self._free[where] += places
