#!/usr/bin/env python3
"""Exit 0 when the server in this container answers GET /health with 200.

http.client and not urllib, which would send the question to a proxy where one is configured.
"""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 8080), timeout=4)
try:
    connection.request("GET", "/health")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error!r}")
sys.exit(0 if status == 200 else f"status {status}")
