"""SQS and DynamoDB as far as a task that succeeds goes, answered from memory by a thread.

For counting what the engine's own thread does: a server on its loop would be counted with it, and
one in another process could not be asked what it was sent. It knows the statements that `partiql`
makes, carries them out and looks at no condition; nothing is ever refused.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_CLAUSES = re.compile(
    r'SET "(?P<added>\w+)"="\w+"\+1|SET "(?P<set>\w+)"=\?|REMOVE "(?P<removed>\w+)"'
    r"|(?P<where>WHERE)"
)
_NAMES = re.compile(r"'(\w+)':\?")


@dataclass
class ThreadAws:
    """Of one run: read it when the calls are over."""

    port: int = 0
    together: int = 0
    """Requests are held until so many of them are under way; 0: none is. (Those of the counters are
    sent at times of their own, and not held.)"""
    answered: Counter[str] = field(default_factory=Counter)
    """Requests by operation."""
    _held: int = 0
    _let_go: asyncio.Event = field(default_factory=asyncio.Event)
    _items: dict[str, dict[str, Any]] = field(default_factory=dict)
    _messages: deque[dict[str, Any]] = field(default_factory=deque)
    _sent: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r")[0])
                operation = head.partition("x-amz-target: ")[2].partition("\r")[0]
                body = json.loads(await reader.readexactly(length))
                said = json.dumps(await self._answer(operation.partition(".")[2], body))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 7d8f6bdc-0000-5555-a222-3b2b1c1c1c1c\r\n"
                    b"Date: Tue, 01 Jan 2030 00:00:00 GMT\r\n"
                    b"Content-Type: application/x-amz-json-1.0\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(said), said.encode())
                )
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    async def _answer(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        self.answered[operation] += 1
        if self.together and operation != "updateitem":
            self._held += 1
            if self._held == self.together:
                self._let_go.set()
            await self._let_go.wait()
        match operation:
            case "sendmessagebatch":
                return {"Successful": [self._send(entry) for entry in body["Entries"]]}
            case "receivemessage":
                most = min(body["MaxNumberOfMessages"], len(self._messages))
                return {"Messages": [self._messages.popleft() for _ in range(most)]}
            case "deletemessagebatch" | "changemessagevisibilitybatch":
                return {"Successful": [{"Id": entry["Id"]} for entry in body["Entries"]]}
            case "getqueueattributes":
                arn = "arn:aws:sqs:us-east-1:123456789012:tasks"
                policy = {"deadLetterTargetArn": arn, "maxReceiveCount": "3"}
                return {"Attributes": {"QueueArn": arn, "RedrivePolicy": json.dumps(policy)}}
            case "batchexecutestatement":
                done = [self._execute(one) for one in body["Statements"]]
                units = {"TableName": "tasks", "CapacityUnits": len(done)}
                return {"Responses": done, "ConsumedCapacity": [units]}
            case _:
                return {"Items": [], "Count": 0, "Responses": {}}

    def _send(self, entry: dict[str, Any]) -> dict[str, Any]:
        self._sent += 1
        message_id = f"7d8f6bdc-0000-5555-a222-{self._sent:012}"
        self._messages.append(
            {
                "MessageId": message_id,
                "ReceiptHandle": f"{message_id}-{'A' * 260}",
                "MD5OfBody": "0" * 32,
                "Body": entry["MessageBody"],
                "Attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": "1893456000000",
                },
            }
        )
        return {
            "Id": entry["Id"],
            "MessageId": message_id,
            "MD5OfMessageBody": "0" * 32,
            "MD5OfMessageAttributes": "0" * 32,
        }

    def _execute(self, statement: dict[str, Any]) -> dict[str, Any]:
        said, values = statement["Statement"], iter(statement["Parameters"])
        if said.startswith("INSERT"):
            item = dict(zip(_NAMES.findall(said), values, strict=True))
            self._items[item["id"]["S"]] = item
            return {"TableName": "tasks"}
        change: dict[str, Any] = {}
        added: list[str] = []
        removed: list[str] = []
        for clause in _CLAUSES.finditer(said):
            if clause["where"]:
                break
            if clause["added"]:
                added.append(clause["added"])
            elif clause["set"]:
                change[clause["set"]] = next(values)
            else:
                removed.append(clause["removed"])
        item = self._items[next(values)["S"]]
        item.update(change)
        for name in added:
            item[name] = {"N": str(int(item[name]["N"]) + 1)}
        for name in removed:
            item.pop(name, None)
        return {"TableName": "tasks"} | ({"Item": item} if "RETURNING" in said else {})


@contextmanager
def thread_aws() -> Iterator[ThreadAws]:
    """It answers until the block is left."""
    aws = ThreadAws()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(aws.serve, "127.0.0.1", 0))
    aws.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="thread-aws", daemon=True)
    thread.start()
    try:
        yield aws
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
