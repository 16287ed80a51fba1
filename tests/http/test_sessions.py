"""Logging in to the pages with an API key, and what a key may do there."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta

import pytest
from quart_trio.testing import TrioClient

from task_queue_engine.http import create_app, session
from task_queue_engine.http.dashboard.routes import ROUTES
from task_queue_engine.http.principal import Role
from task_queue_engine.http.session import COOKIE
from task_queue_engine.task import TaskStatus
from tests.http.browser import HTML, Browser, Page
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys

KEY = "k" * 32
SECRET = "s" * 32


def app_client(engine: FakeEngine, **settings: object) -> TrioClient:
    return create_app(engine, make_settings(**({"api_keys": (KEY,)} | settings))).test_client()  # type: ignore[return-value] # as conftest


@pytest.fixture
def client(engine: FakeEngine) -> TrioClient:
    return app_client(engine)


@pytest.fixture
def browser(client: TrioClient) -> Browser:
    return Browser(client)


def cookie_of(client: TrioClient) -> str:
    (found,) = (each for each in client.cookie_jar if each.name == COOKIE)
    assert found.value is not None
    return found.value


async def test_in_and_out_again(browser: Browser, client: TrioClient) -> None:
    login = await browser.get("/")
    assert "API key" in login.shown
    assert "Submit" not in login.shown
    fields = [each.get("autocomplete") for tag, each in login.tags() if tag == "input"]
    assert [each for each in fields if each] == ["username", "current-password"]

    page = await browser.send("/dashboard/login", on=login, key=KEY, next="/")
    assert (page.path, page.status) == ("/", 200)
    assert "TQE_API_KEYS[1]" in page.shown
    assert KEY not in page.text
    assert KEY not in cookie_of(client)

    out = await browser.send("/dashboard/logout", on=page)
    assert "Logged out." in out.shown
    assert "API key" in (await browser.get("/dashboard/tasks")).shown


async def test_the_cookie_is_for_this_server_alone(client: TrioClient, browser: Browser) -> None:
    page = await browser.get("/dashboard/login")

    answer = await browser.send("/dashboard/login", on=page, follow=False, key=KEY)

    (cookie,) = (each for each in answer.headers.getlist("Set-Cookie") if COOKIE in each)
    parts = {each.strip().partition("=")[0].lower() for each in cookie.split(";")}
    assert {"httponly", "samesite", "max-age"} <= parts
    assert "SameSite=Strict" in cookie
    assert "secure" not in parts


async def test_behind_tls_it_is_for_tls_alone(engine: FakeEngine) -> None:
    for trusted, secure in ((("127.0.0.0/8",), True), ((), False)):
        client = app_client(engine, trusted_proxies=",".join(trusted))
        browser = Browser(client, **{"X-Forwarded-Proto": "https"})
        page = await browser.get("/dashboard/login")

        answer = await browser.send("/dashboard/login", on=page, follow=False, key=KEY)

        (cookie,) = (each for each in answer.headers.getlist("Set-Cookie") if COOKIE in each)
        assert ("secure" in cookie.lower()) is secure


async def test_from_where_one_was_and_back(browser: Browser, engine: FakeEngine) -> None:
    task = engine.add()
    for path in (f"/dashboard/tasks/{task.id}", "/dashboard/tasks?status=FAILED&type=a"):
        login = await browser.get(path)
        assert login.path.startswith("/dashboard/login")
        (to,) = (each["value"] for _, each in login.tags() if each.get("name") == "next")
        assert to == path

    page = await browser.send("/dashboard/login", on=login, key=KEY, next=path)

    assert page.path == path


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example",
        "///evil.example",
        "\t//evil.example",
        "/tasks",
        "/\\evil",
        "\\\\evil",
        "/dashboard/\\..\\..\\evil",
        "/dashboard/\r\nSet-Cookie: a=b",
        "//dashboard/",
        "http:///dashboard/",
        "javascript:alert(1)",
        "//[",  # urllib raises
    ],
)
async def test_and_never_to_another_site(browser: Browser, to: str) -> None:
    page = await browser.get("/dashboard/login")

    answer = await browser.send("/dashboard/login", on=page, follow=False, key=KEY, next=to)

    assert answer.headers["Location"] == "/"


async def test_a_key_that_is_not_known(
    browser: Browser, client: TrioClient, caplog: pytest.LogCaptureFixture
) -> None:
    page = await browser.get("/dashboard/login")
    with caplog.at_level(logging.WARNING):
        for key in ("", "wrong-" * 5, KEY + "x", "\xfc"):
            answer = await browser.send("/dashboard/login", on=page, key=key)
            assert answer.status == 401
            assert "not known, or has expired" in answer.shown
    assert [each for each in client.cookie_jar if each.name == COOKIE] == []
    assert "wrong-wrong" not in caplog.text
    assert "login" in caplog.text


async def test_guesses_are_slowed_down(browser: Browser) -> None:
    page = await browser.get("/dashboard/login")
    statuses = [
        (await browser.send("/dashboard/login", on=page, key=f"guess-{number}")).status
        for number in range(40)
    ]

    assert statuses[:10] == [401] * 10
    assert 429 in statuses
    refused = await browser.send("/dashboard/login", on=page, key=KEY)
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1


class TestCookies:
    async def test_that_are_made_up(self, client: TrioClient, browser: Browser) -> None:
        await browser.log_in(KEY)
        good = cookie_of(client)
        name, expires, nonce, signature = good.split(".")
        later = str(int(expires) + 1)
        for cookie in (
            f"{name}.{later}.{nonce}.{signature}",
            f"TQE_API_KEYS[2].{expires}.{nonce}.{signature}",
            f"{name}.{expires}.{nonce}.",
            f"{name}.{expires}.{nonce}x.{signature}",
            f"..{signature}",
            "x" * 5000,
            "\xfc",
        ):
            client.cookie_jar.clear()
            answer = await client.get(
                "/dashboard/tasks", headers=HTML | {"Cookie": f"a=b; {COOKIE}={cookie}"}
            )
            assert answer.headers.get("Location", "").startswith("/dashboard/login"), cookie
        answer = await client.get("/dashboard/tasks", headers=HTML | {"Cookie": f"{COOKIE}={good}"})
        assert answer.status_code == 200

    async def test_end_after_a_day_of_work(
        self, client: TrioClient, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await browser.log_in(KEY)
        now = session.time.time()
        monkeypatch.setattr(session.time, "time", lambda: now + session.LASTS + 2)

        answer = await client.get(
            "/dashboard/tasks", headers=HTML | {"Cookie": f"{COOKIE}={cookie_of(client)}"}
        )

        assert answer.headers["Location"].startswith("/dashboard/login?next=/dashboard/tasks")

    @pytest.mark.parametrize(("secret", "known"), [(SECRET, True), (None, False)])
    async def test_of_another_process(
        self, engine: FakeEngine, secret: str | None, known: bool
    ) -> None:
        """With one secret each process knows the sessions that another has begun."""
        first, second = (app_client(engine, session_secret=secret) for _ in range(2))
        await Browser(first).log_in(KEY)
        cookie = {"Cookie": f"{COOKIE}={cookie_of(first)}"}

        assert ((await second.get("/", headers=HTML | cookie)).status_code == 200) is known

    async def test_end_with_their_key(self, engine: FakeEngine, keys: Keys) -> None:
        keys.add("ops", Role.ADMIN)
        client = keys.client(engine, session_secret=SECRET)
        await Browser(client).log_in(keys.secrets["ops"])
        cookie = {"Cookie": f"{COOKIE}={cookie_of(client)}"}
        keys.path.unlink()
        keys.add("ops", Role.ADMIN)  # replaced, under the same name

        renewed = keys.client(engine, session_secret=SECRET)

        assert (await renewed.get("/", headers=HTML | cookie)).status_code == 303

    async def test_of_an_expired_key(self, engine: FakeEngine, keys: Keys) -> None:
        keys.add("old", Role.ADMIN, expires=date(2020, 1, 1))
        browser = Browser(keys.client(engine))

        assert (await browser.log_in(keys.secrets["old"])).status == 401

    async def test_read_the_api_and_change_nothing_there(
        self, client: TrioClient, browser: Browser, engine: FakeEngine
    ) -> None:
        """The script asks for events; a change by a cookie would be one that any page can send."""
        task = engine.add()
        await browser.log_in(KEY)

        assert (await client.get(f"/tasks/{task.id}")).status_code == 200
        assert (await client.delete(f"/tasks/{task.id}")).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await client.get(f"/tasks/{task.id}", headers=wrong)).status_code == 401


async def test_a_form_needs_the_token_of_its_session(engine: FakeEngine) -> None:
    task = engine.add(status=TaskStatus.FAILED)
    client, other = (app_client(engine, session_secret=SECRET) for _ in range(2))
    browser, attacker = Browser(client), Browser(other)
    await browser.log_in(KEY)
    theirs = await attacker.log_in(KEY)

    answer = await browser.send("/dashboard/tasks/retry", on=theirs, id=task.id)

    assert answer.status == 403
    assert engine.rows[task.id].task.status is TaskStatus.FAILED


async def test_a_form_that_is_sent_after_the_session(
    browser: Browser, client: TrioClient, engine: FakeEngine
) -> None:
    task = engine.add(status=TaskStatus.FAILED)
    page = await browser.log_in(KEY)
    client.cookie_jar.clear()

    answer = await browser.send("/dashboard/tasks/retry", on=page, id=task.id)

    assert "API key" in answer.shown
    assert engine.rows[task.id].task.status is TaskStatus.FAILED


async def test_a_link_in_a_mail_finds_the_session(client: TrioClient) -> None:
    """The browser keeps a SameSite=Strict cookie back, and sends it with a page's own reload."""
    answer = await client.get("/dashboard/tasks", headers=HTML | {"Sec-Fetch-Site": "cross-site"})

    text = await answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/dashboard/tasks">' in text
    assert (
        await client.get("/dashboard/tasks", headers=HTML | {"Sec-Fetch-Site": "same-origin"})
    ).status_code == 303


