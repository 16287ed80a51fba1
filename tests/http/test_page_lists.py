"""The list of tasks: its filters, in the address and in the form, and its pages."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
import trio

from task_queue_engine.backends.base import ListQuery, TaskPage
from task_queue_engine.errors import BackendUnavailable, InvalidQuery
from task_queue_engine.http import create_app
from task_queue_engine.http.principal import Role
from task_queue_engine.task import TaskError, TaskStatus
from tests.http.browser import Browser, Page
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys
from tests.http.test_overview_page import meet


def offered(page: Page) -> set[str]:
    """Actions on all that match."""
    return {
        each.partition("?")[0].removeprefix("/dashboard/actions/")
        for each in page.links()
        if each.startswith("/dashboard/actions/")
    }


def fields(page: Page) -> dict[str, dict[str, str | None]]:
    return {
        str(each["name"]): each
        for tag, each in page.tags()
        if tag == "input" and each.get("type") not in ("hidden", "checkbox")
    }


class TestTasks:
    async def test_filters_are_in_the_links(self, browser: Browser, engine: FakeEngine) -> None:
        for _ in range(60):
            engine.add(status=TaskStatus.FAILED)
        engine.add("email", status=TaskStatus.FAILED)

        page = await browser.get("/dashboard/tasks?status=failed&type=anything")

        assert page.text.count('"checkbox" name="id"') == 50
        (following,) = (each for each in page.links() if "cursor=" in each)
        assert "status=failed" in following
        assert "type=anything" in following
        rest = await browser.get(following)
        assert rest.text.count('"checkbox" name="id"') == 10
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


class TestFilters:
    @pytest.mark.parametrize(
        ("member", "text"),
        [
            ("type", "email"),
            ("queue", "mails"),
            ("error", "NO ROUTE"),
            ("created_after", "2020-06-01T00:00"),
            ("created_before", "2020-01-01T00:00:01Z"),
        ],
    )
    async def test_by(self, browser: Browser, engine: FakeEngine, member: str, text: str) -> None:
        early, late = (datetime(2020, month, 1, tzinfo=UTC) for month in (1, 6))
        wanted = engine.add(
            "email",
            queue="mails",
            status=TaskStatus.FAILED,
            error=TaskError(type="OSError", message="no route to host"),
            created_at=early if member == "created_before" else late,
        )
        other = engine.add(created_at=late if member == "created_before" else early)

        page = await browser.get(f"/dashboard/tasks?{urlencode({member: text})}")

        assert f"/dashboard/tasks/{wanted.id}" in page.links()
        assert f"/dashboard/tasks/{other.id}" not in page.links()
        assert fields(page)[member]["value"] == text.removesuffix("Z")

    async def test_by_the_beginning_of_an_id(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add()
        page = await browser.get(f"/dashboard/tasks?id={task.id[:30].upper()}")
        assert f"/dashboard/tasks/{task.id}" in page.links()

    async def test_a_time_in_another_zone_is_shown_in_utc(self, browser: Browser) -> None:
        page = await browser.get("/dashboard/tasks?created_after=2030-01-01T01:00:05%2B02:00")
        assert fields(page)["created_after"]["value"] == "2029-12-31T23:00:05"
        assert "Created from (UTC)" in page.shown

    async def test_what_is_wrong_is_said_beside_its_field_and_the_rest_goes_on(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        task, other = engine.add("email"), engine.add()
        given = {"type": "email", "id": "nonsense!", "created_after": "yesterday", "status": "x"}

        page = await browser.get(f"/dashboard/tasks?{urlencode(given)}")

        assert page.status == 422
        for name in ("id", "created_after"):
            field = fields(page)[name]
            assert (field["aria-invalid"], field["aria-describedby"]) == ("true", f"wrong-{name}")
        assert fields(page)["id"]["value"] == "nonsense!"
        assert "'yesterday' is no time" in page.shown
        assert "status must be one of" in page.shown
        assert f"/dashboard/tasks/{task.id}" in page.links()
        assert f"/dashboard/tasks/{other.id}" not in page.links()
        # It would be for more than was asked for.
        assert offered(page) == set()
        assert "<button formaction" not in page.text

    @pytest.mark.parametrize("member", ["id", "error"])
    async def test_what_the_backend_cannot_be_asked_for(
        self, browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, member: str
    ) -> None:
        """As DynamoDB, of the beginning of an id."""
        task, find = engine.add(), engine.list_tasks

        async def refuse(query: ListQuery) -> TaskPage:
            if getattr(query, member) is not None:
                raise InvalidQuery("is no range here", field=member)
            return await find(query)

        monkeypatch.setattr(engine, "list_tasks", refuse)

        page = await browser.get(f"/dashboard/tasks?{member}=abc")

        assert page.status == 422
        assert "is no range here" in page.shown
        assert f"/dashboard/tasks/{task.id}" in page.links()

    async def test_a_short_page_is_explained_and_goes_on(
        self, browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = engine.add()

        async def look(query: ListQuery) -> TaskPage:
            del query
            return TaskPage(tasks=found, next_cursor="further")

        monkeypatch.setattr(engine, "list_tasks", look)
        found: tuple[object, ...] = (task,)
        page = await browser.get("/dashboard/tasks?queue=rare")
        assert "A page looks at 2,000 tasks or so" in page.shown
        assert "/dashboard/tasks?queue=rare&cursor=further" in page.links()
        found = ()
        page = await browser.get("/dashboard/tasks?queue=rare&cursor=x")
        assert "None so far" in page.shown
        assert {"/dashboard/tasks?queue=rare&cursor=further", "/dashboard/tasks?queue=rare"} <= (
            page.links()
        )

    async def test_errors_are_not_searched_where_something_is_hidden(
        self, engine: FakeEngine
    ) -> None:
        app = create_app(engine, make_settings(redact="payload.password"))
        browser = Browser(app.test_client())  # type: ignore[arg-type]
        assert "error" not in fields(await browser.get("/dashboard/tasks"))
        page = await browser.get("/dashboard/tasks?error=hunter2")
        assert "error is not searched where TQE_REDACT is set" in page.shown

    async def test_list_and_counts_are_asked_for_at_once(
        self, browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meet(engine, monkeypatch, ("list_tasks", "metrics"))
        with trio.fail_after(20):
            assert (await browser.get("/dashboard/tasks")).status == 200


class TestWhatIsOffered:
    @pytest.mark.parametrize(
        ("status", "names"),
        [
            (TaskStatus.PENDING, {"cancel"}),
            (TaskStatus.PROCESSING, {"cancel"}),
            (TaskStatus.FAILED, {"retry", "redrive", "delete"}),
            (TaskStatus.CANCELLED, {"retry", "delete"}),
            (TaskStatus.COMPLETED, {"delete"}),
        ],
    )
    async def test_for_a_status(
        self, browser: Browser, engine: FakeEngine, status: TaskStatus, names: set[str]
    ) -> None:
        for each in TaskStatus:
            engine.add(status=each)

        page = await browser.get(f"/dashboard/tasks?status={status}")

        assert offered(page) == names
        buttons = {each["formaction"] for tag, each in page.tags() if "formaction" in each}
        assert buttons == {f"/dashboard/tasks/{name}" for name in names}

    async def test_without_one_as_much_as_there_is(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        for status in (TaskStatus.CANCELLED, TaskStatus.COMPLETED, TaskStatus.CANCELLED):
            engine.add(status=status)

        page = await browser.get("/dashboard/tasks")

        assert offered(page) == {"retry", "delete"}
        assert "Retry 2… Delete 3…" in page.shown

    async def test_by_role_and_type(self, engine: FakeEngine, keys: Keys) -> None:
        engine.add("email", status=TaskStatus.FAILED)
        keys.add("reader", Role.READ)
        keys.add("mailer", Role.READ, Role.OPERATE, types=("email", "anything"))
        reader, mailer = Browser(keys.client(engine)), Browser(keys.client(engine))
        page = await reader.log_in(keys.secrets["reader"], "/dashboard/tasks?type=email")
        assert (page.status, offered(page)) == (200, set())
        page = await mailer.log_in(keys.secrets["mailer"], "/dashboard/tasks")
        assert "choose one of them" in page.shown
        assert offered(page) == set()
        page = await mailer.get("/dashboard/tasks?type=email")
        assert offered(page) == {"retry", "redrive", "cancel", "delete"}
        # Whatever else is wrong, other types are not shown.
        page = await mailer.get(f"/dashboard/tasks?id=!&type={'x' * 129}")
        assert "choose one of them" in page.shown
        assert (await mailer.get("/dashboard/actions/retry?type=other")).status == 403
        assert (await mailer.get("/dashboard/actions/retry")).status == 403
        assert (await reader.get("/dashboard/actions/retry?type=email")).status == 403
