"""Credentials from botocore's chain: environment, profile, SSO, container, instance role, ...

botocore blocks, so whatever may read a file or ask a server runs in a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import trio

from task_queue_engine.backends.aws.wire.errors import (
    CredentialSourceInTrouble,
    CredentialsUnusable,
)
from task_queue_engine.backends.aws.wire.sigv4 import Credentials
from task_queue_engine.errors import BackendRefused

# Seconds before they expire when credentials are not used any more without a successful renewal.
# botocore renews them from 15 minutes before on, and so do we.
_MANDATORY = 60
# Seconds that a call waits for a renewal that is not mandatory yet.
_RENEWAL_WAIT = 2.0
# Seconds between two looks at their age: cheap, but not for every request.
_LOOK_EVERY = 1.0
# Seconds between two tries to renew what is still good.
_RENEW_EVERY = 30.0
# Seconds between two walks through the chain for credentials that a service refuses.
_RELOAD_EVERY = 5.0

# No connection, or none that held: of a source that is asked over the network.
_PASSING = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.MetadataRetrievalError,
)

# Any: botocore has no types. Called in a thread; returns botocore's credentials object or None.
Load = Callable[[], Any]

# botocore's names for its providers, in words.
_ORIGINS = {
    "env": "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "shared-credentials-file": "of the profile in ~/.aws/credentials",
    "config-file": "of the profile in ~/.aws/config",
    "custom-process": "of the profile's credential_process",
    "container-role": "of the container's role",
    "iam-role": "of the instance's role",
    "assume-role": "of the role that the profile assumes",
    "assume-role-with-web-identity": "of AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE",
    "sso": "of the profile's single sign-on",
}


class CredentialSource:
    """The credentials to sign with. Renewed by whichever call finds them old: one at a time asks
    for new ones, the others go on with the old for as long as these are good."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._chain: Any = None
        self._current: Credentials | None = None
        self._look_at = 0.0
        self._renewing = False
        """A renewal was begun and its result not taken yet."""
        self._reload_at = 0.0
        self._failed_at = -1.0
        self._failure: str | None = None
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(4)

    @property
    def origin(self) -> str:
        """Where they are from, to follow on "the credentials"; empty where that is not known."""
        return _ORIGINS.get(getattr(self._chain, "method", ""), "")

    async def start(self) -> None:
        """Find the first ones.

        Raises:
            BackendRefused: there are none, or what there is cannot be used.
            CredentialSourceInTrouble: another try may help.
        """
        try:
            self._current = await self._in_thread(self._load_all)
        except CredentialSourceInTrouble:
            raise
        except CredentialsUnusable as error:
            raise BackendRefused(str(error)) from error

    def peek(self) -> Credentials | None:
        """The current ones, unless it is time to look at them: then `get` does."""
        return self._current if trio.current_time() < self._look_at else None

    async def get(self) -> Credentials:
        """
        Raises:
            CredentialsUnusable: about to expire, and not to be renewed.
        """
        if self._current is None or self._must_renew():
            async with self._lock:
                return await self._renew()
        now = trio.current_time()
        self._look_at = now + _LOOK_EVERY
        if self._renewing or self._may_renew():
            self._look_at = now + _RENEW_EVERY  # until then the others take the old ones
            async with self._lock:
                await self._renew_if_quick()
        return self._current

    async def reload(self, refused: Credentials) -> bool:
        """A service refused these: go through the chain again, for they may have been replaced
        in a file or at their source. At most every 5 seconds.

        Returns:
            Whether there are others now.

        Raises:
            CredentialsUnusable: none are to be had.
        """
        async with self._lock:
            if self._current == refused and trio.current_time() >= self._reload_at:
                self._reload_at = trio.current_time() + _RELOAD_EVERY
                self._current = await self._in_thread(self._load_all)
            return self._current != refused

    async def _renew(self) -> Credentials:
        if self._failure is not None and trio.current_time() < self._failed_at + _LOOK_EVERY:
            raise CredentialsUnusable(self._failure)  # of the call that had the lock before us
        try:
            self._current = await self._in_thread(self._freeze)
        except CredentialsUnusable as error:
            self._failed_at, self._failure = trio.current_time(), str(error)
            raise
        self._failure = None
        return self._current

    async def _renew_if_quick(self) -> None:
        self._renewing = True
        with trio.move_on_after(_RENEWAL_WAIT):
            with contextlib.suppress(CredentialsUnusable):  # there is time for another try
                self._current = await self._in_thread(self._freeze)
            self._renewing = False

    def _may_renew(self) -> bool:
        return self._refresh_needed(None)

    def _must_renew(self) -> bool:
        return self._refresh_needed(_MANDATORY)

    def _refresh_needed(self, within: float | None) -> bool:
        check = getattr(self._chain, "refresh_needed", None)  # static ones have none
        return check is not None and bool(check(within))

    async def _in_thread(self, function: Callable[[], Credentials]) -> Credentials:
        # Abandoned when cancelled: it ends by itself, and botocore keeps what it found.
        return await trio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=self._threads
        )

    def _load_all(self) -> Credentials:
        try:
            chain = self._load()
        # Providers run programs, read files and call services: anything may come out of them.
        except Exception as error:
            raise _unusable("cannot get AWS credentials", error) from error
        if chain is None:
            raise CredentialsUnusable(
                "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, or give the container or instance a role"
            )
        self._chain = chain
        return self._freeze()

    def _freeze(self) -> Credentials:
        try:
            frozen = self._chain.get_frozen_credentials()
        # As above: a renewal asks wherever they come from.
        except Exception as error:
            raise _unusable("cannot renew AWS credentials", error) from error
        if not frozen.access_key or not frozen.secret_key:
            raise CredentialsUnusable(f"{self._named()} are incomplete")
        parts = (frozen.access_key, frozen.secret_key, frozen.token)
        if not all(part is None or (part.isascii() and part.isprintable()) for part in parts):
            raise CredentialsUnusable(f"{self._named()} contain a character that no key has")
        return Credentials(*parts)

    def _named(self) -> str:
        return f"the AWS credentials {self.origin}".rstrip()


def _unusable(what: str, error: Exception) -> CredentialsUnusable:
    kind = CredentialSourceInTrouble if _passes(error) else CredentialsUnusable
    return kind(f"{what}: {_say(error)}")


def _passes(error: Exception) -> bool:
    if isinstance(error, botocore.exceptions.ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    if isinstance(error, botocore.exceptions.CredentialRetrievalError):
        # What the container's provider makes of a MetadataRetrievalError.
        return bool(error.kwargs.get("provider") == "container-role")
    return isinstance(error, _PASSING)


def _say(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
