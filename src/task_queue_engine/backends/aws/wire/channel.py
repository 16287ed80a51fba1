"""One service and one kind of call: what its attempts share, and how one attempt is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from task_queue_engine.backends.aws.wire import json_protocol
from task_queue_engine.backends.aws.wire.answers import FailedAttempt, judge
from task_queue_engine.backends.aws.wire.connection import MalformedAnswer, Response, TransportError
from task_queue_engine.backends.aws.wire.endpoints import Endpoint, Service
from task_queue_engine.backends.aws.wire.errors import EndpointUnreachable, UnexpectedAnswer
from task_queue_engine.backends.aws.wire.pool import ConnectionPool
from task_queue_engine.backends.aws.wire.retry import FailureKind, RetryQuota
from task_queue_engine.backends.aws.wire.sigv4 import Credentials, Signer
from task_queue_engine.backends.aws.wire.statistics import OperationStatistics
from task_queue_engine.clock import Clock

NAMES: dict[Service, str] = {"sqs": "SQS", "dynamodb": "DynamoDB"}


@dataclass(slots=True)
class ServerClock:
    """The services' time of day: ours, corrected where they refused it."""

    clock: Clock
    offset: float = 0.0
    """Seconds that they are ahead."""

    def now(self) -> float:
        return self.clock.now().timestamp() + self.offset

    def set(self, server_time: float) -> None:
        self.offset = server_time - self.clock.now().timestamp()


class ApiCall(msgspec.Struct):
    """One `AwsClient.call`, through all its attempts."""

    operation: str
    body: bytes
    attempt_timeout: float
    timeout: float
    deadline: float
    counts: OperationStatistics
    signed_at: float = 0.0
    """The time the last attempt was signed for."""


@dataclass(slots=True)
class ServiceChannel:
    """The way to one service. Long polls have one of their own, so that neither their connections
    nor what their retries cost is missing when something has to be acked."""

    service: Service
    endpoint: Endpoint
    pool: ConnectionPool
    signer: Signer
    clock: ServerClock
    quota: RetryQuota = field(default_factory=RetryQuota)
    heard: tuple[str | None, float] = (None, 0.0)
    """The latest answer's Date header, and when its request was signed."""

    def name(self, call: ApiCall) -> str:
        return f"{NAMES[self.service]} {call.operation} at {self.endpoint.url}"

    def clock_skew(self) -> float:
        """Seconds that the service's clock is ahead of this machine's, by its latest answer: off by
        the second that it tells the time in, and by the time that the answer took."""
        date, signed_at = self.heard
        said = json_protocol.time_of(date)
        return self.clock.offset + (0.0 if said is None else said - signed_at)

    async def attempt(
        self, call: ApiCall, credentials: Credentials
    ) -> dict[str, Any] | FailedAttempt:
        """Send the request once and understand the answer. Raises nothing but Cancelled."""
        limit = min(call.deadline, trio.current_time() + call.attempt_timeout)
        response: Response | None = None
        sent = call.counts.requests
        try:
            with trio.CancelScope(deadline=limit):
                response = await self._exchange(call, credentials)
        except MalformedAnswer as error:
            return FailedAttempt(
                FailureKind.TRANSIENT, UnexpectedAnswer(f"{self.name(call)}: {error}")
            )
        except TransportError as error:
            said = f"{self.name(call)}: {error}"
            return FailedAttempt(
                FailureKind.TRANSIENT, EndpointUnreachable(said, misdirected=error.misdirected)
            )
        if response is None:
            what = "answer" if call.counts.requests > sent else "connection"
            limit = call.timeout if limit == call.deadline else call.attempt_timeout
            said = f"{self.name(call)}: no {what} within {limit:g} s"
            return FailedAttempt(FailureKind.TRANSIENT, EndpointUnreachable(said))
        self.heard = (response.headers.get("date"), call.signed_at)
        return judge(response, self.name(call))

    async def _exchange(self, call: ApiCall, credentials: Credentials) -> Response:
        fresh = False
        while True:
            connection = await self.pool.acquire(fresh=fresh)
            reused = connection.used
            try:
                call.signed_at = self.clock.now()
                call.counts.requests += 1
                return await connection.request(self._request(call, credentials))
            except TransportError as error:
                # A server may close an idle connection just as we use it. That is not worth a
                # retry's wait and price, and with a new connection it cannot happen again.
                if not reused or error.answered:
                    raise
                fresh = True
            finally:
                self.pool.release(connection)

    def _request(self, call: ApiCall, credentials: Credentials) -> bytes:
        return json_protocol.build_request(
            self.endpoint,
            self.service,
            call.operation,
            call.body,
            signer=self.signer,
            credentials=credentials,
            at=call.signed_at,
        )
