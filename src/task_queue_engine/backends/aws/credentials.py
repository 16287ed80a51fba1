"""Credentials from botocore's chain: environment, profile, SSO, container, instance role, ...

botocore blocks, so everything here that may read a file or ask a server runs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from task_queue_engine.backends.aws.errors import CredentialsUnusable
from task_queue_engine.backends.aws.signing import Credentials
from task_queue_engine.errors import BackendRefused

_MANDATORY = 10 * 60
"""Seconds before the end of their life when credentials are no longer used without a try to renew
them; botocore tries from 15 minutes on."""
_PATIENCE = 2.0
"""How long one call waits for a renewal that there is still time for."""
_LOOK_EVERY = 1.0
_RETRY_EVERY = 30.0
_RELOAD_EVERY = 5.0

# Any: botocore has no types. Called in a thread; returns botocore's credentials object or None.
Load = Callable[[], Any]


class CredentialSource:
    """The credentials to sign with now. Renewed by whichever call finds them old: one call at a
    time asks, the others go on with the old ones for as long as these are good."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._chain: Any = None
        self._current: Credentials | None = None
        self._look_at = 0.0
        self._reload_at = 0.0
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(4)

    async def start(self) -> None:
        """Find the first ones.

        Raises:
            BackendRefused: there are none, or what there is cannot be used.
        """
        try:
            self._current = await self._in_thread(self._load_all)
        except CredentialsUnusable as error:
            raise BackendRefused(str(error)) from error

    async def get(self) -> Credentials:
        """
        Raises:
            CredentialsUnusable: about to expire, and not to be renewed.
        """
        now = trio.current_time()
        if self._current is not None and now < self._look_at:
            return self._current
        return await self._look()

    async def _look(self) -> Credentials:
        if self._current is None:
            raise CredentialsUnusable("there are no AWS credentials yet")
        if self._needs_renewal():
            if not self._needs_renewal(_MANDATORY):
                if not self._lock.locked():
                    async with self._lock:
                        await self._renew_if_quick()
                return self._current
            async with self._lock:
                if self._needs_renewal(_MANDATORY):
                    self._current = await self._in_thread(self._freeze)
        self._look_at = trio.current_time() + _LOOK_EVERY
        return self._current

    async def _renew_if_quick(self) -> None:
        self._look_at = trio.current_time() + _RETRY_EVERY
        with trio.move_on_after(_PATIENCE):
            self._current = await self._in_thread(self._freeze)

    async def reload(self, refused: Credentials) -> bool:
        """A service has refused these: go through the chain again, for somebody may have replaced
        them in a file or at their source. At most every 5 seconds.

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

    def _needs_renewal(self, within: float | None = None) -> bool:
        check = getattr(self._chain, "refresh_needed", None)  # static ones have none
        return check is not None and bool(check(within))

    async def _in_thread(self, function: Callable[[], Credentials]) -> Credentials:
        # Abandoned when cancelled: it ends by itself, and what it found is botocore's to keep.
        return await trio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=self._threads
        )

    def _load_all(self) -> Credentials:
        try:
            chain = self._load()
        # Providers run programs, read files and call services: anything may come out of them.
        except Exception as error:
            raise CredentialsUnusable(
                f"cannot get AWS credentials: {_first_line(error)}"
            ) from error
        if chain is None:
            raise CredentialsUnusable(
                "no AWS credentials found (environment, ~/.aws, container or instance role)"
            )
        self._chain = chain
        return self._freeze()

    def _freeze(self) -> Credentials:
        try:
            frozen = self._chain.get_frozen_credentials()
        # As above: a renewal is a call to wherever they come from.
        except Exception as error:
            raise CredentialsUnusable(
                f"cannot renew the AWS credentials: {_first_line(error)}"
            ) from error
        parts = (frozen.access_key, frozen.secret_key, frozen.token)
        if not all(part is None or (part.isascii() and part.isprintable()) for part in parts):
            raise CredentialsUnusable("the AWS credentials contain a character no key has")
        return Credentials(*parts)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
