"""Which local servers go together, and how a program finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from local_aws.servers import LocalServer, NotAvailable, running


@dataclass(frozen=True, slots=True)
class Pair:
    """What each is good for is said in CONTRIBUTING.md, "Local AWS"."""

    queue: str
    """A key of `servers.SERVERS`, as `table` is."""
    table: str
    writes: str = "batch"
    """TQE_DYNAMODB_WRITES: what the table's server can do."""

    @property
    def title(self) -> str:
        return self.queue if self.queue == self.table else f"{self.queue} and {self.table}"


PAIRS: Final = {
    "java": Pair("elasticmq", "dynamodb-local"),
    "moto": Pair("moto", "moto", writes="single"),
    "fast": Pair("fauxqs", "ministack"),
}


@dataclass(frozen=True, slots=True)
class LocalAws:
    pair: Pair
    queue: LocalServer
    table: LocalServer

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's libraries and the engine need to find the servers and nothing else."""
        key, secret = self.queue.credentials
        return {
            "AWS_REGION": self.queue.region,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL_SQS": self.queue.url,
            "AWS_ENDPOINT_URL_DYNAMODB": self.table.url,
            "TQE_DYNAMODB_WRITES": self.pair.writes,
            "TQE_POLL_WAIT": "2",  # a stop waits for the open poll; requests cost nothing here
        }


def start(name: str) -> LocalAws:
    """The servers of a pair (a key of `PAIRS`), running; they end with this process.

    Raises:
        NotAvailable: this machine cannot run one of them; the message says why.
    """
    pair = PAIRS[name]
    return LocalAws(pair, running(pair.queue), running(pair.table))


def start_first(names: tuple[str, ...]) -> tuple[LocalAws, list[str]]:
    """The first pair that this machine can run, and why those before it cannot.

    Raises:
        NotAvailable: it can run none.
    """
    reasons: list[str] = []
    for name in names:
        try:
            return start(name), reasons
        except NotAvailable as reason:
            reasons.append(str(reason))
    raise NotAvailable("; ".join(reasons))
