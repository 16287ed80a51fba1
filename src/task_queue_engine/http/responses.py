"""Responses, built from bytes that are already encoded."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response, current_app

JSON = "application/json"

encode = msgspec.json.Encoder().encode


def respond(
    value: Any, status: int = 200, *, content_type: str = JSON, **headers: str | None
) -> Response:
    """A JSON response; with bytes as `value` they are sent as they are.

    Header names are given with underscores; None leaves a header out.
    """
    body = value if isinstance(value, bytes) else encode(value)
    response: Response = current_app.response_class(body, status, content_type=content_type)
    for name, text in headers.items():
        if text is not None:
            response.headers[name.replace("_", "-")] = text
    return response
