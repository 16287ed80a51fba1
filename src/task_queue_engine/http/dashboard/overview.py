"""The page at /: how it goes, at one look."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from quart import Response

from task_queue_engine.backends.aws.prices import PRICES
from task_queue_engine.backends.base import BackendUsage, DeadLetterPage
from task_queue_engine.engine.metrics import EngineMetrics, Scale
from task_queue_engine.http.dashboard.concurrently import bare_errors
from task_queue_engine.http.dashboard.plots import per_second, plot
from task_queue_engine.http.dashboard.site import Site
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.http.principal import NO_ONE, Role
from task_queue_engine.measures import OTHER, Distribution, quantile
from task_queue_engine.worker import WorkerList

_LATEST_DEAD = 5
_TYPES = 50
"""Rows of the table by type, the busiest first."""


@dataclass(slots=True)
class TypeRow:
    """What has become of the attempts at tasks of one type on one queue."""

    task_type: str
    queue: str
    outcomes: dict[str, int] = field(default_factory=dict)
    wait: Distribution | None = None
    run: Distribution | None = None

    @property
    def ended(self) -> int:
        return sum(self.outcomes.get(name, 0) for name in ("succeeded", "failed", "cancelled"))

    @property
    def attempts(self) -> int:
        return sum(self.outcomes.values())

    def quantiles(self) -> tuple[float | None, ...]:
        """Wait p50 and p95, run p50 and p95; seconds."""
        return tuple(
            None if one is None else quantile(one, share)
            for one in (self.wait, self.run)
            for share in (0.5, 0.95)
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a metered backend, by this server since its start."""

    requests: int
    write_units: float
    read_units: float
    retries: int
    dollars: float
    tasks: int

    @property
    def per_million(self) -> float | None:
        return self.dollars / self.tasks * 1e6 if self.tasks else None


class Overview:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = site.state
        self._engine = site.engine

    async def page(self) -> Response:
        principal = self._site.principal
        if principal is NO_ONE:
            return self._site.go_to(f"{PAGES}login")
        if not principal.may(Role.READ):
            return self._site.go_to(f"{PAGES}submit")
        if principal.types is not None:
            return self._site.go_to(f"{PAGES}tasks")
        metrics, scale, workers, dead = await self._look()
        samples, now = self._engine.samples(), trio.current_time()
        running = [worker for worker in workers.workers if worker.slots]
        return await self._site.page(
            "overview.html",
            at="overview",
            events="/events",
            metrics=metrics,
            scale=scale,
            workers=running,
            lost=workers.lost,
            slots=sum(worker.slots for worker in running),
            busy=sum(worker.busy for worker in running),
            dead=dead.dead_letters,
            other=OTHER,
            types=rows_by_type(metrics)[:_TYPES],
            throughput=plot(
                [
                    per_second(samples, lambda one: one.ended + one.failed),
                    per_second(samples, lambda one: one.failed),
                ],
                now,
            ),
            depth=plot(
                [
                    [(one.at, float(one.due)) for one in samples],
                    [(one.at, float(one.in_flight)) for one in samples],
                ],
                now,
            ),
            cost=None if metrics.usage is None else cost_of(metrics.usage, metrics),
            prices=PRICES,
        )

    async def _look(self) -> tuple[EngineMetrics, Scale, WorkerList, DeadLetterPage]:
        """What can be asked for at once. What scales is asked after the sample that the metrics
        take, of which it is made; and dead letters where there are any: SQS counts each look."""
        metrics: EngineMetrics
        scale: Scale
        workers: WorkerList
        dead = DeadLetterPage(dead_letters=(), next_cursor=None)

        async def measure() -> None:
            nonlocal metrics
            metrics = await self._engine.metrics()
            nursery.start_soon(measure_scale)
            if metrics.depth.dead:
                nursery.start_soon(look_at_dead_letters)

        async def measure_scale() -> None:
            nonlocal scale
            scale = await self._engine.scale()

        async def look_at_workers() -> None:
            nonlocal workers
            workers = await self._engine.workers()

        async def look_at_dead_letters() -> None:
            nonlocal dead
            dead = await self._engine.list_dead(limit=_LATEST_DEAD)

        with self._state.request_deadline(), bare_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(measure)
                nursery.start_soon(look_at_workers)
        return metrics, scale, workers, dead


def rows_by_type(metrics: EngineMetrics) -> list[TypeRow]:
    """Of types that have had an attempt in this server, the busiest first."""
    rows: dict[tuple[str, str], TypeRow] = {}

    def row(labels: dict[str, str]) -> TypeRow:
        key = labels.get("task_type", ""), labels.get("queue", "")
        return rows.setdefault(key, TypeRow(*key))

    for count in metrics.labelled_counters:
        if count.name == "attempts":
            row(count.labels).outcomes[count.labels["outcome"]] = count.count
    for one in metrics.histograms:
        if one.name == "task_wait_seconds":
            row(one.labels).wait = one
        elif one.name == "task_run_seconds":
            row(one.labels).run = one
    found = [one for one in rows.values() if one.attempts]
    return sorted(found, key=lambda one: (-one.attempts, one.task_type))


def cost_of(usage: BackendUsage, metrics: EngineMetrics) -> Cost:
    writes = sum(one.write_units for one in usage.operations)
    reads = sum(one.read_units for one in usage.operations)
    sqs = sum(one.requests for one in usage.operations if one.service == "sqs")
    return Cost(
        requests=sum(one.requests for one in usage.operations),
        write_units=writes,
        read_units=reads,
        retries=sum(one.retries for one in usage.operations),
        dollars=PRICES.dollars(sqs_requests=sqs, write_units=writes, read_units=reads),
        tasks=sum(one.ended for one in rows_by_type(metrics)),
    )
