"""What AWS allows, each figure with the page that says so."""

from __future__ import annotations

from dataclasses import dataclass

_DYNAMODB = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide"
_SQS = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide"


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    address: str

    def __str__(self) -> str:
        return f"[{self.title}]({self.address})"


@dataclass(frozen=True, slots=True)
class Quota:
    name: str
    value: float
    unit: str
    page: Page
    note: str = ""


PARTITION_KEYS = Page(
    "Best practices for designing and using partition keys",
    f"{_DYNAMODB}/bp-partition-key-design.html",
)
BURST = Page("Burst and adaptive capacity", f"{_DYNAMODB}/burst-adaptive-capacity.html")
QUOTAS = Page("Quotas in Amazon DynamoDB", f"{_DYNAMODB}/ServiceQuotas.html")
WARM = Page("DynamoDB warm throughput", f"{_DYNAMODB}/warm-throughput-scenarios.html")
ON_DEMAND = Page("On-demand capacity mode", f"{_DYNAMODB}/on-demand-capacity-mode.html")
BACK_PRESSURE = Page("GSI write throttling and back pressure", f"{_DYNAMODB}/gsi-throttling.html")
SPLIT_FOR_HEAT = Page(
    "How partitions, hot keys, and split for heat impact performance, part 3",
    "https://aws.amazon.com/blogs/database/"
    "part-3-scaling-dynamodb-how-partitions-hot-keys-and-split-for-heat-impact-performance/",
)
SQS_QUEUES = Page("Amazon SQS standard queue quotas", f"{_SQS}/quotas-queues.html")
SQS_SEND_BATCH = Page(
    "SendMessageBatch",
    "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/"
    "API_SendMessageBatch.html",
)
SQS_MESSAGES = Page("Amazon SQS message quotas", f"{_SQS}/quotas-messages.html")

PARTITION_WRITES = Quota("writes of a partition", 1_000, "units/s", PARTITION_KEYS)
PARTITION_READS = Quota("reads of a partition", 3_000, "units/s", PARTITION_KEYS)
BURST_SECONDS = Quota(
    "unused capacity that is kept", 300, "s", BURST, "a bonus that AWS may spend itself"
)
TABLE_WRITES = Quota(
    "writes of a table, and of each index by itself",
    40_000,
    "units/s",
    QUOTAS,
    "by default; raised on request",
)
TABLE_READS = Quota(
    "reads of a table, and of each index by itself",
    40_000,
    "units/s",
    QUOTAS,
    "by default; raised on request",
)
NEW_TABLE_WRITES = Quota(
    "writes of a new on-demand table, and of each index",
    4_000,
    "units/s",
    WARM,
    "from then on twice the highest load so far; more at once throttles within 30 minutes",
)
IN_FLIGHT = Quota(
    "messages received and not deleted, of a queue",
    120_000,
    "messages",
    SQS_QUEUES,
    "about; a long poll is told nothing and gets none. Raised on request",
)
QUEUE_CALLS = Quota(
    "calls to a standard queue", float("inf"), "calls/s", SQS_MESSAGES, "nearly unlimited"
)
FIFO_MESSAGES = Quota(
    "messages of a FIFO queue in batches",
    3_000,
    "messages/s",
    SQS_MESSAGES,
    "why this engine refuses FIFO queues; more in high-throughput mode",
)
MESSAGE = Quota(
    "a message, and a request of ten",
    1_024,
    "KiB",
    SQS_SEND_BATCH,
    "older queues have MaximumMessageSize at 256",
)
BATCH = Quota("messages a request", 10, "messages", SQS_MESSAGES)

ALL = (
    PARTITION_WRITES,
    PARTITION_READS,
    BURST_SECONDS,
    TABLE_WRITES,
    TABLE_READS,
    NEW_TABLE_WRITES,
    IN_FLIGHT,
    QUEUE_CALLS,
    FIFO_MESSAGES,
    BATCH,
    MESSAGE,
)
