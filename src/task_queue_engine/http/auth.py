"""From what a request shows to the principal behind it. API keys come as bearer tokens (RFC 6750).

The pages of a browser have a session's cookie (`session.py`) in their place. All that comes after
knows principals only.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import trio

from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.http.key_file import (
    KeyFile,
    NamedKey,
    digest_of,
    read_if_changed,
    read_key_file,
)
from task_queue_engine.http.principal import ANYONE, Principal, Role
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.http.session import Signer, read_session

REALM = "task-queue-engine"

LOOK_EVERY = 1.0
"""Seconds between two looks whether `TQE_KEYS_FILE` has changed, while requests come."""
# Seconds for a look; a network's disk may hang, and the keys that are known go on meanwhile.
_LOOK_WITHIN = 2.0

logger = logging.getLogger("task_queue_engine.http")


class Authenticator:
    """Knows the keys of `TQE_API_KEYS` and `TQE_KEYS_FILE`, by their hashes only.

    The SHA-256 of what was given is looked up, and compared with `hmac.compare_digest`. The time
    of the look-up tells a caller nothing: it depends on Python's own hash, with a secret of this
    process, of a SHA-256 that cannot be steered step by step towards a known one.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        unnamed = [
            NamedKey(
                digest_of(key.get_secret_value().encode()),
                Principal(name=f"TQE_API_KEYS[{number}]", roles=frozenset({Role.ADMIN})),
                None,
            )
            for number, key in enumerate(settings.api_keys, 1)
        ]
        self._unnamed = {key.digest: key for key in unnamed}
        self.asks_for_keys = settings.asks_for_keys
        """False: all may do everything."""
        self._file = None if settings.keys_file is None else _WatchedFile(settings.keys_file)
        self.signer = Signer(settings)

    @property
    def is_old(self) -> bool:
        """What is known of the file is older than LOOK_EVERY: `look_again` first."""
        return self._file is not None and trio.current_time() >= self._file.next_look

    async def look_again(self) -> None:
        if self._file is not None:
            await self._file.look_again()

    @property
    def trouble(self) -> str | None:
        """For /ready, which anyone may ask: that the file cannot be used, without its path."""
        return None if self._file is None else self._file.trouble

    def who(self, authorization: bytes | None) -> Principal:
        """Raises ProblemError (401) unless the header holds a known key that has not expired."""
        if not self.asks_for_keys:
            return ANYONE
        if authorization is None:
            raise _refusal("this server wants an API key: Authorization: Bearer KEY")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise _refusal("the Authorization header must be: Bearer KEY")
        return self.key_of(token.strip()).principal

    def who_has(self, cookie: str) -> Principal | None:
        """Of a session's cookie; None: none, or one that has ended."""
        if not self.asks_for_keys:
            return ANYONE
        session = read_session(cookie)
        if session is None:
            return None
        for key in (*self._unnamed.values(), *(self._file.keys.values() if self._file else ())):
            if key.principal.name == session.name and self.signer.is_valid(session, key):
                return None if _has_expired(key) else key.principal
        return None

    def key_of(self, token: bytes) -> NamedKey:
        """Raises ProblemError (401) unless it is a known key that has not expired."""
        given = digest_of(token)
        key = self._unnamed.get(given)
        if key is None and self._file is not None:
            key = self._file.keys.get(given)
        if key is None or not hmac.compare_digest(key.digest, given):
            raise _refusal("this API key is not known", ', error="invalid_token"')
        if _has_expired(key):
            raise _refusal("this API key has expired", ', error="invalid_token"')
        return key


class _WatchedFile:
    """The file as it last was when it could be used."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self.next_look = 0.0
        self.trouble: str | None = None
        self._told = ""
        self.keys: Mapping[bytes, NamedKey] = {}
        self._take(read_key_file(path))

    def _take(self, file: KeyFile) -> None:
        self.keys = file.keys
        self._signature = file.signature
        if file.warning is not None:
            logger.warning(file.warning)

    async def look_again(self) -> None:
        """One looks, the others wait for it: a key that was taken out an hour ago must not pass for
        the moment that the look takes."""
        async with self._turn:
            if trio.current_time() < self.next_look:
                return
            trouble = f"TQE_KEYS_FILE: {self._path} cannot be read: no answer"
            with trio.move_on_after(_LOOK_WITHIN):
                trouble = await self._look()
            self._tell(trouble)
            self.next_look = trio.current_time() + LOOK_EVERY

    async def _look(self) -> str:
        """What is wrong; empty where nothing is."""
        if not self._thread.available_tokens:
            return f"TQE_KEYS_FILE: {self._path} cannot be read: no answer"  # the last look hangs
        try:
            file = await trio.to_thread.run_sync(
                read_if_changed,
                self._path,
                self._signature,
                abandon_on_cancel=True,
                limiter=self._thread,
            )
        except ConfigurationError as error:
            return str(error)
        if file is not None:
            self._take(file)
            logger.info("TQE_KEYS_FILE: read again, it has %d keys now", len(file.keys))
        return ""

    def _tell(self, trouble: str) -> None:
        """Once for each trouble, not each second."""
        if trouble and trouble != self._told:
            logger.error("%s; the %d keys known before stay in force", trouble, len(self.keys))
            since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            self.trouble = (
                f"TQE_KEYS_FILE cannot be used since {since}, and the keys known before stay in "
                "force; the log says why"
            )
        elif self._told and not trouble:
            logger.info("TQE_KEYS_FILE: can be used again")
            self.trouble = None
        self._told = trouble


def _has_expired(key: NamedKey) -> bool:
    return key.expires_at is not None and datetime.now(UTC) >= key.expires_at


def _refusal(detail: str, parameters: str = "") -> ProblemError:
    challenge = f'Bearer realm="{REALM}"{parameters}'
    return ProblemError(
        "unauthorized", detail, field="Authorization", headers=(("WWW-Authenticate", challenge),)
    )
