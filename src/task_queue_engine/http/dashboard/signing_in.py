"""Login and logout, the theme, and pages for what went wrong."""

from __future__ import annotations

import logging
import math
from urllib.parse import quote, urlencode

from quart import Response, request

from task_queue_engine.http import problems
from task_queue_engine.http.crowd import address_of
from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.dashboard.site import THEME_COOKIE, Notice, Site, local_path, one
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.http.principal import NO_ONE
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.http.rate_limits import Buckets
from task_queue_engine.http.session import COOKIE, LASTS

LOGIN = f"{PAGES}login"

# Tries a second of one address, ten at once: more than a person types, and far too few to guess a
# key. What TQE_RATE_LIMIT_PER_ADDRESS says comes on top.
_TRIES = 1.0

_YEAR = 365 * 86_400
_THEMES = {"auto": "dark", "dark": "light", "light": "auto"}

logger = logging.getLogger("task_queue_engine.http")


class SigningIn:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._authenticator = site.state.authenticator
        self._tries = Buckets()

    async def form(self) -> Response:
        to = local_path(request.args.get("next", ""), "/")
        if not self._authenticator.asks_for_keys or self._site.principal is not NO_ONE:
            return self._site.go_to(to)
        return await self._login_page(to)

    async def _login_page(self, to: str, *, trouble: str = "", status: int = 200) -> Response:
        return await self._site.page(
            "login.html", at="login", status=status, to=to, trouble=trouble
        )

    async def log_in(self) -> Response:
        taken = self._tries.take(address_of(self._site.address), _TRIES)
        if taken.wait:
            seconds = max(1, math.ceil(taken.wait))
            trouble = texts.TOO_MANY_TRIES.format(seconds=seconds)
            response = await self._login_page("/", trouble=trouble, status=429)
            response.headers["Retry-After"] = str(seconds)
            return response
        form = await self._site.form()
        to = local_path(one(form, "next"), "/")
        try:
            key = self._authenticator.key_of(one(form, "key").strip().encode())
        except ProblemError:
            logger.warning("a login with an unknown key was refused: %s", self._site.address)
            return await self._login_page(to, trouble=texts.KEY_UNKNOWN, status=401)
        response = self._site.go_to(to)
        cookie = self._authenticator.signer.begin(key)
        self._site.set_cookie(response, COOKIE, cookie, seconds=LASTS)
        return response

    async def log_out(self) -> Response:
        await self._site.form()
        response = self._site.go_to(LOGIN, Notice(key="logged-out"))
        response.delete_cookie(COOKIE, path="/", samesite="Strict", httponly=True)
        return response

    async def theme(self) -> Response:
        """To the next one: as the system says, dark, light."""
        form = await self._site.form()
        chosen = _THEMES.get(one(form, "theme"), "auto")
        response = self._site.go_to(local_path(one(form, "back"), "/"))
        self._site.set_cookie(response, THEME_COOKIE, chosen, seconds=_YEAR)
        return response

    async def answer_error(self, error: Exception) -> Response:
        """Where a session is missing, the login page and from there the way back."""
        if (
            self._site.principal is NO_ONE
            and isinstance(error, ProblemError)
            and (error.slug in ("missing-role", "forbidden"))
        ):
            return await self._to_login()
        problem, headers = problems.of_error(error)
        request_id = str(request.scope.get("tqe.request_id"))
        if problem.status == 500:
            logger.error("request %s failed", request_id, exc_info=error)
        response = await self._site.page(
            "error.html",
            at="",
            status=problem.status,
            problem=problem,
            request_id=request_id,
            can_repeat=request.method == "GET" and problem.status >= 500,
        )
        for name, value in headers:
            if name in ("Retry-After", "Allow"):
                response.headers[name] = value
        return response

    async def _to_login(self) -> Response:
        if request.method != "GET":
            # A form that was sent after the session's end: what it asked for was not done.
            back = local_path(_path_of(request.headers.get("Referer", "")), "/")
            return self._site.go_to(f"{LOGIN}?{urlencode({'next': back})}")
        here = request.full_path.rstrip("?")
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # A link in a chat or a mail: the browser has kept the session's cookie from this
            # request (SameSite=Strict), and sends it with one that a page of ours begins.
            return await self._site.page("continue.html", at="", to=here)
        return self._site.go_to(f"{LOGIN}?next={quote(here, safe='/')}")


def _path_of(url: str) -> str:
    rest = url.partition("://")[2]
    return "/" + rest.partition("/")[2] if rest else ""