# --- roles ----------------------------------------------------------------------------------

_NEEDED = {
    "page_tasks": Role.READ,
    "page_task": Role.READ,
    "page_workers": Role.READ,
    "page_dead_letters": Role.READ,
    "page_cancel": Role.OPERATE,
    "page_retry": Role.OPERATE,
    "page_redrive": Role.OPERATE,
    "page_purge": Role.OPERATE,
    "page_submit": Role.SUBMIT,
    "page_submit_task": Role.SUBMIT,
}


@pytest.mark.parametrize("role", [Role.SUBMIT, Role.READ, Role.OPERATE])
async def test_each_page_needs_its_role(engine: FakeEngine, keys: Keys, role: Role) -> None:
    keys.add("someone", role)
    task = engine.add(status=TaskStatus.FAILED)
    browser = Browser(keys.client(engine))
    page = await browser.log_in(keys.secrets["someone"], to="/dashboard/submit")
    for method, path, name in ROUTES:
        if name not in _NEEDED:
            continue
        path = "/dashboard/" + path.replace("<task_id>", task.id)
        answer = (
            await browser.get(path)
            if method == "GET"
            else await browser.send(path, on=page, follow=False, type="text", id=task.id)
        )
        allowed = _NEEDED[name] is role
        assert (answer.status != 403) is allowed, name
        if not allowed:
            assert f"needs the role {_NEEDED[name]}" in answer.shown
    assert (engine.rows[task.id].task.status is TaskStatus.FAILED) is (role is not Role.OPERATE)


