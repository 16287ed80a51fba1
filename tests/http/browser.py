"""What a browser does, without a script: it follows links, keeps cookies and sends forms."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

from quart import Response
from quart_trio.testing import TrioClient

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Page:
    def __init__(self, path: str, response: Response, text: str) -> None:
        self.path = path
        self.status = response.status_code
        self.headers = response.headers
        self.text = text

    @property
    def shown(self) -> str:
        """What a person reads."""
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", self.text)))

    @property
    def token(self) -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', self.text)
        assert found is not None, self.text
        return found[1]

    def links(self) -> set[str]:
        return {unescape(each) for each in re.findall(r'href="([^"]+)"', self.text)}

    def tags(self) -> list[tuple[str, dict[str, str | None]]]:
        """All elements, as a browser would make them of it."""
        parser = _Tags()
        parser.feed(self.text)
        return parser.found


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


class Browser:
    def __init__(self, client: TrioClient, **headers: str) -> None:
        self._client = client
        self._headers = HTML | headers

    async def get(self, path: str, **headers: str) -> Page:
        """Redirects are followed."""
        for _ in range(5):
            response = await self._client.get(path, headers=self._headers | headers)
            if response.status_code not in (302, 303):
                return Page(path, response, (await response.get_data()).decode())
            path = response.headers["Location"]
        raise AssertionError("redirected for ever")

    async def send(
        self, path: str, *, on: Page, follow: bool = True, origin: str | None = None, **members: Any
    ) -> Page:
        """The form of a page, with its token."""
        pairs = [("form_token", on.token)]
        for name, value in members.items():
            values = value if isinstance(value, list | tuple) else [value]
            pairs += [(name, str(each)) for each in values]
        return await self.post(path, pairs, follow=follow, origin=origin)

    async def post(
        self,
        path: str,
        pairs: list[tuple[str, str]],
        *,
        follow: bool = True,
        origin: str | None = None,
    ) -> Page:
        headers = self._headers | {"Content-Type": "application/x-www-form-urlencoded"}
        headers["Origin"] = origin or "http://localhost"
        response = await self._client.post(
            path,
            data=urlencode(pairs).encode(),
            headers=headers,
            scope_base={"client": ("127.0.0.1", 50_000)},
        )
        if follow and response.status_code == 303:
            return await self.get(response.headers["Location"])
        return Page(urlsplit(path).path, response, (await response.get_data()).decode())

    async def log_in(self, key: str, to: str = "/") -> Page:
        page = await self.get(f"/dashboard/login?{urlencode({'next': to})}")
        return await self.send("/dashboard/login", on=page, key=key, next=to)
