"""The wire client: SQS and DynamoDB by the AWS JSON 1.0 protocol, on trio.

Each service has two pools of connections, one for long polls and one for everything else, so that
polls which wait for messages never keep an ack waiting.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import botocore.session
import trio

from task_queue_engine.backends.aws import protocol
from task_queue_engine.backends.aws.credentials import CredentialSource
from task_queue_engine.backends.aws.endpoints import (
    SERVICES,
    Endpoint,
    Service,
    resolve_endpoints,
    resolve_region,
    tls_context,
)
from task_queue_engine.backends.aws.errors import (
    AwsRequestFailed,
    CredentialsUnusable,
    EndpointUnreachable,
    Throttled,
    UnexpectedAnswer,
)
from task_queue_engine.backends.aws.pool import ConnectionPool
from task_queue_engine.backends.aws.retrying import (
    CLEAR_SKEW,
    MAX_ATTEMPTS,
    Kind,
    RetryQuota,
    backoff,
    classify,
)
from task_queue_engine.backends.aws.signing import Credentials, Signer
from task_queue_engine.backends.aws.statistics import ClientStatistics, Tally
from task_queue_engine.backends.aws.transport import (
    Connection,
    MalformedAnswer,
    Response,
    TransportError,
)
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendError, BackendUnavailable

_NAMES: dict[Service, str] = {"sqs": "SQS", "dynamodb": "DynamoDB"}


@dataclass(slots=True)
class _Line:
    """What calls to one service share."""

    service: Service
    endpoint: Endpoint
    signer: Signer
    ordinary: ConnectionPool
    long_polls: ConnectionPool
    quota: RetryQuota = field(default_factory=RetryQuota)


@dataclass(slots=True)
class _Failure:
    """One attempt that did not succeed."""

    kind: Kind
    error: BackendError
    retry_after: float | None = None
    server_time: float | None = None


class AwsClient:
    """
    Args:
        region: None takes AWS_REGION, AWS_DEFAULT_REGION or the profile's.
        endpoints: URLs that win over AWS_ENDPOINT_URL and its kin.
        connect_timeout: seconds for connecting, TLS included.
        request_timeout: seconds for one attempt, waiting for a free connection included; a long
            poll has its WaitTimeSeconds on top.
        total_timeout: the same for a call with all its retries, where `call` is not told another.
        max_connections: of each of the two pools of each service.
        max_idle: seconds after which an unused connection is closed.
        max_response_bytes: a larger answer is an error.
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
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter, not a secret
        self._lines: dict[Service, _Line] = {}
        self._credentials = CredentialSource(_load_credentials)
        self._tallies: dict[tuple[Service, str], Tally] = {}
        self._connections_opened = 0
        self._clock_offset = 0.0

    def open(self) -> AbstractAsyncContextManager[None]:
        """The block in which calls can be made. Entering it finds region, endpoints and
        credentials, and sends the services nothing.

        Raises:
            ConfigurationError: naming the variable.
            BackendRefused: no usable credentials.
        """
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        endpoints, tls = await trio.to_thread.run_sync(self._resolve, abandon_on_cancel=True)
        await self._credentials.start()
        self._lines = {each: self._line(each, endpoints[each], tls) for each in SERVICES}
        try:
            yield
        finally:
            lines, self._lines = self._lines, {}
            for line in lines.values():
                line.ordinary.close()
                line.long_polls.close()

    @property
    def region(self) -> str:
        """The one requests are signed for; inside `open` only."""
        return self._lines["sqs"].endpoint.region

    def endpoint(self, service: Service) -> str:
        """The service's URL; inside `open` only."""
        return self._lines[service].endpoint.url

    def statistics(self) -> ClientStatistics:
        return ClientStatistics(
            operations={key: tally.snapshot() for key, tally in self._tallies.items()},
            connections_opened=self._connections_opened,
            clock_offset=self._clock_offset,
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
            parameters: as in the API reference, JSON types.
            long_poll: use the connections kept for that, and wait for `WaitTimeSeconds` longer.
            timeout: seconds for all attempts together.

        Returns:
            The answer's JSON.

        Raises:
            BackendUnavailable: throttled, failing, silent, unreachable, damaged answers, expired
                credentials: after the retries. Its subclasses in `errors` say which.
            AwsRequestFailed: what retrying does not help.
        """
        line = self._lines.get(service)
        if line is None:
            raise RuntimeError("an AwsClient is used inside its open()")
        tally = self._tallies.get((service, operation))
        if tally is None:
            tally = self._tallies[service, operation] = Tally()
        body = protocol.encode(parameters)
        waits = float(parameters.get("WaitTimeSeconds", 20)) if long_poll else 0.0
        deadline = trio.current_time() + (
            self._total_timeout + waits if timeout is None else timeout
        )
        call = _Call(
            line, operation, body, long_poll, self._request_timeout + waits, deadline, tally
        )
        try:
            return await self._attempt_until_done(call)
        except BackendError:
            tally.failures += 1
            raise

    async def _attempt_until_done(self, call: _Call) -> dict[str, Any]:
        quota = call.line.quota
        paid: int | None = None
        attempt = 0
        while True:
            attempt += 1
            credentials = await self._credentials.get()
            outcome = await self._attempt(call, credentials)
            if not isinstance(outcome, _Failure):
                quota.give_back(paid)
                return outcome
            if outcome.kind is Kind.THROTTLED:
                call.tally.throttles += 1
            if not await self._can_mend(outcome, credentials):
                raise outcome.error
            delay = backoff(
                call.line.service,
                outcome.kind,
                attempt,
                self._rng,
                retry_after=outcome.retry_after,
            )
            if (
                attempt >= MAX_ATTEMPTS[call.line.service]
                or trio.current_time() + delay >= call.deadline
                or (paid := quota.take(outcome.kind)) is None
            ):
                if isinstance(outcome.error, BackendUnavailable):
                    outcome.error.retry_after = max(1.0, delay)
                raise outcome.error
            call.tally.retries += 1
            await trio.sleep(delay)

    async def _can_mend(self, failure: _Failure, credentials: Credentials) -> bool:
        """Whether another attempt may help; does what that takes."""
        kind = failure.kind
        if kind is Kind.FINAL:
            return False
        if kind in (Kind.TRANSIENT, Kind.THROTTLED):
            return True
        if kind in (Kind.CLOCK_SKEW, Kind.MAYBE_CLOCK_SKEW) and failure.server_time is not None:
            offset = failure.server_time - self._clock.now().timestamp()
            changed = abs(offset - self._clock_offset)
            if changed > (1.0 if kind is Kind.CLOCK_SKEW else CLEAR_SKEW):
                self._clock_offset = offset
                return True
        if kind is Kind.CLOCK_SKEW:
            return False
        return await self._credentials.reload(credentials)

    async def _attempt(self, call: _Call, credentials: Credentials) -> dict[str, Any] | _Failure:
        now = trio.current_time()
        limit = min(call.deadline, now + call.attempt_timeout)
        response: Response | None = None
        try:
            with trio.CancelScope(deadline=limit):
                response = await self._exchange(call, credentials)
        except MalformedAnswer as error:
            return _Failure(Kind.TRANSIENT, UnexpectedAnswer(call.say(str(error))))
        except TransportError as error:
            return _Failure(Kind.TRANSIENT, EndpointUnreachable(call.say(str(error))))
        if response is None:
            what = call.say(f"no answer within {limit - now:.3g} s")
            return _Failure(Kind.TRANSIENT, EndpointUnreachable(what))
        return self._judge(call, response)

    async def _exchange(self, call: _Call, credentials: Credentials) -> Response:
        line = call.line
        pool = line.long_polls if call.long_poll else line.ordinary
        fresh = False
        while True:
            connection = await pool.acquire(fresh=fresh)
            reused = connection.used
            call.tally.requests += 1
            request = protocol.build_request(
                line.endpoint,
                line.service,
                call.operation,
                call.body,
                signer=line.signer,
                credentials=credentials,
                at=self._clock.now().timestamp() + self._clock_offset,
            )
            try:
                return await connection.request(request)
            except TransportError as error:
                # A server may close an idle connection just as we use it: not worth a retry's
                # wait and price, and on a new connection it cannot happen again.
                if not reused or error.answered:
                    raise
                fresh = True
            finally:
                pool.release(connection)

    def _judge(self, call: _Call, response: Response) -> dict[str, Any] | _Failure:
        status = response.status
        try:
            protocol.check(response)
            document = protocol.decode(response)
        except protocol.NotTheProtocol as error:
            return _Failure(
                Kind.THROTTLED if status == 429 else Kind.TRANSIENT,
                UnexpectedAnswer(call.say(str(error))),
                protocol.retry_after(response),
            )
        if status == 200:
            if "ConsumedCapacity" in document:
                call.tally.capacity_units += protocol.capacity_units(document)
            return document
        code, message = protocol.error_of(response, document)
        kind = classify(status, code, message)
        if not code and kind is Kind.FINAL:
            what = call.say(f"HTTP {status} without an error code")
            return _Failure(Kind.TRANSIENT, UnexpectedAnswer(what))
        return _Failure(
            kind,
            self._error(call, kind, status, code, message, document),
            protocol.retry_after(response),
            protocol.server_time(response),
        )

    def _error(
        self,
        call: _Call,
        kind: Kind,
        status: int,
        code: str,
        message: str,
        document: dict[str, Any],
    ) -> BackendError:
        said = call.say(f"{code or f'HTTP {status}'}: {message or 'no message'}")
        if kind is Kind.THROTTLED:
            return Throttled(said)
        if kind is Kind.TRANSIENT:
            return BackendUnavailable(said)
        if kind is Kind.EXPIRED:
            return CredentialsUnusable(said)
        return AwsRequestFailed(code, message, status, request=call.name, answer=document)

    def _resolve(self) -> tuple[dict[Service, Endpoint], ssl.SSLContext]:
        session = botocore.session.Session()
        region = resolve_region(session, self._region)
        return resolve_endpoints(session, region, self._given_endpoints), tls_context(session)

    def _line(self, service: Service, endpoint: Endpoint, tls: ssl.SSLContext) -> _Line:
        async def connect() -> Connection:
            connection = await Connection.open(
                endpoint,
                tls=tls,
                timeout=self._connect_timeout,
                max_response_bytes=self._max_response_bytes,
            )
            self._connections_opened += 1
            return connection

        def pool() -> ConnectionPool:
            return ConnectionPool(connect, size=self._max_connections, max_idle=self._max_idle)

        return _Line(
            service=service,
            endpoint=endpoint,
            signer=Signer(service=service, region=endpoint.region),
            ordinary=pool(),
            long_polls=pool(),
        )


@dataclass(slots=True)
class _Call:
    """One `call`, through all its attempts."""

    line: _Line
    operation: str
    body: bytes
    long_poll: bool
    attempt_timeout: float
    deadline: float
    tally: Tally

    @property
    def name(self) -> str:
        return f"{_NAMES[self.line.service]} {self.operation}"

    def say(self, what: str) -> str:
        return f"{self.name} at {self.line.endpoint.url}: {what}"


def _load_credentials() -> Any:
    # A session of its own each time: one remembers what it has read from files.
    return botocore.session.Session().get_credentials()