async def test_what_a_key_may_not_do_is_not_offered(engine: FakeEngine, keys: Keys) -> None:
    keys.add("reader", Role.READ)
    task = engine.add(status=TaskStatus.FAILED)
    engine.add_dead_letter(task)
    browser = Browser(keys.client(engine))
    await browser.log_in(keys.secrets["reader"])
    for path in ("/", "/dashboard/tasks", f"/dashboard/tasks/{task.id}", "/dashboard/dead-letters"):
        page = await browser.get(path)
        assert page.status == 200
        actions = {each.get("formaction") or each.get("action") for _, each in page.tags()}
        assert actions <= {
            None,
            "/dashboard/theme",
            "/dashboard/logout",
            "/dashboard/tasks",
            "/dashboard/dead-letters/redrive",
        }
        assert ">Retry<" not in page.text
        assert ">Redrive<" not in page.text
        assert "Submit" not in page.shown.replace("Submitted", "")


async def test_a_key_for_one_type_sees_that_alone(engine: FakeEngine, keys: Keys) -> None:
    keys.add("mailer", Role.READ, Role.OPERATE, Role.SUBMIT, types=("email",))
    own = engine.add("email", status=TaskStatus.FAILED)
    other = engine.add("anything", status=TaskStatus.FAILED)
    for task in (own, other):
        engine.add_dead_letter(task)
    browser = Browser(keys.client(engine))

    page = await browser.log_in(keys.secrets["mailer"])
    assert page.path == "/dashboard/tasks"  # the overview is of all types
    assert own.id in page.text
    assert other.id not in page.text
    assert "Workers" not in page.shown
    dead = await browser.get("/dashboard/dead-letters")
    assert own.id in dead.text
    assert other.id not in dead.text
    for path in (
        f"/dashboard/tasks/{other.id}",
        "/dashboard/submit?type=anything",
        "/dashboard/workers",
    ):
        assert (await browser.get(path)).status == 403
    assert "anything" not in (await browser.get("/dashboard/submit")).shown
    answer = await browser.send("/dashboard/tasks/retry", on=page, id=other.id)
    assert answer.status == 403
    await browser.send(
        "/dashboard/dead-letters/redrive", on=page, id=[each.id for each in engine.dead_letters]
    )
    assert engine.rows[other.id].task.status is TaskStatus.FAILED
    assert engine.rows[own.id].task.status is TaskStatus.PENDING


async def test_changes_are_in_the_audit_log(
    engine: FakeEngine, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    keys.add("ops", Role.ADMIN)
    task = engine.add(status=TaskStatus.FAILED)
    browser = Browser(keys.client(engine))
    page = await browser.log_in(keys.secrets["ops"])
    with caplog.at_level(logging.INFO, "task_queue_engine.audit"):
        await browser.send("/dashboard/tasks/retry", on=page, id=task.id)
        await browser.send("/dashboard/tasks/cancel", on=page, id=task.id)  # a question only

    lines = [each.message for each in caplog.records if each.name == "task_queue_engine.audit"]
    assert len(lines) == 1
    assert lines[0].startswith("retry done (303) key=ops")
    assert task.id in lines[0]


async def test_no_login_where_no_key_is_asked_for(engine: FakeEngine) -> None:
    page: Page = await Browser(app_client(engine, api_keys=())).get("/dashboard/login")

    assert page.path == "/"
    assert "Log out" not in page.shown


def test_a_session_is_shorter_than_a_day() -> None:
    assert datetime.now(UTC) + timedelta(seconds=session.LASTS) < datetime.now(UTC) + timedelta(1)
