"""One row of the goals each: what is measured, beside what, and what it should come to."""

from __future__ import annotations

from typing import Final

from benchmarks.rows.aws import AWS
from benchmarks.rows.backlog import BACKLOG
from benchmarks.rows.base import Row
from benchmarks.rows.cores import CORES
from benchmarks.rows.embedded import END_TO_END, SUBMIT_MANY
from benchmarks.rows.idle import IDLE
from benchmarks.rows.many import SLEEPERS, WAITING
from benchmarks.rows.network import NETWORK, NETWORK_WORKER, POST_TO_DONE
from benchmarks.rows.over_http import HTTP
from benchmarks.rows.pages import PAGES
from benchmarks.rows.queues import DRAIN, LATENCY, SQS
from benchmarks.rows.start import START

ROWS: Final[dict[str, Row]] = {
    row.name: row
    for row in (
        DRAIN,
        END_TO_END,
        LATENCY,
        IDLE,
        SUBMIT_MANY,
        HTTP,
        AWS,
        SQS,
        NETWORK,
        NETWORK_WORKER,
        POST_TO_DONE,
        BACKLOG,
        PAGES,
        SLEEPERS,
        WAITING,
        START,
        CORES,
    )
}
"""In the order of the report."""
