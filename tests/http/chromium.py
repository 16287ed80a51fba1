"""A real browser on a real engine: one of each for all tests of a module.

What costs is a browser's context (a renderer of its own, 0.3 s of CPU) and what a page does while a
test waits. So tests have a page each in one context that is logged in, and are in no place idle.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apsw
import pytest

from local_aws.downloads import NotAvailable, axe, chromium
from tests.cli.runner import Server, Shop
from tests.http import pages_shop

KEY = "k" * 32
WAIT = 30_000
"""Milliseconds that a busy machine may take."""

# No sandbox: tests may run as root. No GPU: there is none, and to emulate one costs.
_FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
_DESK = {"viewport": {"width": 1280, "height": 800}}

_TELLS = """document.addEventListener('securitypolicyviolation', event =>
    console.error(`refused ${event.violatedDirective}: ${event.blockedURI} ${event.sample}`))"""

# The script's look at the server, at once, in which it replaces all that is live.
_LOOK = """patience => new Promise((done, fail) => {
    setTimeout(() => fail(new Error('the script does not look')), patience);
    for (const part of document.querySelectorAll('[data-live]')) part.dataset.old = '';
    const parse = DOMParser.prototype.parseFromString, now = Date.now;
    Date.now = () => now() + 60_000;
    DOMParser.prototype.parseFromString = function (...given) {
        DOMParser.prototype.parseFromString = parse;
        Date.now = now;
        setTimeout(done, 0);
        return parse.apply(this, given);
    };
    dispatchEvent(new Event('online'));
})"""


def programs() -> tuple[Path, str]:
    """The browser, and the source of axe; skips the test where there is none."""
    try:
        return chromium(), axe().read_text()
    except NotAvailable as reason:
        if os.environ.get("TQE_TEST_SERVERS") == "all":
            pytest.fail(f"TQE_TEST_SERVERS=all, but {reason}", pytrace=False)
        pytest.skip(f"pages cannot be looked at here: {reason}")


class Site:
    """The engine, from outside."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shop = Shop(path)
        (path / "shop.py").write_text(Path(pages_shop.__file__).read_text())
        self._running = ExitStack()
        self._port = "0"
        self.start()

    def start(self) -> None:
        self.server: Server = self._running.enter_context(
            self._shop.serve(
                PORT=self._port,
                TQE_API_KEYS=KEY,
                TQE_SESSION_SECRET="s" * 32,
                TQE_REDACT="payload.password",
                TQE_DATABASE=str(self.database),
                TQE_METRICS_INTERVAL="0.2",
            )
        )
        self.url = self.server.url
        self._port = self.url.rpartition(":")[2]

    def kill(self) -> None:
        self.server.process.kill()
        self._running.close()

    @property
    def database(self) -> Path:
        return self._path / "tasks.db"

    def submit(self, task_type: str, payload: Any, **more: Any) -> str:
        body = {"type": task_type, "payload": payload, **more}
        return str(self.ask("POST", "/tasks", body)["id"])

    def ended(self, task_id: str) -> dict[str, Any]:
        return self.ask("GET", f"/tasks/{task_id}?wait=20")

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def execute(self, statement: str, *bindings: Any) -> None:
        """As another program may have written into the file."""
        connection = apsw.Connection(str(self.database))
        connection.set_busy_timeout(20_000)
        connection.execute(statement, bindings)
        connection.close()


class Chromium:
    """The browser, and what is said by the pages that a test has opened in it."""

    def __init__(self, browser: Any, site: Site) -> None:
        self._browser = browser
        self._site = site
        self._usual: Any = None
        self.said: list[str] = []
        """What a console says against a page: a refused script, an exception, a dialog. A test that
        provokes it clears it; else the test fails."""
        self._opened: list[Any] = []

    def open(
        self,
        path: str = "/",
        *,
        login: bool = True,
        apart: bool = False,
        **options: Any,
    ) -> Any:
        """A page.

        Args:
            login: with a session; without, it is at the login page.
            apart: in a context of its own, for a test that changes what a browser keeps.
            options: of that context.
        """
        if login and not (apart or options):
            if self._usual is None:
                self._usual = self._context()
                self._log_in(self._usual)
            context = self._usual
        else:
            context = self._context(**options)
            self._opened.append(context)
            if login:
                self._log_in(context)
        page = context.new_page()
        self._opened.append(page)
        page.goto(path)
        return page

    def _context(self, **options: Any) -> Any:
        context = self._browser.new_context(base_url=self._site.url, **_DESK | options)
        context.set_default_timeout(WAIT)
        context.add_init_script(_TELLS)
        context.on("page", self._listen)
        return context

    def _log_in(self, context: Any) -> None:
        if self._usual is not None and context is not self._usual:
            context.add_cookies(
                [one for one in self._usual.cookies() if one["name"] == "tqe_session"]
            )
            return
        page = context.new_page()
        page.goto("/dashboard/workers")
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("text=Log out")
        page.close()

    def _listen(self, page: Any) -> None:
        said = self.said
        page.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss())
        )

    def let_loads_be_refused(self) -> None:
        """Chromium tells its console of each answer from 400 on."""
        self.said[:] = [
            text for text in self.said if not text.startswith("Failed to load resource")
        ]

    def close_all(self) -> None:
        for one in reversed(self._opened):
            one.close()
        self._opened.clear()


def look(page: Any) -> None:
    """By way of the script: what is live is fetched again and replaced."""
    page.evaluate(_LOOK, WAIT)


def overflow(page: Any) -> int:
    """Pixels that the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def serve_site(path: Path) -> Iterator[Site]:
    programs()
    site = Site(path)
    yield site
    site.kill()


def launch(site: Site) -> Iterator[Chromium]:
    from playwright import sync_api  # only where a browser is: this file is imported by conftest

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(programs()[0]), args=_FLAGS)
        yield Chromium(browser, site)
        browser.close()
