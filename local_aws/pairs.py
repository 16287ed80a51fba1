"""Which local servers go together, and how a program finds them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, Literal

from local_aws.servers import LocalServer, NotAvailable, running


@dataclass(frozen=True, slots=True)
class Pair:
    """What each is good for is said in CONTRIBUTING.md, "Local AWS"."""

    queue: str
    """A key of `servers.SERVERS`, as `table` is."""
    table: str

    @property
    def writes(self) -> Literal["batch", "single"]:
        """TQE_DYNAMODB_WRITES: what the table's server can do."""
        # moto's PartiQL ignores conditions.
        return "single" if self.table == "moto" else "batch"

    @property
    def title(self) -> str:
        return self.queue if self.queue == self.table else f"{self.queue} and {self.table}"


PAIRS: Final = {
    "java": Pair("elasticmq", "dynamodb-local"),
    "moto": Pair("moto", "moto"),
    "fast": Pair("fauxqs", "ministack"),
}


@dataclass(frozen=True, slots=True)
class LocalAws:
    """A pair that runs."""

    pair: Pair
    queue: LocalServer
    table: LocalServer

    @property
    def endpoints(self) -> dict[Literal["sqs", "dynamodb"], str]:
        return {"sqs": self.queue.url, "dynamodb": self.table.url}

    @property
    def aws_environment(self) -> dict[str, str]:
        """What AWS's libraries and the engine need to find the servers."""
        key, secret = self.queue.credentials
        return {
            "AWS_REGION": self.queue.region,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL_SQS": self.queue.url,
            "AWS_ENDPOINT_URL_DYNAMODB": self.table.url,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same for `tqe`, with settings for a machine that the operator sits at."""
        return self.aws_environment | {
            "TQE_DYNAMODB_WRITES": self.pair.writes,
            "TQE_POLL_WAIT": "2",  # a stop waits for the open poll; requests cost nothing here
        }

    def provision(self, name: str) -> dict[str, str]:
        """Queues and table of this name, as `tqe provision` makes them; its lines for `.env`.

        The environment of this process speaks of the servers from then on: boto3 looks there.
        """
        os.environ.update(self.aws_environment)
        for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            os.environ.pop(variable, None)

        from task_queue_engine.backends.aws.provisioning.provision import provision
        from task_queue_engine.backends.aws.provisioning.resources import Names
        from task_queue_engine.backends.aws.provisioning.session import AdminSession

        names = Names(queue=name, dead=f"{name}-dlq", table=name)
        return provision(AdminSession(self.queue.region), names).environment

    def client_options(self) -> dict[str, Any]:
        """For an AwsClient."""
        import botocore.credentials

        key, secret = self.queue.credentials
        return {
            "region": self.queue.region,
            "endpoints": self.endpoints,
            "load_credentials": lambda: botocore.credentials.Credentials(key, secret),
        }


def start(pair: Pair) -> LocalAws:
    """The servers of a pair, running; they end with this process.

    Raises:
        NotAvailable: this machine cannot run one of them; the message says why.
    """
    return LocalAws(pair, running(pair.queue), running(pair.table))


def start_first(names: tuple[str, ...]) -> tuple[LocalAws, list[str]]:
    """The first of these pairs (keys of `PAIRS`) that this machine can run, and why those before it
    cannot.

    Raises:
        NotAvailable: it can run none.
    """
    reasons: list[str] = []
    for name in names:
        try:
            return start(PAIRS[name]), reasons
        except NotAvailable as reason:
            reasons.append(str(reason))
    raise NotAvailable("; ".join(reasons))
