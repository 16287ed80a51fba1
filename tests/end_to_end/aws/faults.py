"""AWS in trouble: a proxy before SQS and DynamoDB that gets some requests wrong, and remembers
which tasks each of its faults has hit.

It runs in threads of the test's own process; engines reach it as their endpoint.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Document = dict[str, Any]
Answer = tuple[int, Document]
Forward = Callable[[Document], Answer]


class Cut(Exception):
    """The connection ends without an answer."""


@dataclass
class Trouble:
    """What the proxy does, and did. All of it may be changed while it runs.

    Args:
        rate: the share of requests that go wrong.
        only: names of the faults that may be chosen; empty for all.
    """

    seed: int = 1
    rate: float = 0.0
    only: frozenset[str] = frozenset()
    silent: bool = False
    """Requests are taken and never answered, nor carried out."""
    hold: Callable[[str, Document], bool] | None = None
    """Requests of which this is true, told operation and parameters, are held like that."""
    held: threading.Event = field(default_factory=threading.Event)
    """One was."""
    done: Counter[str] = field(default_factory=Counter)
    hit: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Task id -> the faults that hit it."""
    requests: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._lock = threading.Lock()
        self._task_of_receipt: dict[str, str] = {}
        self._delivered: deque[Document] = deque(maxlen=100)
        self.over = threading.Event()

    # --- one request ------------------------------------------------------------------------

    def handle(self, operation: str, body: bytes, forward: Forward) -> Answer:
        parameters = json.loads(body)
        with self._lock:
            self.requests[operation] += 1
            fault = self._choose(operation)
        if self.silent or (self.hold is not None and self.hold(operation, parameters)):
            self.held.set()
            self.over.wait()
            raise Cut
        answer = fault(self, parameters, forward) if fault else forward(parameters)
        if operation == "ReceiveMessage":
            self._remember(answer[1])
        return answer

    def _choose(self, operation: str) -> Callable[[Trouble, Document, Forward], Answer] | None:
        faults = [
            fault
            for fault in FAULTS.get(operation, ())
            if not self.only or fault.__name__ in self.only
        ]
        if not faults or self._rng.random() >= self.rate:
            return None
        return self._rng.choice(faults)

    def _remember(self, answer: Document) -> None:
        for message in answer.get("Messages") or ():
            named = _ID.search(message["Body"].encode())
            if named:
                with self._lock:
                    self._task_of_receipt[message["ReceiptHandle"]] = named[0].decode()
                    self._delivered.append(message)

    def note(self, fault: str, about: Any) -> None:
        """The fault has hit the tasks that these parts of a request are about."""
        text = json.dumps(about).encode()
        with self._lock:
            self.done[fault] += 1
            found = {one.decode() for one in _ID.findall(text)}
            for entry in about if isinstance(about, list) else [about]:
                if isinstance(entry, dict):
                    for inner in entry.get("Entries", [entry]):
                        found.add(self._task_of_receipt.get(inner.get("ReceiptHandle", ""), ""))
            for task_id in found:
                self.hit[task_id].append(fault)

    def some(self, items: list[Any]) -> set[int]:
        with self._lock:
            return {i for i in range(len(items)) if self._rng.random() < 0.5}

    def earlier_delivery(self) -> Document | None:
        with self._lock:
            return dict(self._rng.choice(self._delivered)) if self._delivered else None


# --- faults ---------------------------------------------------------------------------------


