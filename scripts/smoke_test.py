#!/usr/bin/env python3
"""Submit one task to a running server and see it COMPLETED.

    scripts/smoke_test.py [URL]        default: http://127.0.0.1:8080

Sends the first of TQE_API_KEYS, where that is set, as bearer token. Needs nothing but Python.
The task is an e-mail: start the server without SMTP_* settings, and it goes into the outbox folder.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

TIMEOUT = 60.0
"""Seconds for the server to be ready, and again for the task to end."""


def call(url: str, body: Any = None) -> Any:
    """GET, or POST `body` as JSON; the answer's JSON. Raises urllib.error.HTTPError from 400 up."""
    request = urllib.request.Request(url)
    key = os.environ.get("TQE_API_KEYS", "").split(",")[0].strip()
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def wait_until_ready(base: str) -> None:
    give_up_at = time.monotonic() + TIMEOUT
    while True:
        try:
            call(f"{base}/ready")
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > give_up_at:
                sys.exit(f"{base} is not ready after {TIMEOUT:g} s: {error}")
            time.sleep(0.5)
        else:
            return


def main() -> None:
    base = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080").rstrip("/")
    wait_until_ready(base)
    try:
        task = call(f"{base}/tasks", {"type": "email", "payload": "smoke-test@example.com"})
        give_up_at = time.monotonic() + TIMEOUT
        while task["status"] in {"PENDING", "PROCESSING"} and time.monotonic() < give_up_at:
            time.sleep(0.2)
            task = call(f"{base}/tasks/{task['id']}?wait=5")
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url}: {error.code} {error.read().decode(errors='replace')}")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"{base}: {error!r}")
    print(json.dumps(task, indent=2))
    if task["status"] != "COMPLETED":
        sys.exit(f"task {task['id']} is {task['status']}, expected COMPLETED")


if __name__ == "__main__":
    main()
