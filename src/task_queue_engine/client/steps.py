"""What a client does, one step after the other, whether it then sleeps in a thread or on an event
loop: a call is a generator that yields the next step and is given what came of it."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import httpx

from task_queue_engine.client.problems import error_of_response
from task_queue_engine.errors import (
    BackendUnavailable,
    IdempotencyKeyInFlight,
    ServerUnreachable,
    TaskQueueError,
)
from task_queue_engine.retry import Backoff

T = TypeVar("T")

DEFAULT_RETRIES = 4
"""With the pauses below a server may be away for 3 to 4 s: one that restarts is back by then."""

# Between two sends of a request. The first is short, for a connection that broke; the cap is for
# those who ask for many retries.
_BACKOFF = Backoff(base=0.25, factor=2, cap=8)
# Of a Retry-After: a longer one is for the caller, who may have better to do.
_LONGEST_RETRY_AFTER = 5.0
# Those who were told the same time do not all come back in the same moment.
_SPREAD = 1.25
# The system's: processes that were forked off one draw different pauses.
_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Send it; the answer is an `httpx.Response`, whatever its status.

    Raised into the call is ServerUnreachable where nothing was sent, and another
    BackendUnavailable where it may have been.
    """

    method: str
    path: str
    timeout: float
    """Seconds for the whole of it."""
    params: Mapping[str, str] | None = None
    content: bytes | None = None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep for so many seconds; the answer is None."""

    seconds: float


Steps = Generator[Request | Pause, httpx.Response | None, T]


def answer_to(request: Request, *, retries: int, may_repeat: bool) -> Steps[httpx.Response]:
    """A successful response; everything else is raised.

    The request is sent again, up to `retries` times, where the trouble passes: no connection, 429,
    502, 503, 504, and no answer. An error that follows earlier trouble has that as its cause.

    Args:
        may_repeat: False: not where the server may have carried it out already.
    """
    earlier: TaskQueueError | None = None
    failures = 0
    while True:
        try:
            response = yield from send(request)
        except TaskQueueError as error:
            failures += 1
            pause = pause_after(error, failures, retries)
            if pause is None or not (may_repeat or _was_not_carried_out(error)):
                raise error from earlier
            earlier = error
        else:
            return response
        yield Pause(pause)


def send(request: Request) -> Steps[httpx.Response]:
    """The same, once."""
    response = cast("httpx.Response", (yield request))
    if not response.is_success:
        raise error_of_response(response)
    return response


def pause_after(error: TaskQueueError, failures: int, retries: int) -> float | None:
    """Seconds until the next send, after the `failures`-th failed one (1, 2, ...); None where there
    is none."""
    if failures > retries or not isinstance(error, BackendUnavailable | IdempotencyKeyInFlight):
        return None
    pause = _BACKOFF.delay(failures, _chance)
    if isinstance(error, BackendUnavailable) and error.problem is not None:  # it was answered
        if error.retry_after > _LONGEST_RETRY_AFTER:
            return None
        pause = max(pause, error.retry_after * _chance.uniform(1, _SPREAD))
    return pause


def _was_not_carried_out(error: TaskQueueError) -> bool:
    """429 and 503 are answers of a server, or of what stands before it, that did nothing. With 502
    and 504 a proxy says that it has no answer either."""
    if isinstance(error, ServerUnreachable):
        return True
    return error.problem is not None and error.problem.status in (429, 503)