def cut_before(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """Not carried out, and no answer."""
    trouble.note("cut_before", parameters)
    raise Cut


def cut_after(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """Carried out, and no answer."""
    _, answer = forward(parameters)
    trouble.note("cut_after", [parameters, answer.get("Messages")])
    trouble.note("cut_after", parameters)
    raise Cut


def throttled(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    trouble.note("throttled", parameters)
    return 400, {"__type": "com.amazonaws#ThrottlingException", "message": "Rate exceeded"}


def failing(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    trouble.note("failing", parameters)
    return 500, {"__type": "com.amazonaws#InternalServerError", "message": "by a test"}


def entries_failed(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """Inside a 200: some entries were not carried out."""
    entries = parameters["Entries"]
    left_out = trouble.some(entries)
    trouble.note("entries_failed", [entries[i] for i in left_out])
    rest = [entry for i, entry in enumerate(entries) if i not in left_out]
    status, answer = forward({**parameters, "Entries": rest}) if rest else (200, {})
    failed = [_failed(entries[i]) for i in left_out]
    return status, answer | {"Failed": [*(answer.get("Failed") or ()), *failed]}


def entries_said_to_have_failed(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """Inside a 200: they were carried out all the same."""
    status, answer = forward(parameters)
    if status != 200:
        return status, answer
    named = {entry["Id"]: entry for entry in parameters["Entries"]}
    done = answer.get("Successful") or []
    wrong = trouble.some(done)
    told = [named[done[i]["Id"]] for i in wrong]
    trouble.note("entries_said_to_have_failed", told)
    return status, {
        "Successful": [entry for i, entry in enumerate(done) if i not in wrong],
        "Failed": [*(answer.get("Failed") or ()), *map(_failed, told)],
    }


def delivered_twice(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """The very same delivery once more, to the next receive."""
    return _deliver_again("delivered_twice", 0, trouble, parameters, forward)


def delivered_twice_and_counted(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """As if its lease were over, which it is not."""
    return _deliver_again("delivered_twice_and_counted", 1, trouble, parameters, forward)


def _deliver_again(
    name: str, more: int, trouble: Trouble, parameters: Document, forward: Forward
) -> Answer:
    status, answer = forward(parameters)
    messages = list(answer.get("Messages") or ())
    again = trouble.earlier_delivery()
    if again is None or len(messages) >= int(parameters.get("MaxNumberOfMessages", 1)):
        return status, answer
    attributes = dict(again["Attributes"])
    attributes["ApproximateReceiveCount"] = str(int(attributes["ApproximateReceiveCount"]) + more)
    trouble.note(name, again["Body"])
    return status, answer | {"Messages": [*messages, again | {"Attributes": attributes}]}


def statements_failed(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    """Inside a 200: some statements were not carried out."""
    statements = parameters["Statements"]
    left_out = trouble.some(statements)
    trouble.note("statements_failed", [statements[i] for i in left_out])
    rest = [one for i, one in enumerate(statements) if i not in left_out]
    status, answer = (
        forward({**parameters, "Statements": rest}) if rest else (200, {"Responses": []})
    )
    if status != 200:
        return status, answer
    carried_out: Iterator[Document] = iter(answer["Responses"])
    responses = [
        _FAILED_STATEMENT if i in left_out else next(carried_out) for i in range(len(statements))
    ]
    return status, answer | {"Responses": responses}


def statements_said_to_have_failed(
    trouble: Trouble, parameters: Document, forward: Forward
) -> Answer:
    status, answer = forward(parameters)
    if status != 200:
        return status, answer
    wrong = trouble.some(answer["Responses"])
    trouble.note(
        "statements_said_to_have_failed", [parameters["Statements"][i] for i in sorted(wrong)]
    )
    responses = [
        {"Error": {"Code": "InternalServerError", "Message": "by a test"}} if i in wrong else one
        for i, one in enumerate(answer["Responses"])
    ]
    return status, answer | {"Responses": responses}


def keys_unprocessed(trouble: Trouble, parameters: Document, forward: Forward) -> Answer:
    trouble.note("keys_unprocessed", parameters)
    return 200, {"Responses": {}, "UnprocessedKeys": parameters["RequestItems"]}


_FAILED_STATEMENT = {"Error": {"Code": "ThrottlingError", "Message": "by a test"}}


def _failed(entry: Document) -> Document:
    return {"Id": entry["Id"], "Code": "InternalError", "Message": "", "SenderFault": False}


_ANY = (cut_before, cut_after, throttled, failing)
_ENTRIES = (*_ANY, entries_failed, entries_said_to_have_failed)
FAULTS: dict[str, tuple[Callable[[Trouble, Document, Forward], Answer], ...]] = {
    "SendMessageBatch": _ENTRIES,
    "DeleteMessageBatch": _ENTRIES,
    "ChangeMessageVisibilityBatch": _ENTRIES,
    "ReceiveMessage": (cut_after, delivered_twice, delivered_twice_and_counted, throttled),
    "BatchExecuteStatement": (*_ANY, statements_failed, statements_said_to_have_failed),
    "BatchGetItem": (*_ANY, keys_unprocessed),
    "GetItem": _ANY,
    "UpdateItem": _ANY,
    "Query": _ANY,
}


# --- the proxy ------------------------------------------------------------------------------


@contextmanager
def faulty(url: str, trouble: Trouble) -> Iterator[str]:
    """A way to the server at `url`, for one service; yields its own URL."""
    upstream = urlsplit(url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self._upstream = http.client.HTTPConnection(upstream, timeout=60)

        def finish(self) -> None:
            self._upstream.close()
            super().finish()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            try:
                status, document = trouble.handle(operation, body, self._forward)
            except Cut:
                self.close_connection = True
                return
            answer = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", self.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _forward(self, parameters: Document) -> Answer:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("content-length", "connection")
            }
            self._upstream.request("POST", self.path, json.dumps(parameters).encode(), headers)
            answer = self._upstream.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")

        def log_message(self, *args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            trouble.over.set()
            server.shutdown()
            thread.join()
