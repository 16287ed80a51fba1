"""The wire client: SQS and DynamoDB by the AWS JSON 1.0 protocol, on trio.

From here inwards: `lane` (one attempt), `pool` and `transport` (connections), `protocol` and
`signing` (bytes), `answers` and `retrying` (what an answer calls for).
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import botocore.exceptions
import botocore.session
import trio

from task_queue_engine.backends.aws.wire import json_protocol as protocol
from task_queue_engine.backends.aws.wire.answers import Failure
from task_queue_engine.backends.aws.wire.channel import Call, Lane, ServerClock
from task_queue_engine.backends.aws.wire.connection import Connection
from task_queue_engine.backends.aws.wire.credentials import CredentialSource, Load
from task_queue_engine.backends.aws.wire.endpoints import (
    SERVICES,
    Endpoint,
    Service,
    resolve_endpoints,
    resolve_region,
    tls_context,
)
from task_queue_engine.backends.aws.wire.errors import CredentialsUnusable
from task_queue_engine.backends.aws.wire.pool import ConnectionPool
from task_queue_engine.backends.aws.wire.retry import CLEAR_SKEW, MAX_ATTEMPTS, Kind, backoff
from task_queue_engine.backends.aws.wire.sigv4 import Credentials, Signer
from task_queue_engine.backends.aws.wire.statistics import ClientStatistics, Tally
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendError, BackendUnavailable, ConfigurationError

__all__ = ["AwsClient", "Service"]

_NO_WAIT = 0.0
_DEFAULT_WAIT = 20.0


def _load_credentials() -> Any:
    # A session of its own each time: one remembers what it has read from files.
    return botocore.session.Session().get_credentials()


class AwsClient:
    """For one run of trio, in the process that opened it: a forked child would talk into its
    parent's connections, so start processes by spawn.

    Args:
        region: None takes AWS_REGION, AWS_DEFAULT_REGION or the profile's.
        endpoints: URLs that win over AWS_ENDPOINT_URL and its kin.
        connect_timeout: seconds for connecting, TLS included.
        request_timeout: seconds for one attempt, waiting for a free connection included. A long
            poll has its WaitTimeSeconds on top.
        total_timeout: the same for a call with all its retries, where `call` is not told another.
        max_connections: for each service, and as many again for its long polls.
        max_idle: seconds after which an unused connection is closed.
        max_response_bytes: a larger answer is an error.
        load_credentials: called in a thread; returns a botocore credentials object, or None.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        endpoints: Mapping[Service, str] | None = None,
        connect_timeout: float = 5.0,
        request_timeout: float = 10.0,
        total_timeout: float = 30.0,
        max_connections: int = 64,
        max_idle: float = 50.0,
        max_response_bytes: int = 64 * 2**20,
        load_credentials: Load = _load_credentials,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._region = region
        self._given_endpoints = dict(endpoints or {})
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._total_timeout = total_timeout
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._max_response_bytes = max_response_bytes
        self._clock = ServerClock(clock or SystemClock())
        self._rng = rng or random.Random()  # noqa: S311  # jitter, not a secret
        self._credentials = CredentialSource(load_credentials)
        self._ordinary: dict[Service, Lane] = {}
        self._long_polls: dict[Service, Lane] = {}
        self._tallies: dict[tuple[Service, str], Tally] = {}
        self._connections_opened = 0

    def open(self) -> AbstractAsyncContextManager[None]:
        """The block in which calls can be made. Entering it finds region, endpoints and
        credentials, and sends the two services nothing.

        Raises:
            ConfigurationError: naming the variable.
            BackendRefused: no usable credentials.
        """
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        if self._ordinary:
            raise RuntimeError("this AwsClient is open already")
        endpoints, tls = await trio.to_thread.run_sync(self._resolve, abandon_on_cancel=True)
        await self._credentials.start()
        for service in SERVICES:
            self._ordinary[service] = self._lane(service, endpoints[service], tls)
            self._long_polls[service] = self._lane(service, endpoints[service], tls)
        try:
            yield
        finally:
            for lane in (*self._ordinary.values(), *self._long_polls.values()):
                lane.pool.close()
            self._ordinary.clear()
            self._long_polls.clear()

    @property
    def region(self) -> str:
        """The one that requests are signed for; inside `open` only."""
        return self._ordinary["sqs"].endpoint.region

    def endpoint(self, service: Service) -> str:
        """The service's URL; inside `open` only."""
        return self._ordinary[service].endpoint.url

    @property
    def credentials_origin(self) -> str:
        """Where they are from, to follow on "the credentials"; empty where that is not known."""
        return self._credentials.origin

    def statistics(self) -> ClientStatistics:
        return ClientStatistics(
            operations={key: tally.snapshot() for key, tally in self._tallies.items()},
            connections_opened=self._connections_opened,
            clock_offset=self._clock.offset,
        )

    async def call(
        self,
        service: Service,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        long_poll: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """One API call, retried by standard mode.

        Cancelling it closes its connection; but an answer that has begun to arrive is read to its
        end (at most 2 seconds) and returned.

        Args:
            operation: the API's name, "SendMessageBatch".
            parameters: as in the API reference, of JSON types.
            long_poll: use the connections kept for that, and wait `WaitTimeSeconds` longer.
            timeout: seconds for all attempts together.

        Returns:
            The answer's JSON.

        Raises:
            BackendUnavailable: throttled, failing, silent, unreachable, damaged answers, expired
                credentials: after the retries. Its subclasses in `errors` say which.
            AwsRequestFailed: what retrying does not help.
        """
        lane = (self._long_polls if long_poll else self._ordinary).get(service)
        if lane is None:
            raise RuntimeError("an AwsClient is used inside its open()")
        tally = self._tallies.get((service, operation))
        if tally is None:
            tally = self._tallies[service, operation] = Tally()
        waits = float(parameters.get("WaitTimeSeconds", _DEFAULT_WAIT)) if long_poll else _NO_WAIT
        total = self._total_timeout + waits if timeout is None else timeout
        call = Call(
            operation,
            protocol.encode(parameters),
            self._request_timeout + waits,
            total,
            trio.current_time() + total,
            tally,
        )
        try:
            document = await self._attempt_until_done(lane, call)
        except BackendError:
            tally.failures += 1
            raise
        if "ConsumedCapacity" in document:
            tally.capacity_units += sum(protocol.capacity_units(document))
        return document

    async def _attempt_until_done(self, lane: Lane, call: Call) -> dict[str, Any]:
        paid: int | None = None
        attempt = 0
        while True:
            attempt += 1
            credentials = self._credentials.peek() or await self._get_credentials(lane, call)
            outcome = await lane.attempt(call, credentials)
            if not isinstance(outcome, Failure):
                lane.quota.give_back(paid)
                return outcome
            if outcome.kind is Kind.THROTTLED:
                call.tally.throttles += 1
            if not await self._can_mend(outcome, call, credentials):
                raise outcome.error
            delay = backoff(
                lane.service, outcome.kind, attempt, self._rng, retry_after=outcome.retry_after
            )
            if (
                attempt >= MAX_ATTEMPTS[lane.service]
                or trio.current_time() + delay >= call.deadline
                or (paid := lane.quota.take(outcome.kind)) is None
            ):
                if isinstance(outcome.error, BackendUnavailable):
                    outcome.error.retry_after = max(1.0, delay)
                raise outcome.error
            call.tally.retries += 1
            await trio.sleep(delay)

    async def _get_credentials(self, lane: Lane, call: Call) -> Credentials:
        with trio.CancelScope(deadline=call.deadline):
            return await self._credentials.get()
        said = f"{lane.name(call)}: the AWS credentials were not renewed within {call.timeout:g} s"
        raise CredentialsUnusable(said)

    async def _can_mend(self, failure: Failure, call: Call, credentials: Credentials) -> bool:
        """Whether another attempt may help; does what that takes."""
        match failure.kind:
            case Kind.FINAL:
                return False
            case Kind.TRANSIENT | Kind.THROTTLED:
                return True
            case Kind.CLOCK_SKEW:
                if failure.server_time is not None:
                    self._clock.set(failure.server_time)
                return True
            case Kind.MAYBE_CLOCK_SKEW if (
                failure.server_time is not None
                and abs(failure.server_time - call.signed_at) > CLEAR_SKEW
            ):
                self._clock.set(failure.server_time)
                return True
        with trio.CancelScope(deadline=call.deadline):
            return await self._credentials.reload(credentials)
        return False

    def _resolve(self) -> tuple[dict[Service, Endpoint], ssl.SSLContext | None]:
        try:
            session = botocore.session.Session()
            region = resolve_region(session, self._region)
            endpoints = resolve_endpoints(session, region, self._given_endpoints)
            secured = any(endpoint.tls for endpoint in endpoints.values())
            return endpoints, tls_context(session) if secured else None
        except botocore.exceptions.ProfileNotFound as error:
            raise ConfigurationError(str(error), variable="AWS_PROFILE") from None
        except botocore.exceptions.BotoCoreError as error:  # a broken ~/.aws/config, mostly
            raise ConfigurationError(f"AWS configuration: {error}") from None

    def _lane(self, service: Service, endpoint: Endpoint, tls: ssl.SSLContext | None) -> Lane:
        async def connect() -> Connection:
            connection = await Connection.open(
                endpoint,
                tls=tls if endpoint.tls else None,
                timeout=self._connect_timeout,
                max_response_bytes=self._max_response_bytes,
            )
            self._connections_opened += 1
            return connection

        return Lane(
            service=service,
            endpoint=endpoint,
            pool=ConnectionPool(connect, size=self._max_connections, max_idle=self._max_idle),
            signer=Signer(service=service, region=endpoint.region),
            clock=self._clock,
        )
