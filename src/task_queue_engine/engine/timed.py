"""Queue, store and steps as the actors have them, and how long each of their calls takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence, Sized
from functools import partial
from typing import Any, TypeVar, cast

import trio

from task_queue_engine.backends.base import NewTask, Steps, SubmitVerdict, TaskQueue, TaskStore
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.measures import SHORT, SIZES, Distribution, Histogram, LabelledCount

T = TypeVar("T")

# Of each part, what is given items, whose number is of interest too, and what is not. `take` and
# `receive` are not timed: they wait for work, and only what they bring says something.
_QUEUE = ("send", "extend", "release", "delete", "dead_letter")
_STORE = ("claim", "record", "cancel_requested", "cancel", "get")
_STORE_LOOKS = ("counts", "due", "expire")

Operation = Callable[..., Awaitable[Any]]


class BackendTimes:
    """Wraps the parts of one backend, and adds up over them by operation."""

    def __init__(self) -> None:
        self._seconds: dict[str, Histogram] = {}
        self._items: dict[str, Histogram] = {}
        self._failures: dict[str, int] = {}

    def queue(self, queue: TaskQueue) -> TaskQueue:
        return self._wrap(queue, _QUEUE, ("depth",), ("receive",))

    def store(self, store: TaskStore) -> TaskStore:
        return self._wrap(store, _STORE, _STORE_LOOKS)

    def steps(self, steps: Steps) -> Steps:
        return self._wrap(steps, ("finish",), takes=("take",))

    def submit(
        self, submit: Callable[[Sequence[NewTask]], Awaitable[list[SubmitVerdict]]]
    ) -> Callable[[Sequence[NewTask]], Awaitable[list[SubmitVerdict]]]:
        return self._timed("submit", submit, sized=True)

    def counts(self) -> tuple[LabelledCount, ...]:
        return tuple(
            LabelledCount(
                name="backend_call_failures", labels={"operation": operation}, count=number
            )
            for operation, number in self._failures.items()
        )

    def distributions(self) -> tuple[Distribution, ...]:
        return tuple(
            histogram.distribution(name, operation=operation)
            for name, histograms in (
                ("backend_call_seconds", self._seconds),
                ("batch_items", self._items),
            )
            for operation, histogram in histograms.items()
            if any(histogram.counts)
        )

    def _wrap(
        self, part: T, sized: Sequence[str], looks: Sequence[str] = (), takes: Sequence[str] = ()
    ) -> T:
        wrapped = _Wrapped(part)
        for name in sized:
            setattr(wrapped, name, self._timed(name, partial(_call, part, name), sized=True))
        for name in looks:
            setattr(wrapped, name, self._timed(name, partial(_call, part, name), sized=False))
        for name in takes:
            setattr(wrapped, name, self._counted(name, partial(_call, part, name)))
        return cast("T", wrapped)

    def _timed(self, name: str, call: Operation, *, sized: bool) -> Operation:
        seconds = self._seconds.setdefault(name, Histogram(SHORT))
        items = self._items.setdefault(name, Histogram(SIZES)) if sized else None
        self._failures.setdefault(name, 0)

        async def timed(*args: Any, **kwargs: Any) -> Any:
            if items is not None:
                items.observe(len(args[0]))
            began = trio.current_time()
            try:
                return await call(*args, **kwargs)
            except BackendUnavailable:
                self._failures[name] += 1
                raise
            finally:
                seconds.observe(trio.current_time() - began)

        return timed

    def _counted(self, name: str, call: Operation) -> Operation:
        items = self._items.setdefault(name, Histogram(SIZES))

        async def counted(*args: Any, **kwargs: Any) -> Any:
            taken: Sized = await call(*args, **kwargs)
            if taken:
                items.observe(len(taken))
            return taken

        return counted


def _call(part: object, name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(part, name)(*args, **kwargs)


class _Wrapped:
    """What is not timed is the part's own."""

    def __init__(self, part: object) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)
