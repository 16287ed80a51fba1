"""What a request or a submission may ask for at most; the engine, the server and the client keep to
the same numbers.

Settings have limits of their own (`config`), and so have backends (the size of an item).
"""

from __future__ import annotations

MAX_KEY_LENGTH = 255
"""Characters of an idempotency key: what other services that take such keys allow."""
MAX_ATTEMPTS = 1000
"""Of one task: with the default backoff six weeks of trying."""
MAX_TIMEOUT = 86_400
"""Seconds that a submission over HTTP may give an attempt: a day."""
MAX_BATCH = 1000
"""Submissions of one POST /tasks/batch, and ids of one redrive."""
MAX_PAGE = 100
"""Items of one listing."""
DEFAULT_PAGE = 50
"""Items of one listing where the caller names no limit: a screen or two."""
MAX_WAIT = 60
"""Seconds of one long poll: below what load balancers and HTTP clients commonly give up after."""
