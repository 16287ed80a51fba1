#!/usr/bin/env python3
"""Exit 0 when the server in this container answers GET /health with 200: that of `tqe serve` and
`tqe api` at PORT, that of `tqe worker` at TQE_WORKER_PORT.

http.client and not urllib, which would send the question to a proxy where one is configured.
"""

from __future__ import annotations

import http.client
import os
import sys


def trouble(port: int) -> str:
    """Of who answers there; empty where it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"port {port}: no answer: {error!r}"
    finally:
        connection.close()
    return "" if status == 200 else f"port {port}: status {status}"


def main() -> None:
    ports = [int(os.environ.get("PORT") or 8080)]
    # Both may be set, for all containers of an image: what runs in this one listens at one of them.
    if worker_port := os.environ.get("TQE_WORKER_PORT"):
        ports.append(int(worker_port))
    found = [trouble(port) for port in ports]
    sys.exit(0 if "" in found else "; ".join(found))


if __name__ == "__main__":
    main()
