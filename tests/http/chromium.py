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
from tests.cli.runner import Server, Shop, eventually
from tests.http import pages_shop
from tests.http.keys import JSON, Keys

KEY = "k" * 32
"""That of a site without a file of keys, where it is called admin."""
WAIT = 30_000
"""Milliseconds that a busy machine may take."""

# No sandbox: tests may run as root. No GPU: there is none, and to emulate one costs.
_FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
_DESK = {"viewport": {"width": 1280, "height": 800}}
# In a dark room. Colours do not depend on the width, nor what is there on the scheme.
_LOOKS = (("light", 1280), ("dark", 375))
# What axe has found to be right is most of its report.
_AXE = """() => axe.run({
    runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    resultTypes: ['violations'],
}).then(report => report.violations.map(one =>
    [one.id, one.nodes.slice(0, 3).map(node => node.html.slice(0, 150))]))"""

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
    """The engine, from outside: by the key admin."""

    def __init__(self, path: Path, keys: Keys | None, environment: dict[str, str]) -> None:
        self.secrets = {"admin": KEY} if keys is None else keys.secrets
        self._environment = {
            "TQE_SESSION_SECRET": "s" * 32,
            "TQE_REDACT": "payload.password",
            "TQE_DATABASE": str(path / "tasks.db"),
            "TQE_METRICS_INTERVAL": "0.2",
            **({"TQE_API_KEYS": KEY} if keys is None else {"TQE_KEYS_FILE": str(keys.path)}),
            **environment,
        }
        self._shop = Shop(path)
        (path / "shop.py").write_text(Path(pages_shop.__file__).read_text())
        self._running = ExitStack()
        self._port = "0"
        self.start()

    def start(self) -> None:
        self.server: Server = self._running.enter_context(
            self._shop.serve(PORT=self._port, **self._environment)
        )
        self.url = self.server.url
        self._port = self.url.rpartition(":")[2]

    def kill(self) -> None:
        self.server.process.kill()
        self._running.close()

    def submit(self, task_type: str, payload: Any, **more: Any) -> str:
        body = {"type": task_type, "payload": payload, **more}
        return str(self.ask("POST", "/tasks", body)["id"])

    def running(self) -> str:
        """A task that holds the only slot until it is cancelled: actions, which come first, wait
        for it."""
        task_id = self.submit("steps", {})
        eventually(lambda: self.status(task_id) == "PROCESSING", seconds=WAIT / 1000)
        return task_id

    def waiting(self, number: int, task_type: str) -> list[str]:
        """Tasks that stay PENDING."""
        one = {"type": task_type, "payload": {"to": "x"}, "delay_seconds": 7200}
        answer = self.ask("POST", "/tasks/batch", {"tasks": [one] * number})
        return [each["task"]["id"] for each in answer["results"]]

    def failed(self) -> str:
        task_id = self.submit("hostile", 1)
        assert self.ended(task_id)["status"] == "FAILED"
        return task_id

    def ended(self, task_id: str) -> dict[str, Any]:
        return self.ask("GET", f"/tasks/{task_id}?wait=20")

    def status(self, task_id: str) -> str:
        return str(self.ask("GET", f"/tasks/{task_id}")["status"])

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = JSON | {"Authorization": f"Bearer {self.secrets['admin']}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def execute(self, statement: str, *bindings: Any) -> None:
        """As another program may have written into the file."""
        connection = apsw.Connection(self._environment["TQE_DATABASE"])
        connection.set_busy_timeout(20_000)
        connection.execute(statement, bindings)
        connection.close()


class Chromium:
    """The browser, and what is said by the pages that a test has opened in it."""

    def __init__(self, browser: Any, site: Site) -> None:
        self._browser = browser
        self._site = site
        self._logged_in: dict[str, Any] = {}
        self.said: list[str] = []
        """What a console says against a page: a refused script, an exception, a dialog. A test that
        provokes it clears it; else the test fails."""
        self._opened: list[Any] = []

    def open(
        self,
        path: str = "/",
        *,
        key: str | None = "admin",
        apart: bool = False,
        **options: Any,
    ) -> Any:
        """A page.

        Args:
            key: the name of the one that it is logged in with; None: it is at the login page.
            apart: in a context of its own, for a test that changes what a browser keeps.
            options: of that context.
        """
        context = None if key is None else self._with(key)
        if context is None or apart or options:
            cookies = [] if context is None else context.cookies()
            context = self._context(**options)
            self._opened.append(context)
            context.add_cookies([one for one in cookies if one["name"] == "tqe_session"])
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

    def _with(self, key: str) -> Any:
        """The context that is logged in with it."""
        if key not in self._logged_in:
            context = self._context()
            page = context.new_page()
            page.goto("/dashboard/tasks")
            page.get_by_label("API key").fill(self._site.secrets[key])
            page.get_by_role("button", name="Log in").click()
            page.wait_for_selector("text=Log out")
            page.close()
            self._logged_in[key] = context
        return self._logged_in[key]

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


def check(page: Any, *, is_dense: bool = False) -> None:
    """That axe finds nothing and nothing is wider than the window, which is a telephone's then.

    Args:
        is_dense: much of it depends on the width, and has colours: axe has both looks at it.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(programs()[1])
    for scheme, width in _LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        over = overflow(page)
        assert over <= 0, f"{page.url} is {over} px wider than a window of {width}"
        if is_dense or (scheme, width) == _LOOKS[0]:
            assert page.evaluate(_AXE) == [], f"{page.url} in a {scheme} window of {width}"


def serve_site(path: Path, keys: Keys | None = None, **environment: str) -> Iterator[Site]:
    programs()
    site = Site(path, keys, environment)
    yield site
    site.kill()


def launch(site: Site) -> Iterator[Chromium]:
    from playwright import sync_api  # only where a browser is: this file is imported by conftest

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(programs()[0]), args=_FLAGS)
        yield Chromium(browser, site)
        browser.close()
