"""Events from a server, whichever way its bytes come in: what is asked for, what the lines mean,
and when to ask again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec

from task_queue_engine.client.steps import Request, pause_after
from task_queue_engine.errors import ApiError, BackendUnavailable, TaskQueueError
from task_queue_engine.patience import Patience
from task_queue_engine.task_events import EndEvent, TaskEvent

logger = logging.getLogger("task_queue_engine.client")

# Seconds without a byte, of which a server sends some every 15: then it is gone.
SILENCE = 40.0
# Bytes of one message; the server's are a hundredth of it.
_LONGEST = 2**23
# Seconds until the next connection where one ended without a word about it.
_COME_BACK_AFTER = 1.0
_LONGEST_COME_BACK_AFTER = 30.0

_decode = msgspec.json.Decoder(TaskEvent).decode


class EventReading:
    """One call of `events`, over as many connections as it takes.

    Args:
        which: `type`, `queue` and `after`.
        timeout: seconds until a response must have begun.
        retries: how often the first connection is tried again.
        now: seconds, on the clock that pauses are slept by.
    """

    def __init__(
        self,
        path: str,
        which: Mapping[str, str | None],
        timeout: float,
        retries: int,
        now: Callable[[], float],
    ) -> None:
        self._path = path
        self._params = {name: value for name, value in which.items() if value is not None}
        self._last_id = self._params.pop("after", None)
        self._timeout = timeout
        self._retries = retries
        self._patience = Patience(now)
        self._failures = 0
        self._has_begun = False
        self._come_back_after = _COME_BACK_AFTER
        self._rest = b""
        self._fields: dict[str, str] = {}
        self.is_over = False
        """The task has ended: nothing more comes."""

    def request(self) -> Request:
        """For the next connection."""
        self._rest = b""
        self._fields = {}
        headers = {"Accept": "text/event-stream"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        return Request(
            method="GET",
            path=self._path,
            params=self._params,
            timeout=self._timeout,
            headers=headers,
        )

    def begins(self, content_type: str) -> None:
        """A response has come that is a success. Raises ApiError."""
        if content_type.partition(";")[0].strip().lower() != "text/event-stream":
            raise ApiError(
                f"{self._path} did not answer with events: is a Task Queue Engine server there?",
                status=200,
            )
        self._has_begun = True
        self._failures = 0
        self._patience.over()

    def feed(self, data: bytes) -> Iterator[TaskEvent]:
        """The events that are complete with these bytes. Raises ApiError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ApiError(f"{self._path} sent a line without an end", status=200)
        for line in lines:
            event = self._take(line.rstrip(b"\r").decode(errors="replace"))
            if event is not None:
                self.is_over = isinstance(event, EndEvent)
                yield event
                if self.is_over:
                    return

    def _take(self, line: str) -> TaskEvent | None:
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if fields.get("retry", "").isdigit():
            seconds = int(fields["retry"][:9]) / 1000
            self._come_back_after = min(_LONGEST_COME_BACK_AFTER, seconds)
        id_ = fields.get("id", "")
        self._last_id = id_ or self._last_id
        if "data" not in fields:
            return None
        try:
            event: TaskEvent = _decode(fields["data"])
        except (msgspec.DecodeError, UnicodeError):
            return None  # of a newer server, of which this client knows nothing
        return msgspec.structs.replace(event, id=id_)

    def pause_after_end(self) -> float:
        """The connection has ended: seconds until the next."""
        return self._come_back_after

    def pause_after(self, error: TaskQueueError) -> float:
        """Seconds until the next connection, after trouble with one. Raises it where there is to
        be none."""
        if not isinstance(error, BackendUnavailable):
            raise error
        if self._has_begun:
            # It is known to be there, so patience takes the place of a bounded number.
            if not self._patience.tried:
                logger.warning("events of %s: %s; trying again", self._path, error)
            return self._patience.pause(error)
        self._failures += 1
        pause = pause_after(error, self._failures, self._retries)
        if pause is None:
            raise error
        return pause
