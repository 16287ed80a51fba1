"""What all pages have in common: templates, headers, forms and their tokens, notices."""

from __future__ import annotations

import base64
import secrets
import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlsplit

import jinja2
import msgspec
import trio
from quart import Response, request

from task_queue_engine._version import __version__
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.client_address import ClientAddresses
from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.dashboard.shown import FILTERS
from task_queue_engine.http.exchange import ApiRequest
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.http.principal import NO_ONE, Principal, Role
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.http.responses import respond
from task_queue_engine.http.session import cookie_of
from task_queue_engine.task import is_task_id

HTML = "text/html; charset=utf-8"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

THEME_COOKIE = "tqe_theme"
NOTICE_COOKIE = "tqe_notice"
REFRESH_HEADER = "X-Refresh"
"""Sent by the script: a look that a person has not asked for takes no notice from the one who has
to see it."""

_HERE = Path(__file__).parent
_STATIC = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Members of a form: the ids of a page of tasks, and some.
_MOST_FIELDS = 1000

NAVIGATION = (
    ("overview", "/", "Overview", Role.READ, False),
    ("tasks", f"{PAGES}tasks", "Tasks", Role.READ, True),
    ("workers", f"{PAGES}workers", "Workers", Role.READ, False),
    ("dead-letters", f"{PAGES}dead-letters", "Dead letters", Role.READ, True),
    ("submit", f"{PAGES}submit", "Submit", Role.SUBMIT, True),
)
"""Name, path, title, the role that it needs, and whether a key for some types may see it."""

