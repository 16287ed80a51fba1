"""Hostile texts and bad moments, in a real browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from task_queue_engine.worker import Worker
from tests.cli.runner import eventually
from tests.http.chromium import KEY, Chromium, Site, look, overflow
from tests.http.pages_shop import WORST

MOST = 300_000
"""Bytes of a page."""
ADDRESS = quote(WORST)
# What a page shows of it wherever it is cut off.
START = "javascript:alert(1)//\u202e\"'><img"


@dataclass(frozen=True)
class Place:
    path: str
    shows: tuple[str, ...]
    """With what comes before `WORST` where it is shown."""
    is_live: bool = True


@pytest.fixture(scope="module")
def worst(site: Site) -> dict[str, str]:
    """Tasks that are hostile in each of their members: what is said to and by handlers, and what
    another program may have written into the file."""
    ids = {
        "failed": site.submit("worst", {f"payload {WORST}": WORST, "wide": "p" * 100_000}),
        "done": site.submit("echo", {f"result {WORST}": [WORST]}),
        "running": site.submit("steps", {}),
    }
    for name in ("failed", "done"):
        site.ended(ids[name])
    site.execute(
        "UPDATE tasks SET type = ?, queue = ?, worker = ? WHERE id = ?",
        *(f"{name} {WORST}" for name in ("type", "queue", "worker")),
        ids["failed"],
    )
    site.execute(
        "UPDATE attempts SET worker = ?, version = ? WHERE task_id = ?",
        f"who {WORST}",
        f"version {WORST}",
        ids["failed"],
    )
    site.execute(
        "UPDATE dead_letters SET reason = ?, task_type = ? WHERE task_id = ?",
        f"reason {WORST}",
        f"dead {WORST}",
        ids["failed"],
    )
    now = time.time()
    found = site.ask("GET", "/workers")["workers"][0]
    worker = msgspec.convert(found, Worker)
    evil = msgspec.structs.replace(
        worker,
        id=f"id {WORST}",
        host=f"host {WORST}",
        state=f"state {WORST}",
        version=WORST,
        queues=(f"on {WORST}",),
        types=(f"knows {WORST}",),
        slots=1,
    )
    site.execute(
        "INSERT INTO workers (id, last_seen, pipe, worker) VALUES (?, ?, NULL, ?)",
        evil.id,
        int((now + 600) * 1e6),
        msgspec.json.encode(evil),
    )
    # What a worker runs is what the tasks say of it.
    site.execute(
        "UPDATE tasks SET type = ?, worker = ? WHERE id = ?",
        f"runs {WORST}",
        evil.id,
        ids["running"],
    )
    eventually(
        lambda: any(
            one["host"] == evil.host and one["running"]
            for one in site.ask("GET", "/workers")["workers"]
        )
    )
    return ids


def test_hostile_texts_are_texts(chrome: Chromium, site: Site, worst: dict[str, str]) -> None:
    """Each in the browser's own words: what it ran, refused and complained of, and what is there
    to be read. At the width of a telephone."""
    places = (
        Place("/", ("host ", "runs ", "dead ", "reason ")),
        Place("/dashboard/tasks", ("type ",)),
        Place("/dashboard/workers", ("id ", "host ", "state ", "on ", "knows ", "runs ")),
        Place("/dashboard/dead-letters", ("dead ", "reason ")),
        Place(
            f"/dashboard/tasks/{worst['failed']}",
            ("type ", "queue ", "who ", "version ", "error ", "line "),
        ),
        Place(f"/dashboard/tasks/{worst['done']}", ()),
        Place("/dashboard/submit?type=worst-form", ("name ", "described "), False),
        Place(f"/dashboard/submit?type={ADDRESS}", (), False),
        Place(f"/dashboard/tasks?type={ADDRESS[:300]}", (), False),
        Place(f"/dashboard/tasks?status={ADDRESS}", (), False),
        Place(f"/dashboard/tasks?cursor={ADDRESS}", (), False),
        Place(f"/dashboard/tasks/{ADDRESS.replace('/', '')}", (), False),
        Place(f"/dashboard/dead-letters?cursor={ADDRESS}", (), False),
        Place(f"/dashboard/{ADDRESS}", (), False),
        Place(f"/?q={ADDRESS}", ()),
    )
    page = chrome.open("/", apart=True, viewport={"width": 375, "height": 800})
    own = page.evaluate("document.querySelectorAll('script, style, a').length")
    assert own > 0
    for place in places:
        answer = page.goto(place.path)
        assert answer.status < 500
        assert len(answer.body()) < MOST, place.path
        for again in (False, True)[: 1 + place.is_live]:
            if again:
                look(page)
            text = page.evaluate("document.querySelector('main').textContent")
            for before in place.shows:
                assert before + START in text, (place.path, before, again)
            came = page.evaluate(
                "[...document.querySelectorAll('img, iframe, body script, style, svg[onload], "
                "[onerror], [href^=javascript], base')].map(one => one.outerHTML)"
            )
            assert came == [], place.path
            assert overflow(page) <= 0, place.path
    page.goto(f"/dashboard/tasks/{worst['failed']}")
    link = page.locator(".crumbs a").nth(1)
    assert link.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    assert page.get_by_role("link", name="All of it, as JSON").count() == 1
    chrome.let_loads_be_refused()


def test_what_comes_back_after_an_error(chrome: Chromium, site: Site) -> None:
    """The form with what was typed, and what a page of another program may have put in it."""
    page = chrome.open("/dashboard/submit?type=worst-form")
    fields = page.locator("input[type=text], textarea")
    typed = [one.evaluate("one => one.value") for one in fields.all()]
    assert any(one.startswith("default javascript:") for one in typed)
    page.get_by_label("inner").fill(WORST)
    page.get_by_label("Start in").fill(WORST)
    page.evaluate("key => document.querySelector('[name=idempotency_key]').value = key", WORST)
    page.get_by_role("button", name="Submit").click()

    page.get_by_text("Not submitted").wait_for()
    assert START in page.get_by_label("inner").input_value()
    assert START in page.locator("[name=idempotency_key]").input_value()
    assert page.locator("main img, main script, main svg").count() == 0
    chrome.let_loads_be_refused()


def test_json_and_documents_are_no_pages(
    chrome: Chromium, site: Site, worst: dict[str, str]
) -> None:
    page = chrome.open("/")
    for path in (f"/tasks/{worst['failed']}", f"/tasks/{ADDRESS}", f"/tasks?status={ADDRESS}"):
        answer = page.goto(path)
        assert "json" in answer.headers["content-type"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert page.locator("img, script, svg").count() == 0
    chrome.let_loads_be_refused()


# --- moments ----------------------------------------------------------------------------------


def test_two_people_press_retry_at_once(chrome: Chromium, site: Site) -> None:
    task_id = site.submit("worst", {})
    site.ended(task_id)
    first, second = (
        chrome.open(f"/dashboard/tasks/{task_id}", java_script_enabled=False) for _ in range(2)
    )
    for page in (first, second):
        page.get_by_role("button", name="Retry").click()
    first.get_by_text("1 task put back to work.").wait_for()
    second.locator("#notice").wait_for()
    said = second.locator("#notice").inner_text()
    # Unless it has failed again meanwhile, in which case there was a second round to begin.
    assert "1 was left alone" in said or "1 task put back to work." in said


def test_a_session_that_ends_while_a_form_is_filled(chrome: Chromium, site: Site) -> None:
    page = chrome.open("/dashboard/submit?type=mail", apart=True)
    page.get_by_label("to").fill("x")
    before = site.ask("GET", "/tasks?type=mail")["tasks"]
    page.context.clear_cookies()
    page.get_by_role("button", name="Submit").click()
    _log_in(page)

    page.wait_for_url("**/dashboard/submit?type=mail")
    assert site.ask("GET", "/tasks?type=mail")["tasks"] == before


def test_a_session_that_was_begun_anew_in_another_tab(chrome: Chromium, site: Site) -> None:
    task_id = site.submit("mail", {"to": "x"}, delay_seconds=3600)
    page = chrome.open("/dashboard/tasks?type=mail", apart=True)
    other = chrome.open("/dashboard/login", key=None)
    _log_in(other)
    other.get_by_role("button", name="Log out").wait_for()
    session = [one for one in other.context.cookies() if one["name"] == "tqe_session"]
    page.context.add_cookies(session)

    look(page)
    page.locator("tbody tr", has_text=task_id[-12:]).get_by_role("checkbox").check()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_text("1 task cancelled.").wait_for()


def test_a_task_that_is_deleted_while_it_is_looked_at(chrome: Chromium, site: Site) -> None:
    task_id = site.submit("mail", {"to": "x"}, delay_seconds=3600)
    page = chrome.open(f"/dashboard/tasks/{task_id}")
    site.execute("DELETE FROM tasks WHERE id = ?", task_id)
    page.evaluate("dispatchEvent(new Event('online'))")

    page.get_by_role("heading", name="No such task").wait_for()
    page.get_by_role("link", name="To the tasks").click()
    page.goto("/dashboard/tasks?type=none")
    page.get_by_text("No task matches this filter.").wait_for()
    chrome.let_loads_be_refused()


def test_after_the_logout_the_way_back_shows_nothing(chrome: Chromium) -> None:
    page = chrome.open("/dashboard/tasks", apart=True)
    page.get_by_role("button", name="Log out").click()
    page.get_by_text("Logged out.").wait_for()
    page.go_back()

    page.get_by_label("API key").wait_for()
    assert page.locator("main table").count() == 0


def test_no_other_page_frames_it_or_logs_in(chrome: Chromium, site: Site) -> None:
    """Another site is localhost, for which 127.0.0.1 is one."""
    page = chrome.open("/dashboard/login", key=None)
    token = page.locator("[name=form_token]").first.get_attribute("value")
    attack = (
        f"<iframe src='{site.url}/dashboard/login'></iframe>"
        f"<form method=post action='{site.url}/dashboard/login'>"
        f"<input name=form_token value='{token}'><input name=key value='{KEY}'>"
        "<button>x</button></form>"
    )
    with _elsewhere(attack) as url:
        page.goto(url)
        assert page.frames[1].locator("input").count() == 0
        page.get_by_role("button", name="x").click()
        page.wait_for_url(f"{site.url}/**")
    assert page.context.cookies() == []
    assert any("frame" in text for text in chrome.said)
    chrome.said.clear()


@contextmanager
def _elsewhere(body: str) -> Iterator[str]:
    """The address of a page of another site."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()


def _log_in(page: Any) -> None:
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Log in").click()
