"""The pages: what they show, what their buttons do, and that nothing in them comes alive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
import pydantic
import pytest
import trio
from quart_trio.testing import TrioClient

from task_queue_engine.attempt_record import (
    AttemptHistory,
    AttemptOutcome,
    AttemptRecord,
    LogLine,
)
from task_queue_engine.backends.base import BackendUsage, OperationUsage
from task_queue_engine.errors import BackendUnavailable, ConfigurationError
from task_queue_engine.http import create_app
from task_queue_engine.http.dashboard.plots import per_second, plot, quantile
from task_queue_engine.measures import Distribution, LabelledCount, Sample
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.worker import RunningTask, Worker, WorkerList
from tests.http.browser import HTML, Browser, Page
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>{{7*7}}"


@pytest.fixture
def browser(client: TrioClient) -> Browser:
    return Browser(client)


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
        assert "1,000,007" in shown

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


class TestTasks:
    async def test_filters_are_in_the_links(self, browser: Browser, engine: FakeEngine) -> None:
        for _ in range(60):
            engine.add(status=TaskStatus.FAILED)
        engine.add("email", status=TaskStatus.FAILED)

        page = await browser.get("/dashboard/tasks?status=failed&type=anything")

        assert page.text.count('name="id"') == 50
        (following,) = (each for each in page.links() if "cursor=" in each)
        assert "status=failed" in following
        assert "type=anything" in following
        rest = await browser.get(following)
        assert rest.text.count('name="id"') == 10
        assert "/dashboard/tasks?status=failed&type=anything" in rest.links()

    async def test_a_filter_that_matches_nothing_says_so(self, browser: Browser) -> None:
        assert (
            "No task matches this filter"
            in (await browser.get("/dashboard/tasks?status=FAILED")).shown
        )

    @pytest.mark.parametrize("query", ["status=LOST", "cursor=x", f"type={'x' * 129}"])
    async def test_a_filter_that_cannot_be_says_why(self, browser: Browser, query: str) -> None:
        page = await browser.get(f"/dashboard/tasks?{query}")

        assert page.status == 422
        assert query.partition("=")[0] in page.shown

    async def test_of_no_tasks(self, browser: Browser) -> None:
        assert "There are no tasks yet" in (await browser.get("/dashboard/tasks")).shown

    async def test_trouble_of_the_backend_is_a_page(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        engine.failure = BackendUnavailable("the disk is away")

        page = await browser.get("/dashboard/tasks")

        assert page.status == 503
        assert page.headers["Content-Type"].startswith("text/html")
        assert "Try again" in page.shown


class TestTask:
    async def test_one_that_is_not_there(self, browser: Browser) -> None:
        for task_id in ("0198c0de-0000-7000-8000-000000000000", "nonsense"):
            page = await browser.get(f"/dashboard/tasks/{task_id}")
            assert page.status == 404
            assert "There is no task with this id" in page.shown

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
            (TaskStatus.FAILED, {"retry"}),
            (TaskStatus.CANCELLED, {"retry"}),
            (TaskStatus.COMPLETED, set()),
        ],
    )
    async def test_its_buttons(
        self, browser: Browser, engine: FakeEngine, status: TaskStatus, buttons: set[str]
    ) -> None:
        page = await browser.get(f"/dashboard/tasks/{engine.add(status=status).id}")

        actions = {each["formaction"] for tag, each in page.tags() if "formaction" in each}
        assert actions == {f"/dashboard/tasks/{name}" for name in buttons}


class TestActions:
    async def test_retry_in_one_click(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.FAILED)
        here = f"/dashboard/tasks/{task.id}"

        page = await browser.send(
            "/dashboard/tasks/retry", on=await browser.get(here), id=task.id, back=here
        )

        assert page.path == here
        assert "1 task put back to work." in page.shown
        assert "Pending" in page.shown
        assert "put back to work" not in (await browser.get(here)).shown

    async def test_two_people_press_retry_at_once(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = engine.add(status=TaskStatus.FAILED)
        page = await browser.get(f"/dashboard/tasks/{task.id}")
        await browser.send("/dashboard/tasks/retry", on=page, id=task.id)

        second = await browser.send("/dashboard/tasks/retry", on=page, id=task.id)

        assert "Another person or a worker was faster" in second.shown
        assert "put back to work" not in second.shown

    async def test_a_cancel_is_asked_about_and_can_be_undone(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = engine.add()
        page = await browser.get("/dashboard/tasks")

        question = await browser.send("/dashboard/tasks/cancel", on=page, id=task.id)

        assert "Cancel this task?" in question.shown
        assert engine.rows[task.id].task.status is TaskStatus.PENDING
        done = await browser.send("/dashboard/tasks/cancel", on=question, id=task.id, confirmed=1)
        assert "1 task cancelled." in done.shown
        assert engine.rows[task.id].task.status is TaskStatus.CANCELLED
        assert ">Undo<" in done.text
        await browser.send("/dashboard/tasks/retry", on=done, id=task.id, confirmed=1)
        assert engine.rows[task.id].task.status is TaskStatus.PENDING

    async def test_no_undo_of_what_would_not_be_as_it_was(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        """A retry starts at once: a task that waits for its time is not that any more."""
        later = engine.add(run_at=datetime.now(UTC) + timedelta(hours=1))
        tried = engine.add(attempt=1, retry_count=1)
        page = await browser.get("/dashboard/tasks")

        done = await browser.send(
            "/dashboard/tasks/cancel", on=page, id=[later.id, tried.id], confirmed=1
        )

        assert "2 tasks cancelled." in done.shown
        assert ">Undo<" not in done.text

    async def test_many_at_once(self, browser: Browser, engine: FakeEngine) -> None:
        failed = [engine.add(status=TaskStatus.FAILED).id for _ in range(3)]
        done = engine.add(status=TaskStatus.COMPLETED).id
        gone = "0198c0de-0000-7000-8000-000000000000"
        page = await browser.get("/dashboard/tasks")

        question = await browser.send("/dashboard/tasks/retry", on=page, id=[*failed, done, gone])
        assert "Run the 5 selected tasks again" in question.shown
        assert all(f'value="{each}"' in question.text for each in failed)
        after = await browser.send(
            "/dashboard/tasks/retry", on=question, id=[*failed, done, gone], confirmed=1
        )

        assert "3 tasks put back to work. 1 was left alone" in after.shown
        assert "1 is not there any more." in after.shown
        assert {engine.rows[each].task.status for each in failed} == {TaskStatus.PENDING}

    async def test_nothing_selected(self, browser: Browser) -> None:
        page = await browser.get("/dashboard/tasks")

        after = await browser.send("/dashboard/tasks/retry", on=page)

        assert "Nothing was selected." in after.shown

    async def test_dead_letters(self, browser: Browser, engine: FakeEngine) -> None:
        letters = [engine.add_dead_letter(engine.add(status=TaskStatus.FAILED)) for _ in range(3)]
        page = await browser.get("/dashboard/dead-letters")
        assert page.text.count('name="id"') == 3
        assert "secret-receipt" not in page.text

        one = await browser.send("/dashboard/dead-letters/redrive", on=page, id=letters[0].id)
        assert "1 dead letter put back to work." in one.shown
        again = await browser.send("/dashboard/dead-letters/redrive", on=page, id=letters[0].id)
        assert "another redrive was faster" in again.shown
        asked = await browser.send("/dashboard/dead-letters/redrive", on=page, all=1)
        assert "Put all dead letters back to work?" in asked.shown
        rest = await browser.send("/dashboard/dead-letters/redrive", on=asked, all=1, confirmed=1)
        assert "2 dead letters put back to work." in rest.shown
        assert "There are no dead letters." in rest.shown

    async def test_a_purge_is_asked_about(self, browser: Browser, engine: FakeEngine) -> None:
        engine.add_dead_letter(engine.add())
        page = await browser.get("/dashboard/dead-letters")

        asked = await browser.send("/dashboard/dead-letters/purge", on=page)
        assert len(engine.dead_letters) == 1
        done = await browser.send("/dashboard/dead-letters/purge", on=asked, confirmed=1)

        assert engine.dead_letters == []
        assert "1 dead letter deleted" in done.shown

    async def test_where_a_form_leads_next_is_on_this_server(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task = engine.add(status=TaskStatus.FAILED)
        page = await browser.get("/dashboard/tasks")
        for back in ("https://evil.example/", "//evil.example/dashboard/", "/\\evil.example", "x"):
            after = await browser.send(
                "/dashboard/tasks/retry", on=page, follow=False, id=task.id, back=back
            )
            assert after.headers["Location"] == "/dashboard/tasks"


class TestForgedForms:
    async def test_without_the_token(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.FAILED)
        for token in ("", "x", "ü"):
            page = await browser.post(
                "/dashboard/tasks/retry", [("form_token", token), ("id", task.id)]
            )
            assert page.status == 403
            assert "out of date" in page.shown
        assert engine.rows[task.id].task.status is TaskStatus.FAILED

    async def test_from_another_site(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.FAILED)
        page = await browser.get("/dashboard/tasks")

        answer = await browser.send(
            "/dashboard/tasks/retry", on=page, origin="https://evil.example", id=task.id
        )

        assert answer.status == 403
        assert engine.rows[task.id].task.status is TaskStatus.FAILED

    async def test_of_another_kind(self, client: TrioClient, engine: FakeEngine) -> None:
        answer = await client.post(
            "/dashboard/tasks/retry", data=b"{}", headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 415


@dataclass
class Nested:
    street: str


class Everything(msgspec.Struct):
    name: str
    count: int
    share: float = 0.5
    urgent: bool = False
    format: Literal["jpeg", "webp"] = "jpeg"
    nickname: str | None = None
    address: Nested | None = None
    tags: list[str] = msgspec.field(default_factory=list)


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class TestSubmit:
    @pytest.fixture(autouse=True)
    def _types(self, engine: FakeEngine) -> None:
        @engine.registry.task("everything")
        async def everything(payload: Everything) -> None:
            del payload

        @engine.registry.task("login")
        async def login(payload: Login) -> None:
            del payload

        @engine.registry.task("text")
        async def text(payload: str) -> None:
            del payload

    async def test_a_form_of_the_payloads_schema(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=everything")

        fields = {
            str(each["name"]): (tag, each)
            for tag, each in page.tags()
            if str(each.get("name", "")).startswith("payload.")
        }
        assert fields["payload.count"][1]["type"] == "number"
        assert fields["payload.format"][0] == "select"
        assert fields["payload.address"][0] == "textarea"
        assert "required" in fields["payload.name"][1]
        given = {
            "payload.name": "Ada",
            "payload.count": "3",
            "payload.share": "",
            "payload.urgent": "true",
            "payload.format": '"webp"',
            "payload.nickname": "",
            "payload.address": '{"street": "Main"}',
            "payload.tags": "",
        }
        after = await browser.send("/dashboard/submit", on=page, type="everything", **given)

        (task,) = engine.stored
        assert after.path == f"/dashboard/tasks/{task.id}"
        assert "Submitted." in after.shown
        assert task.payload == {
            "name": "Ada",
            "count": 3,
            "urgent": True,
            "format": "webp",
            "address": {"street": "Main"},
        }

    async def test_what_does_not_fit_is_said_at_its_field(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=everything")
        for member, text in (("count", "many"), ("address", "{"), ("address", '{"street": 1}')):
            given = {"payload.name": EVIL, "payload.count": "3", f"payload.{member}": text}

            after = await browser.send("/dashboard/submit", on=page, type="everything", **given)

            assert after.status == 422
            marked = [each for _, each in after.tags() if each.get("aria-invalid")]
            assert [each["name"] for each in marked] == [f"payload.{member}"]
            assert EVIL in after.shown or any(each.get("value") == EVIL for _, each in after.tags())
        assert engine.stored == []

    async def test_a_secret_is_typed_unseen_and_not_sent_back(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=login")
        (field,) = (each for _, each in page.tags() if each.get("name") == "payload.password")
        assert field["type"] == "password"

        after = await browser.send(
            "/dashboard/submit",
            on=page,
            type="login",
            delay="x",
            **{"payload.user": "ada", "payload.password": "hunter2hunter2"},
        )

        assert after.status == 422
        assert "hunter2hunter2" not in after.text

    async def test_json_where_there_is_no_schema(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=anything")
        wrong = await browser.send("/dashboard/submit", on=page, type="anything", payload="{")
        assert wrong.status == 422
        assert ">{</textarea>" in wrong.text

        await browser.send("/dashboard/submit", on=page, type="anything", payload="[1]", delay="60")

        (task,) = engine.stored
        assert task.payload == [1]
        assert task.run_at is not None

    async def test_a_payload_that_is_text(self, browser: Browser, engine: FakeEngine) -> None:
        page = await browser.get("/dashboard/submit?type=text")

        await browser.send("/dashboard/submit", on=page, type="text", payload="hello")

        assert [task.payload for task in engine.stored] == ["hello"]

    async def test_pressed_twice_it_submits_once(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=text")
        (key,) = (each["value"] for _, each in page.tags() if each.get("name") == "idempotency_key")
        for _ in range(2):
            await browser.send(
                "/dashboard/submit", on=page, type="text", payload="hello", idempotency_key=key
            )

        assert len(engine.stored) == 1

    async def test_a_type_that_is_not_known(self, browser: Browser) -> None:
        page = await browser.get("/dashboard/submit?type=nope")

        assert page.status == 422
        assert "unknown task type" in page.shown


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

    @pytest.mark.parametrize(
        ("counts", "share", "expected"),
        [
            ((0, 0, 0), 0.5, None),
            ((10, 0, 0), 0.5, 0.5),
            ((0, 10, 0), 0.95, 1.95),
            ((0, 0, 9), 0.5, 2.0),
        ],
    )
    def test_quantiles(self, counts: tuple[int, ...], share: float, expected: float | None) -> None:
        one = Distribution(name="x", labels={}, bounds=(1.0, 2.0), counts=counts, sum=0.0)

        found = quantile(one, share)

        assert found == (expected if expected is None else pytest.approx(expected))


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
