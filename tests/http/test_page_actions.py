"""What the buttons of the pages do to the tasks that are chosen, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.errors import BackendUnavailable, MessageRefused, WrongState
from task_queue_engine.task import TaskStatus
from tests.http.browser import Browser
from tests.http.fakes import FakeEngine


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
        assert "Back Cancel the task" in question.shown
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
        assert "Back Retry 5 tasks" in question.shown
        assert all(f'value="{each}"' in question.text for each in failed)
        after = await browser.send(
            "/dashboard/tasks/retry", on=question, id=[*failed, done, gone], confirmed=1
        )

        assert "3 tasks put back to work. 1 was left alone" in after.shown
        assert "1 is not there any more." in after.shown
        assert {engine.rows[each].task.status for each in failed} == {TaskStatus.PENDING}

    async def test_one_that_runs_is_not_counted_as_cancelled(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        runs = engine.add(status=TaskStatus.PROCESSING, attempt=1).id
        page = await browser.get("/dashboard/tasks")

        alone = await browser.send("/dashboard/tasks/cancel", on=page, id=runs, confirmed=1)
        ids = [engine.add(status=TaskStatus.PROCESSING, attempt=1).id, engine.add().id]
        both = await browser.send("/dashboard/tasks/cancel", on=page, id=ids, confirmed=1)

        assert "1 task was running and is being stopped." in alone.shown
        assert "cancelled." not in alone.shown
        assert "1 task cancelled. 1 task was running and is being stopped." in both.shown

    async def test_every_question_has_a_button_that_says_what_it_does(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        engine.add_dead_letter(engine.add(status=TaskStatus.FAILED))
        running = engine.add(status=TaskStatus.PROCESSING)
        for path in (
            "/dashboard/tasks",
            "/dashboard/dead-letters",
            f"/dashboard/tasks/{running.id}",
        ):
            tags = (await browser.get(path)).tags()
            asking = [each for _, each in tags if "data-confirm" in each]
            assert asking
            assert all(len(str(each.get("data-yes")).split()) > 1 for each in asking)

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
        assert "Back Redrive all dead letters" in asked.shown
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


class TestDelete:
    async def test_of_one_is_asked_about(self, browser: Browser, engine: FakeEngine) -> None:
        task = engine.add(status=TaskStatus.COMPLETED)
        here = f"/dashboard/tasks/{task.id}"

        asked = await browser.send(
            "/dashboard/tasks/delete", on=await browser.get(here), id=task.id, back=here
        )
        assert "Delete this task, with its history? This cannot be undone." in asked.shown
        assert task.id in engine.rows
        send = {"id": task.id, "back": here, "confirmed": 1}
        done = await browser.send("/dashboard/tasks/delete", on=asked, **send)

        assert engine.rows == {}
        assert done.path == "/dashboard/tasks"  # its own page is gone with it
        assert "1 task deleted." in done.shown
        second = await browser.send("/dashboard/tasks/delete", on=asked, **send)
        assert (second.status, "1 is not there any more." in second.shown) == (200, True)

    async def test_of_some_leaves_what_has_not_ended(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        ids = [engine.add(status=status).id for status in TaskStatus]
        page = await browser.get("/dashboard/tasks")

        done = await browser.send("/dashboard/tasks/delete", on=page, id=ids, confirmed=1)

        assert "3 tasks deleted." in done.shown
        assert "2 were left alone: only what has ended can be deleted." in done.shown

    async def test_what_the_queue_still_holds_is_said_in_words(
        self, browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on SQS, for 15 days after a cancel."""
        task = engine.add(status=TaskStatus.CANCELLED)
        why = "its message may still be in the queue: it can be deleted from 2030-01-16 on"

        async def refuse(task_id: str) -> None:
            raise WrongState(task_id, TaskStatus.CANCELLED, why)

        monkeypatch.setattr(engine, "delete", refuse)
        page = await browser.get("/dashboard/tasks")

        one = await browser.send("/dashboard/tasks/delete", on=page, id=task.id, confirmed=1)
        assert one.status == 409
        assert why in one.shown
        assert f"/dashboard/tasks/{task.id}" in one.links()
        more = [task.id, engine.add(status=TaskStatus.CANCELLED).id]
        several = await browser.send("/dashboard/tasks/delete", on=page, id=more, confirmed=1)
        assert "2 were left alone: cancelled lately" in several.shown


async def test_one_that_the_queue_refuses_stops_no_other(
    browser: Browser, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *good = [engine.add(status=TaskStatus.FAILED).id for _ in range(3)]
    retry = engine.retry

    async def refuse(task_id: str) -> object:
        if task_id == bad:
            raise MessageRefused(task_id, "too large")
        return await retry(task_id)

    monkeypatch.setattr(engine, "retry", refuse)
    page = await browser.get("/dashboard/tasks")

    done = await browser.send("/dashboard/tasks/retry", on=page, id=[bad, *good], confirmed=1)

    assert "2 tasks put back to work. 1 stays FAILED" in done.shown


async def test_a_backend_in_trouble_is_the_usual_page(browser: Browser, engine: FakeEngine) -> None:
    ids = [engine.add(status=TaskStatus.FAILED).id for _ in range(3)]
    page = await browser.get("/dashboard/tasks")
    engine.failure = BackendUnavailable("the disk is away")
    for action in ("retry", "redrive", "delete"):
        after = await browser.send(f"/dashboard/tasks/{action}", on=page, id=ids, confirmed=1)
        assert after.status == 503
