"""Queue URLs: which queue a task's `queue` means, and what a URL says about its region."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.task import DEFAULT_QUEUE

# https://sqs.eu-central-1.amazonaws.com/..., https://eu-central-1.queue.amazonaws.com/... (old),
# https://sqs.cn-north-1.amazonaws.com.cn/..., https://vpce-1-2.sqs.eu-central-1.vpce.amazonaws.com
_AWS_HOST = re.compile(
    r"(?:^|\.)(?:sqs(?:-fips)?\.(?P<new>[a-z0-9-]+)|(?P<old>[a-z0-9-]+)\.queue)"
    r"(?:\.vpce)?\.(?:amazonaws\.com(?:\.cn)?|api\.aws)$"
)


@dataclass(frozen=True, slots=True)
class QueueUrls:
    queue: str
    dead: str
    """Of its dead-letter queue."""


def check_queue_url(url: str, *, variable: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ConfigurationError: naming the variable: not the URL of a standard queue.
    """
    parts = urlsplit(url.strip())
    name = parts.path.rstrip("/").rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise ConfigurationError(
            "must be the URL of a queue, like https://sqs.eu-central-1.amazonaws.com/"
            f"123456789012/tasks, not {url[:200]!r}",
            variable=variable,
        )
    if name.endswith(".fifo"):
        raise ConfigurationError(
            "names a FIFO queue: a standard queue is needed (no per-message delays, and a tenth of "
            "the throughput, on FIFO queues)",
            variable=variable,
        )
    return url.strip().rstrip("/")


def region_of(url: str) -> str | None:
    """The AWS region a queue's URL names; None where it is not AWS's."""
    found = _AWS_HOST.search(urlsplit(url).hostname or "")
    return (found["new"] or found["old"]) if found else None


def origin_of(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def sibling(url: str, name: str) -> str:
    """The queue of this name beside the one with this URL: same account, same region."""
    return f"{url.rpartition('/')[0]}/{name}"


def urls_by_name(main: QueueUrls, main_name: str, name: str) -> QueueUrls:
    """Where the queue called `name` lives, given that `main_name` lives at `main`.

    The default queue is `tasks`, say; then `video` is `tasks-video` and its dead letters are in
    `tasks-video-dlq`. This holds from either side: an engine for `video` finds the default queue.
    """
    if name == main_name:
        return main
    root = main.queue
    if main_name != DEFAULT_QUEUE:
        root = root.removesuffix(f"-{main_name}")
    queue = root if name == DEFAULT_QUEUE else f"{root}-{name}"
    return QueueUrls(queue, f"{queue}-dlq")
