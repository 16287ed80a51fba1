"""The wire client: SQS and DynamoDB by the AWS JSON 1.0 protocol, on trio.

From here inwards: `channel` (one attempt), `pool` and `connection`, `json_protocol` and `sigv4`
(bytes), `answers`, `error_codes` and `retry` (what an answer calls for).
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import botocore.exceptions
import botocore.session
import trio

from task_queue_engine.backends.aws.wire import json_protocol
from task_queue_engine.backends.aws.wire.answers import FailedAttempt
from task_queue_engine.backends.aws.wire.channel import ApiCall, ServerClock, ServiceChannel
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
from task_queue_engine.backends.aws.wire.retry import CLEAR_SKEW, MAX_ATTEMPTS, FailureKind, backoff
from task_queue_engine.backends.aws.wire.sigv4 import Credentials, Signer
from task_queue_engine.backends.aws.wire.statistics import ClientStatistics, OperationStatistics
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendError, BackendUnavailable, ConfigurationError

__all__ = ["AwsClient", "Service"]

# Seconds of a long poll that does not say how long: the queue says it, and 20 is the most.
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
        self._ordinary: dict[Service, ServiceChannel] = {}
        self._long_polls: dict[Service, ServiceChannel] = {}
        self._counts: dict[tuple[Service, str], OperationStatistics] = {}
        self._connections_opened = 0
        self._answered: set[Service] = set()

    def open(self) -> AbstractAsyncContextManager[None]:
        """The block in which calls can be made. Entering it finds region, endpoints and
        credentials, and sends the two services nothing.

        Raises:
            ConfigurationError: naming the variable.
            BackendRefused: no usable credentials.
            BackendUnavailable: the service that gives them is in trouble.
        """
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        if self._ordinary:
            raise RuntimeError("this AwsClient is open already")
        endpoints, tls = await trio.to_thread.run_sync(self._resolve, abandon_on_cancel=True)
        await self._credentials.start()
        for service in SERVICES:
            self._ordinary[service] = self._channel(service, endpoints[service], tls)
            self._long_polls[service] = self._channel(service, endpoints[service], tls)
        try:
            yield
        finally:
            for channel in (*self._ordinary.values(), *self._long_polls.values()):
                channel.pool.close()
            self._ordinary.clear()
            self._long_polls.clear()

    @property
    def region(self) -> str:
        """The one that requests are signed for; inside `open` only."""
        return self._ordinary["sqs"].endpoint.region

    def endpoint(self, service: Service) -> str:
        """The service's URL; inside `open` only."""
        return self._ordinary[service].endpoint.url

    def has_answered(self, service: Service) -> bool:
        """Whether a call to it has succeeded: then its address and port are right, and what goes
        wrong with them passes."""
        return service in self._answered

    @property
    def credentials_origin(self) -> str:
        """Where they are from, to follow on "the credentials"; empty where that is not known."""
        return self._credentials.origin

    def clock_skew(self, service: Service) -> float:
        """Seconds that the service's clock is ahead of this machine's, to within a few; 0 where it
        has not answered yet."""
        channel = self._ordinary.get(service)
        return 0.0 if channel is None else channel.clock_skew()

    def statistics(self) -> ClientStatistics:
        return ClientStatistics(
            operations={key: replace(counts) for key, counts in self._counts.items()},
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
        channel = (self._long_polls if long_poll else self._ordinary).get(service)
        if channel is None:
            raise RuntimeError("an AwsClient is used inside its open()")
        counts = self._counts.get((service, operation))
        if counts is None:
            counts = self._counts[service, operation] = OperationStatistics()
        waits = float(parameters.get("WaitTimeSeconds", _DEFAULT_WAIT)) if long_poll else 0.0
        total = self._total_timeout + waits if timeout is None else timeout
        call = ApiCall(
            operation,
            json_protocol.encode(parameters),
            self._request_timeout + waits,
            total,
            trio.current_time() + total,
            counts,
        )
        try:
            document = await self._attempt_until_done(channel, call)
        except BackendError:
            counts.failures += 1
            raise
        if "ConsumedCapacity" in document:
            counts.capacity_units += sum(json_protocol.capacity_units(document))
        return document

    async def _attempt_until_done(self, channel: ServiceChannel, call: ApiCall) -> dict[str, Any]:
        paid: int | None = None
        attempt = 0
        while True:
            attempt += 1
            credentials = self._credentials.peek() or await self._get_credentials(channel, call)
            outcome = await channel.attempt(call, credentials)
            if not isinstance(outcome, FailedAttempt):
                channel.quota.give_back(paid)
                self._answered.add(channel.service)
                return outcome
            if outcome.kind is FailureKind.THROTTLED:
                call.counts.throttles += 1
            if not await self._can_mend(outcome, call, credentials):
                raise outcome.error
            delay = backoff(
                channel.service, outcome.kind, attempt, self._rng, retry_after=outcome.retry_after
            )
            if (
                attempt >= MAX_ATTEMPTS[channel.service]
                or trio.current_time() + delay >= call.deadline
                or (paid := channel.quota.take(outcome.kind)) is None
            ):
                if isinstance(outcome.error, BackendUnavailable):
                    outcome.error.retry_after = max(1.0, delay)
                raise outcome.error
            call.counts.retries += 1
            await trio.sleep(delay)

    async def _get_credentials(self, channel: ServiceChannel, call: ApiCall) -> Credentials:
        with trio.CancelScope(deadline=call.deadline):
            return await self._credentials.get()
        said = (
            f"{channel.name(call)}: the AWS credentials were not renewed within {call.timeout:g} s"
        )
        raise CredentialsUnusable(said)

    async def _can_mend(
        self, failure: FailedAttempt, call: ApiCall, credentials: Credentials
    ) -> bool:
        """Whether another attempt may help; does what that takes."""
        match failure.kind:
            case FailureKind.FINAL:
                return False
            case FailureKind.TRANSIENT | FailureKind.THROTTLED:
                return True
            case FailureKind.CLOCK_SKEW:
                if failure.server_time is not None:
                    self._clock.set(failure.server_time)
                return True
            case FailureKind.MAYBE_CLOCK_SKEW if (
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
            # It says what is set and sends nothing. Its handlers are for what is sent, and nine
            # tenths of the 9 ms that it would take to make.
            session = botocore.session.Session(include_builtin_handlers=False)
            region = resolve_region(session, self._region)
            endpoints = resolve_endpoints(session, region, self._given_endpoints)
            secured = any(endpoint.tls for endpoint in endpoints.values())
            return endpoints, tls_context(session) if secured else None
        except botocore.exceptions.ProfileNotFound as error:
            raise ConfigurationError(str(error), variable="AWS_PROFILE") from None
        except botocore.exceptions.BotoCoreError as error:  # a broken ~/.aws/config, mostly
            raise ConfigurationError(f"AWS configuration: {error}") from None

    def _channel(
        self, service: Service, endpoint: Endpoint, tls: ssl.SSLContext | None
    ) -> ServiceChannel:
        async def connect() -> Connection:
            connection = await Connection.open(
                endpoint,
                tls=tls if endpoint.tls else None,
                timeout=self._connect_timeout,
                max_response_bytes=self._max_response_bytes,
            )
            self._connections_opened += 1
            return connection

        return ServiceChannel(
            service=service,
            endpoint=endpoint,
            pool=ConnectionPool(connect, size=self._max_connections, max_idle=self._max_idle),
            signer=Signer(service=service, region=endpoint.region),
            clock=self._clock,
        )
