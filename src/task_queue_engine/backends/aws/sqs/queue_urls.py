"""Queue URLs: which queue a task's `queue` means, and what a URL says about its region."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from task_queue_engine.backends.aws.wire.endpoints import AWS_DOMAINS, is_aws
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.task import DEFAULT_QUEUE

# https://sqs.eu-central-1.amazonaws.com/..., https://eu-central-1.queue.amazonaws.com/... (old),
# https://sqs.cn-north-1.amazonaws.com.cn/..., https://vpce-1-2.sqs.eu-central-1.vpce.amazonaws.com
_AWS_HOST = re.compile(
    r"(?:^|\.)(?:sqs(?:-fips)?\.(?P<new>[a-z0-9-]+)|(?P<old>[a-z0-9-]+)\.queue)"
    rf"(?:\.vpce)?\.(?:api\.)?{AWS_DOMAINS}$"
)
# us-east-1's, from when there was no other region.
_OLDEST_HOST = "queue.amazonaws.com"

_URL = re.compile(
    r"https?://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9._~-]+)*)/(?P<name>[A-Za-z0-9_-]{1,80}(?:\.fifo)?)/?"
)
_ACCOUNT = re.compile(r"/[0-9]+")


@dataclass(frozen=True, slots=True)
class QueueUrls:
    queue: str
    dead: str
    """Of its dead-letter queue."""

    @property
    def by_variable(self) -> tuple[tuple[str, str], ...]:
        """Each with the variable it is from."""
        return ((self.queue, "SQS_QUEUE_URL"), (self.dead, "SQS_DLQ_URL"))


def check_queue_url(url: str, *, variable: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ConfigurationError: naming the variable: not the URL of a standard queue.
    """
    parts = _URL.fullmatch(url.strip())
    if parts is None or not 0 < int(parts["port"] or 1) < 2**16:
        raise _no_url(url, variable)
    if parts["name"].endswith(".fifo"):
        raise ConfigurationError(
            "names a FIFO queue: a standard queue is needed (no per-message delays, and a tenth of "
            "the throughput, on FIFO queues)",
            variable=variable,
        )
    if is_aws(url.strip()) and not _ACCOUNT.fullmatch(parts["path"]):
        raise _no_url(url, variable)
    return url.strip().rstrip("/")


def _no_url(url: str, variable: str) -> ConfigurationError:
    shown = re.sub("//.*@", "//...@", url[:200])  # a password does not belong in a log
    return ConfigurationError(
        "must be the URL of a queue, like https://sqs.eu-central-1.amazonaws.com/"
        f"123456789012/tasks, not {shown!r}",
        variable=variable,
    )


def region_of(url: str) -> str | None:
    """The AWS region a queue's URL names; None where it is not AWS's."""
    host = urlsplit(url).hostname or ""
    if host == _OLDEST_HOST:
        return "us-east-1"
    found = _AWS_HOST.search(host)
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
