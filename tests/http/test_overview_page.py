"""The page at /: its numbers, its plots, and what it asks the backend for."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine.backends.base import BackendUsage, OperationUsage
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.http import create_app
from task_queue_engine.http.dashboard.concurrently import bare_errors
from task_queue_engine.http.dashboard.plots import per_second, plot
from task_queue_engine.measures import Distribution, LabelledCount, Sample
from task_queue_engine.task import TaskStatus
from tests.http.browser import Browser
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine


def meet(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """Calls of which each waits until all have begun."""
    begun, all_have = set(), trio.Event()

    def meeting(name: str) -> None:
        call = getattr(engine, name)

        async def wait_for_others(*arguments: Any, **more: Any) -> Any:
            begun.add(name)
            if begun == set(names):
                all_have.set()
            await all_have.wait()
            return await call(*arguments, **more)

        monkeypatch.setattr(engine, name, wait_for_others)

    for name in names:
        meeting(name)


async def test_what_fails_at_once_comes_out_by_itself() -> None:
    async def fail() -> None:
        raise BackendUnavailable("the disk is away")

    async def at_once() -> None:
        with bare_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(fail)

    with pytest.raises(BackendUnavailable):
        await at_once()


class TestOverview:
    async def test_of_an_empty_engine(self, browser: Browser) -> None:
        shown = (await browser.get("/")).shown

        assert "No task has run in this server yet" in shown
        assert "No worker lives" in shown
        assert "Cost on AWS" not in shown
        for later in ("Schedule", "Limits", "Pauses"):
            assert later not in shown

    async def test_numbers(self, browser: Browser, engine: FakeEngine) -> None:
        for status in (TaskStatus.PENDING, TaskStatus.FAILED, TaskStatus.FAILED):
            engine.add(status=status)
        bounds, counts = (0.1, 1.0, 10.0), (90, 6, 4, 0)
        labels = {"queue": "default", "task_type": "email"}
        engine.measured = {
            "labelled_counters": tuple(
                LabelledCount(name="attempts", labels=labels | {"outcome": outcome}, count=count)
                for outcome, count in (("succeeded", 1234), ("failed", 5), ("retried", 17))
            ),
            "histograms": (
                Distribution(
                    name="task_run_seconds", labels=labels, bounds=bounds, counts=counts, sum=1.0
                ),
            ),
        }
        engine.usage = BackendUsage(
            operations=(
                OperationUsage(service="sqs", operation="SendMessageBatch", requests=1_000_000),
                OperationUsage(
                    service="dynamodb", operation="BatchWriteItem", requests=7, write_units=2e6
                ),
            )
        )

        shown = (await browser.get("/")).shown

        assert "1,234 17 5" in shown
        assert "56 ms 850 ms" in shown  # p50 and p95 of the run times
        assert "$1.6500" in shown
        assert "list prices of us-east-1 since November 2024" in shown
        assert "1,000,007" in shown

    async def test_types_that_have_no_name_here_are_explained(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        labels = {"queue": "default", "task_type": "other", "outcome": "succeeded"}
        engine.measured = {
            "labelled_counters": (LabelledCount(name="attempts", labels=labels, count=1),)
        }

        page = await browser.get("/")

        assert "tqe.bulk, which is an action on many tasks" in page.shown
        assert "/dashboard/tasks?type=other" not in page.links()

    async def test_what_can_be_asked_for_at_once_is(
        self, browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A backend that takes a second for each answer: metrics first, of which the rest is made,
        and the workers beside them."""
        engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))
        for names in (("metrics", "workers"), ("scale", "list_dead")):
            meet(engine, monkeypatch, names)
        with trio.fail_after(20):
            page = await browser.get("/")
        assert page.status == 200
        assert "attempts exhausted" in page.shown

    async def test_no_dead_letters_are_asked_for_where_there_are_none(
        self, browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "list_dead", None)
        assert (await browser.get("/")).status == 200

    @pytest.mark.parametrize(
        "where", [("metrics",), ("scale",), ("workers",), ("list_dead",), ("metrics", "workers")]
    )
    async def test_trouble_of_any_part_is_the_usual_page(
        self,
        browser: Browser,
        engine: FakeEngine,
        monkeypatch: pytest.MonkeyPatch,
        where: tuple[str, ...],
    ) -> None:
        engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))

        async def fail(*_: object, **__: object) -> None:
            raise BackendUnavailable("the disk is away")

        for each in where:
            monkeypatch.setattr(engine, each, fail)
        page = await browser.get("/")
        assert page.status == 503
        assert "Try again" in page.shown

    async def test_a_backend_that_does_not_answer_is_the_usual_page(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "metrics", trio.sleep_forever)
        monkeypatch.setattr(engine, "workers", trio.sleep_forever)
        app = create_app(engine, make_settings(request_timeout=0.1))
        page = await Browser(app.test_client()).get("/")  # type: ignore[arg-type]
        assert page.status == 503

    async def test_the_plots_are_there_without_a_script(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        now = trio.current_time()
        engine.sampled = tuple(
            Sample(now - 60 + 5 * at, ended=10 * at, failed=at, due=at, delayed=0, in_flight=2)
            for at in range(13)
        )

        page = await browser.get("/")

        lines = [each["points"] for tag, each in page.tags() if tag == "polyline"]
        assert len(lines) == 4
        assert "ended 2.2" in page.shown
        assert "waiting 12" in page.shown


class TestPlots:
    def test_a_rate_is_of_the_rises_alone(self) -> None:
        counts = (0, 40, 10, 30)  # retention has deleted some in between
        samples = [
            Sample(20.0 * at, ended=count, failed=0, due=0, delayed=0, in_flight=0)
            for at, count in enumerate(counts)
        ]
        assert per_second(samples, lambda one: one.ended) == [(20.0, 2.0), (40.0, 0.0), (60.0, 1.0)]

    def test_of_nothing(self) -> None:
        drawn = plot([[], []], 100.0)

        assert drawn.lines == ("", "")
        assert drawn.top == 1.0
