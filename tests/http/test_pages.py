"""The pages: what they show, and that nothing in them comes alive."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.attempt_record import (
    AttemptHistory,
    AttemptOutcome,
    AttemptRecord,
    LogLine,
)
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.http import create_app
from task_queue_engine.measures import LabelledCount
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.worker import RunningTask, Worker, WorkerList
from tests.http.browser import HTML, Browser, Page
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine

NOW = datetime.now(UTC)
EVIL = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>{{7*7}}"


def hostile_task(engine: FakeEngine, status: TaskStatus = TaskStatus.FAILED) -> Task:
    now = datetime.now(UTC)
    task = engine.add(
        task_type=EVIL,
        payload={EVIL: [EVIL]},
        status=status,
        error=TaskError(type=EVIL, message=EVIL, traceback=EVIL),
        progress={"done": 1, "total": 2, EVIL: EVIL},
        result=EVIL,
        started_at=now - timedelta(seconds=5),
        finished_at=now,
        worker=EVIL,
        queue=EVIL,
        attempt=1,
    )
    line = LogLine(time=now, level=EVIL, logger=EVIL, message=EVIL)
    attempt = AttemptRecord(
        number=1,
        outcome=AttemptOutcome.FAILED,
        worker=EVIL,
        version=EVIL,
        started_at=now,
        ended_at=now,
        error=TaskError(type=EVIL, message=EVIL + "2", traceback=EVIL),
        progress=EVIL,
        logs=(line,),
    )
    engine.histories[task.id] = AttemptHistory(attempts=(attempt,))
    dead = engine.add_dead_letter(task)
    evil = TaskError(type=EVIL, message=EVIL)
    engine.dead_letters[0] = replace(dead, id=EVIL, reason=EVIL, error=evil)
    return task


def hostile_worker(task: Task) -> Worker:
    now = datetime.now(UTC)
    running = RunningTask(task_id=EVIL, type=EVIL, attempt=1, since=now)
    return Worker(
        id=EVIL,
        host=EVIL,
        pid=7,
        version=EVIL,
        state=EVIL,
        queues=(EVIL,),
        types=(EVIL,),
        slots=3,
        busy=1,
        running=(running, RunningTask(task_id=task.id, type=EVIL, attempt=1, since=now)),
        started_at=now,
        last_seen=now,
    )


def fill(engine: FakeEngine) -> Task:
    task = hostile_task(engine)
    engine.worker_list = WorkerList(workers=(hostile_worker(task),), lost=2)
    engine.measured = {
        "labelled_counters": (
            LabelledCount(
                name="attempts",
                labels={"queue": EVIL, "task_type": EVIL, "outcome": "succeeded"},
                count=3,
            ),
        ),
        "queue": EVIL,
    }
    return task


async def test_nothing_hostile_comes_alive(browser: Browser, engine: FakeEngine) -> None:
    task = fill(engine)
    for path in (
        "/",
        "/dashboard/tasks",
        "/dashboard/tasks?type=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        f"/dashboard/tasks?status={EVIL}".replace("<", "%3C").replace(">", "%3E"),
        f"/dashboard/tasks/{task.id}",
        "/dashboard/tasks/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/dashboard/workers",
        "/dashboard/dead-letters",
        "/dashboard/submit?type=%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/dashboard/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    ):
        page = await browser.get(path)

        assert page.status in (200, 404, 422), (path, page.text)
        scripts = [attributes for tag, attributes in page.tags() if tag == "script"]
        assert [str(each.get("src")).split("?")[0] for each in scripts] == [
            "/dashboard/static/dashboard.js"
        ], path
        for tag, attributes in page.tags():
            assert tag not in ("img", "iframe", "object", "style", "base"), (path, tag)
            assert not any(name.startswith("on") or name == "style" for name in attributes), path
            for name in ("href", "action", "formaction"):
                assert (attributes.get(name) or "/").startswith(("/", "#")), (path, attributes)
        assert "49" not in page.text.split("{{7*7}}")[0][-20:]


async def test_what_is_hostile_is_shown_as_it_is(browser: Browser, engine: FakeEngine) -> None:
    task = fill(engine)

    shown = (await browser.get(f"/dashboard/tasks/{task.id}")).shown

    assert shown.count("<script>alert(1)</script>{{7*7}}") >= 9  # type, queue, payload, error, ...


@pytest.mark.parametrize("path", ["/", "/dashboard/tasks", "/dashboard/nope"])
async def test_headers_let_nothing_else_run(browser: Browser, path: str) -> None:
    headers = (await browser.get(path)).headers

    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"


class TestNegotiation:
    @pytest.mark.parametrize(
        "accept",
        [None, "*/*", "application/json", "application/json, text/html;q=0.5", "text/plain, */*"],
    )
    async def test_programs_get_what_they_got(self, client: TrioClient, accept: str | None) -> None:
        response = await client.get("/", headers={} if accept is None else {"Accept": accept})

        assert (response.status_code, response.headers["Location"]) == (302, "/docs")

    async def test_browsers_get_the_overview(self, client: TrioClient) -> None:
        response = await client.get("/", headers=HTML)

        assert response.status_code == 200
        assert response.mimetype == "text/html"
        assert "Accept" in response.headers["Vary"]

    async def test_the_api_stays_json_for_browsers(self, browser: Browser) -> None:
        assert (await browser.get("/tasks")).headers["Content-Type"] == "application/json"

    async def test_a_link_from_elsewhere_opens_a_page(self, browser: Browser) -> None:
        page = await browser.get(
            "/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
        )
        assert page.status == 200
        other = await browser.get(
            "/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
        )
        assert other.status == 403


class TestTask:
    async def test_one_that_is_not_there(self, browser: Browser) -> None:
        for task_id in ("0198c0de-0000-7000-8000-000000000000", "nonsense"):
            page = await browser.get(f"/dashboard/tasks/{task_id}")
            assert page.status == 404
            assert "There is no task with this id" in page.shown

    async def test_how_far_it_is(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.PROCESSING, progress={"done": 9, "of": 20})
        page = await browser.get(f"/dashboard/tasks/{task.id}")
        assert [tag["value"] for name, tag in page.tags() if name == "progress"] == ["45.0"]

    async def test_a_progress_is_shown_once(self, browser: Browser, engine: FakeEngine) -> None:
        said = {"done": 9, "of": 20}
        task = engine.add(status=TaskStatus.FAILED, progress=said, attempt=2)
        now = datetime.now(UTC)
        engine.histories[task.id] = AttemptHistory(
            attempts=tuple(
                AttemptRecord(
                    number=number,
                    outcome=outcome,
                    started_at=now,
                    ended_at=now,
                    progress={"done": done, "of": 20, "step": "labels"} if done == 3 else said,
                )
                for number, outcome, done in (
                    (1, AttemptOutcome.RETRIED, 3),
                    (2, AttemptOutcome.FAILED, 9),
                )
            )
        )

        page = await browser.get(f"/dashboard/tasks/{task.id}")

        assert "45\xa0%, 9 of 20" in page.shown or "45 %, 9 of 20" in page.shown
        bars = [each["value"] for name, each in page.tags() if name == "progress"]
        assert bars == ["45.0", "15.0"]  # the second one is of the attempt before
        labels = [str(each.get("aria-label")) for name, each in page.tags() if name == "pre"]
        assert [each for each in labels if "Progress" in each] == ["Progress of attempt 1"]

    async def test_what_it_waits_for(self, browser: Browser, engine: FakeEngine) -> None:
        later = datetime(2040, 1, 1, 11, tzinfo=UTC)
        due, delayed, tried = engine.add(), engine.add(run_at=later), engine.add(run_at=later)
        attempt = AttemptRecord(number=1, outcome=AttemptOutcome.RETRIED, started_at=NOW)
        engine.histories[tried.id] = AttemptHistory(attempts=(attempt,))

        shown = [
            (await browser.get(f"/dashboard/tasks/{one.id}")).shown for one in (due, delayed, tried)
        ]

        assert "None yet: it waits for a worker." in shown[0]
        assert "None yet: it waits for its time, 2040-01-01 11:00:00 UTC (in " in shown[1]
        assert "The next one waits for its time, 2040-01-01 11:00:00 UTC (in " in shown[2]

    async def test_the_words_of_a_handler_come_first(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        error = TaskError(type="task_queue_engine.retry.Discard", message="no such order")
        task = engine.add(status=TaskStatus.FAILED, error=error)
        for path in (f"/dashboard/tasks/{task.id}", "/dashboard/tasks"):
            shown = (await browser.get(path)).shown
            assert "Discard : no such order" in shown or "Discard: no such order" in shown
            assert "task_queue_engine.retry" not in shown

    async def test_its_status_is_named_as_in_the_api(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        engine.add(status=TaskStatus.PROCESSING)
        for path in ("/", "/dashboard/tasks"):
            shown = (await browser.get(path)).shown
            assert "Processing" in shown
            assert "Running" not in shown

    async def test_its_history(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.PROCESSING, progress={"done": 5, "of": 20}, attempt=14)
        now = datetime.now(UTC)
        attempts = tuple(
            AttemptRecord(
                number=number,
                outcome=AttemptOutcome.RETRIED,
                started_at=now,
                ended_at=now,
                logs=(LogLine(time=now, level="INFO", logger="shop", message=f"line {number}"),),
                logs_omitted=2,
            )
            for number in (1, 2, 13, 14)
        )
        engine.histories[task.id] = AttemptHistory(attempts=attempts, omitted=10)

        page = await browser.get(f"/dashboard/tasks/{task.id}")

        assert "25 %" in page.shown.replace("\xa0", " ")
        order = [page.text.index(f"<strong>Attempt {number}<") for number in (14, 13, 2, 1)]
        assert order == sorted(order)
        gap = page.text.index("10 attempts of which nothing is kept")
        assert order[1] < gap < order[2]
        assert "line 13" in page.shown
        assert "2 before it not kept" in page.shown

    async def test_a_large_payload_is_cut_and_linked(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = engine.add(payload="x" * 90_000)

        page = await browser.get(f"/dashboard/tasks/{task.id}")

        assert len(page.text) < 40_000
        assert f"/tasks/{task.id}" in page.links()

    @pytest.mark.parametrize(
        ("status", "buttons"),
        [
            (TaskStatus.PENDING, {"cancel"}),
            (TaskStatus.FAILED, {"retry", "redrive", "delete"}),
            (TaskStatus.CANCELLED, {"retry", "delete"}),
            (TaskStatus.COMPLETED, {"delete"}),
        ],
    )
    async def test_its_buttons(
        self, browser: Browser, engine: FakeEngine, status: TaskStatus, buttons: set[str]
    ) -> None:
        page = await browser.get(f"/dashboard/tasks/{engine.add(status=status).id}")

        actions = {each["formaction"] for tag, each in page.tags() if "formaction" in each}
        assert actions == {f"/dashboard/tasks/{name}" for name in buttons}


async def test_the_theme_is_kept(browser: Browser) -> None:
    page = await browser.get("/")
    assert 'data-theme="auto"' in page.text

    page = await browser.send("/dashboard/theme", on=page, theme="auto", back="/dashboard/workers")

    assert page.path == "/dashboard/workers"
    assert 'data-theme="dark"' in page.text


async def test_files_are_kept_by_their_content(browser: Browser) -> None:
    page: Page = await browser.get("/")
    for path in (each for each in page.links() if each.startswith("/dashboard/static/")):
        assert "immutable" in (await browser.get(path)).headers["Cache-Control"]
    assert (await browser.get("/dashboard/static/..%2Fsite.py")).status == 404


async def test_the_script_listens_only_where_there_are_events(engine: FakeEngine) -> None:
    app = create_app(engine, make_settings())
    has_events = any(rule.rule == "/events" for rule in app.url_map.iter_rules())
    page = await Browser(app.test_client()).get("/dashboard/tasks")  # type: ignore[arg-type]

    assert ('data-events="/events"' in page.text) is has_events


def test_settings() -> None:
    assert make_settings(redact="payload.a, result.b.c").redact == ("payload.a", "result.b.c")
    for wrong in ("error.message", "payload.", "password", "payload..x"):
        with pytest.raises(ConfigurationError, match=r"TQE_REDACT: .* payload, result or progress"):
            make_settings(redact=wrong)
    with pytest.raises(ConfigurationError, match=r"TQE_SESSION_SECRET.* 32 characters"):
        make_settings(session_secret="short")