Form = Mapping[str, list[str]]


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the page after a change says of it. It travels in a cookie of the browser, so it holds a
    key of `texts.NOTICES` and numbers, and no text of its own."""

    key: str
    numbers: dict[str, int] = {}
    ids: list[str] = []
    """Tasks that an undo is for, or one to look at."""
    undo: str = ""
    """The action that undoes it."""


class Site:
    def __init__(self, state: AppState, *, has_events: bool) -> None:
        self.state = state
        self.engine = state.engine
        self._has_events = has_events
        self._proxies = ClientAddresses(state.settings.trusted_proxies)
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals["static"] = self._static_path
        self._templates.globals["version"] = __version__
        self._templates.globals["texts"] = texts

    # --- who asks ---------------------------------------------------------------------------

    @property
    def principal(self) -> Principal:
        return self.state.asker.principal

    @property
    def cookie(self) -> str:
        """The session's; empty where there is none."""
        return cookie_of(request.scope["headers"])

    @property
    def is_secure(self) -> bool:
        """Whether the browser speaks TLS, with this server or the proxy before it."""
        if request.scheme == "https":
            return True
        client = request.scope.get("client")
        said = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
        return said == "https" and client is not None and self._proxies.is_proxy(client[0])

    @property
    def address(self) -> str:
        client = request.scope.get("client")
        return self._proxies.of(client[0] if client else "-", request.scope["headers"])

    def types(self) -> tuple[str, ...]:
        """The registered types that the asker may have to do with."""
        has, principal = self.state.types.has, self.principal
        return tuple(name for name in self.engine.registry.names if has(principal, name))

    # --- pages ------------------------------------------------------------------------------

    async def page(
        self, template: str, *, at: str, status: int = 200, events: str = "", **context: Any
    ) -> Response:
        """
        Args:
            at: which of `NAVIGATION` it belongs to.
            events: the path of the events that this page is kept live by, if there are any.
        """
        principal = self.principal
        notice = None if REFRESH_HEADER in request.headers else self._notice()
        context |= {
            "at": at,
            "navigation": [
                (name, path, title)
                for name, path, title, role, for_some in NAVIGATION
                if principal.may(role) and (for_some or principal.types is None)
            ],
            "me": None if principal is NO_ONE else principal.name,
            "logs_in": self.state.settings.asks_for_keys,
            "may_operate": principal.may(Role.OPERATE),
            "may_all": principal.types is None,
            "form_token": self.state.authenticator.signer.form_token(self.cookie),
            "theme": self._theme(),
            "notice": notice,
            "here": request.full_path.rstrip("?"),
            "events": events if self._has_events else "",
        }
        found = self._templates.get_template
        html = await trio.to_thread.run_sync(lambda: found(template).render(context))
        response = respond(
            html.encode("utf-8", "replace"),
            status,
            content_type=HTML,
            Content_Security_Policy=CONTENT_SECURITY_POLICY,
            # `no-referrer` would take the Origin of forms away, which is checked.
            Referrer_Policy="same-origin",
            X_Frame_Options="DENY",
            Cross_Origin_Opener_Policy="same-origin",
            Vary="Accept, Cookie",
        )
        if notice is not None:
            response.delete_cookie(NOTICE_COOKIE, path="/", samesite="Strict", httponly=True)
        return response

    def _theme(self) -> str:
        theme = request.cookies.get(THEME_COOKIE, "")
        return theme if theme in ("light", "dark") else "auto"

    def _notice(self) -> Notice | None:
        try:
            given = base64.urlsafe_b64decode(request.cookies.get(NOTICE_COOKIE, ""))
            notice = msgspec.json.decode(given, type=Notice)
        except (ValueError, msgspec.DecodeError):  # which is a ValueError since msgspec 0.21
            return None
        known = notice.key in texts.NOTICES and all(map(is_task_id, notice.ids))
        return notice if known else None

    def go_to(self, path: str, notice: Notice | None = None) -> Response:
        """After a form: the next page, which a reload does not send again."""
        to = quote(path, safe=string.punctuation)  # a header is ASCII
        response = respond(b"", 303, content_type="text/plain", Location=to)
        if notice is not None:
            value = base64.urlsafe_b64encode(msgspec.json.encode(notice)).decode()
            self.set_cookie(response, NOTICE_COOKIE, value, seconds=60)
        return response

    def set_cookie(self, response: Response, name: str, value: str, *, seconds: int) -> None:
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path="/",
            secure=self.is_secure,
            httponly=True,
            samesite="Strict",
        )

    # --- forms ------------------------------------------------------------------------------

    async def form(self) -> Form:
        """What was sent, checked to come from a page of this server. Raises ProblemError."""
        if request.mimetype != "application/x-www-form-urlencoded":
            raise ProblemError("unsupported-media-type", "send a form", field="Content-Type")
        try:
            body = (await cast("ApiRequest", request).read()).decode()
            given = parse_qs(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        except ValueError:
            raise ProblemError("bad-request", "this form cannot be read", field="body") from None
        token = one(given, "form_token")
        if not self.state.authenticator.signer.is_form_token(token, self.cookie):
            raise ProblemError("forbidden", texts.FORM_IS_OLD, field="form_token")
        return given

    # --- files ------------------------------------------------------------------------------

    @cached_property
    def _files(self) -> Mapping[str, bytes]:
        return {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}

    def _static_path(self, name: str) -> str:
        """With its content's hash, so that a browser may keep it."""
        return f"{PAGES}static/{name}?v={sha256(self._files[name]).hexdigest()[:12]}"

    async def static(self, name: str) -> Response:
        content = self._files.get(name)
        if content is None:
            raise ProblemError("not-found", texts.NO_SUCH_PAGE)
        return respond(
            content,
            content_type=_STATIC[name],
            Cache_Control="public, max-age=31536000, immutable" if request.args else "no-cache",
        )


def one(form: Form, name: str, default: str = "") -> str:
    return form.get(name, [default])[0]


def local_path(given: str, default: str) -> str:
    """Where to go next, as a form says: a page of this server, never another site."""
    try:
        parts = urlsplit(given)
    except ValueError:  # "//[": no address of anything
        return default
    is_page = parts.path == "/" or parts.path.startswith(PAGES)
    plain = not (parts.scheme or parts.netloc) and given.isprintable() and "\\" not in given
    return given if is_page and plain and not given.startswith("//") else default


def task_ids(form: Form) -> Sequence[str]:
    """Those that are spelled as ids, each once."""
    return list(dict.fromkeys(text for text in form.get("id", ()) if is_task_id(text)))


def new_key() -> str:
    """An idempotency key, for one form."""
    return f"dashboard-{secrets.token_urlsafe(12)}"
