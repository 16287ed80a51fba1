"""AWS JSON 1.0: what both services speak.

Source: "AWS JSON 1.0 protocol", Smithy 2.0 specification.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import msgspec

from task_queue_engine._version import __version__
from task_queue_engine.backends.aws.wire.connection import Response
from task_queue_engine.backends.aws.wire.endpoints import Endpoint, Service
from task_queue_engine.backends.aws.wire.error_codes import present_name
from task_queue_engine.backends.aws.wire.sigv4 import Credentials, Headers, Signer

_CONTENT_TYPE = "application/x-amz-json-1.0"
_TARGETS: dict[Service, str] = {"sqs": "AmazonSQS", "dynamodb": "DynamoDB_20120810"}
_USER_AGENT = f"task-queue-engine/{__version__}"

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class NotTheProtocol(Exception):
    """The answer is HTTP, but not one of the service's."""


def encode(parameters: Mapping[str, Any]) -> bytes:
    return _encoder.encode(parameters)


def build_request(
    endpoint: Endpoint,
    service: Service,
    operation: str,
    body: bytes,
    *,
    signer: Signer,
    credentials: Credentials,
    at: float,
) -> bytes:
    """A whole signed HTTP request."""
    signed, head = _of_operation(endpoint.path, endpoint.host_header, service, operation)
    added = signer.sign(
        credentials, at=at, method="POST", path=endpoint.path, headers=signed, body=body
    )
    lines = "".join([f"{name}: {value}\r\n" for name, value in added])
    head = f"{head}{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


@lru_cache(maxsize=64)  # a dozen operations, each at one endpoint
def _of_operation(path: str, host: str, service: Service, operation: str) -> tuple[Headers, str]:
    """The headers to sign that all its requests have, and the beginning of these."""
    signed = (
        ("Host", host),
        ("Content-Type", _CONTENT_TYPE),
        ("X-Amz-Target", f"{_TARGETS[service]}.{operation}"),
    )
    lines = "".join([f"{name}: {value}\r\n" for name, value in signed])
    return signed, (
        f"POST {path} HTTP/1.1\r\n{lines}User-Agent: {_USER_AGENT}\r\nAccept-Encoding: identity\r\n"
    )


def decode(response: Response) -> dict[str, Any]:
    """The JSON object in the body; an empty body counts as an empty one.

    Raises:
        NotTheProtocol: something else, or damaged on its way.
    """
    headers, body = response.headers, response.body
    promised = headers.get("x-amz-crc32")  # DynamoDB sends it
    if promised is not None and promised != str(zlib.crc32(body)):
        raise NotTheProtocol("the answer does not match its checksum")
    if "content-encoding" in headers:
        raise NotTheProtocol(f"the answer is encoded ({headers['content-encoding']:.20}), unasked")
    if not body:
        return {}
    try:
        document = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kind = headers.get("content-type", "no content type")
        start = body[:60].decode("ascii", "replace")
        raise NotTheProtocol(
            f"the answer is not JSON (HTTP {response.status}, {kind:.60}): {start!r}"
        ) from None
    if not isinstance(document, dict):
        raise NotTheProtocol(f"the answer is not a JSON object (HTTP {response.status})")
    return document


def error_of(response: Response, document: Mapping[str, Any]) -> tuple[str, str]:
    """Code and message (one line) of an answer that is not a 200; either may be empty."""
    found = document.get("__type") or document.get("code") or ""
    code = response.headers.get("x-amzn-errortype") or (found if isinstance(found, str) else "")
    # "com.amazonaws.sqs#QueueDoesNotExist", "ValidationException:http://..."
    code = code.partition(":")[0].rpartition("#")[2]
    message = document.get("message") or document.get("Message") or ""
    message = " ".join(message.split()) if isinstance(message, str) else ""
    return present_name(code), message


def server_time(response: Response) -> float | None:
    """Its Date header, in seconds since 1970."""
    return time_of(response.headers.get("date"))


def time_of(date: str | None) -> float | None:
    """Of a Date header, in seconds since 1970."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_after(response: Response) -> float | None:
    """What the service asks for in x-amz-retry-after, in seconds (it says milliseconds)."""
    text = response.headers.get("x-amz-retry-after", "")
    return int(text) / 1000 if text.isascii() and text.isdigit() else None


def capacity_units(document: Mapping[str, Any]) -> list[float]:
    """The DynamoDB capacity units that an answer says it consumed: one number per statement of a
    batch where the server tells them apart, else one for all; empty where it does not say."""
    found = document.get("ConsumedCapacity")
    entries = found if isinstance(found, list) else [found]
    return [float(each.get("CapacityUnits", 0.0)) for each in entries if isinstance(each, dict)]
