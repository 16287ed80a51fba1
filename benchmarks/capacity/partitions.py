"""A table, or an index, as DynamoDB keeps it: partitions that each take so much a second, save what
they do not use, and are split where they stay hot.

What AWS documents is as documented (`quotas`). What it does not say is chosen here, and matters
for how long things take, not for where they end:

- the hash: MD5 of the partition key.
- when a hot partition is split: once it has been asked for `HEAT` of what it takes for
  `HEAT_SECONDS`.
- where: in the middle of what it was last asked for, between two partition keys if there are
  several, else by sort key. So keys that share a partition are parted, and then old and new entries
  of one key. An entry that is newer than all before it always falls to the upper half: no split
  helps a key whose entries only ever increase.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field

from benchmarks.capacity import quotas

Position = tuple[int, str]
"""Hash of the partition key, and the sort key."""

HEAT_SECONDS = 60
"""AWS names no figure for "sustained"."""
HEAT = 0.9
"""AWS: "near its throughput capacity limit"."""

_HASH_BITS = 64
# Positions of a partition that are remembered to find its middle.
_SAMPLE = 400


@dataclass(slots=True)
class Bucket:
    """Units that may be used at once: those of this second and saved ones."""

    rate: float
    saved_seconds: float
    units: float = 0.0

    def __post_init__(self) -> None:
        # At the start nothing is saved: a table that has been at its limit for long.
        self.units = self.rate

    def refill(self) -> None:
        self.units = min(self.units + self.rate, self.rate * max(1.0, self.saved_seconds))


@dataclass(slots=True)
class Partition:
    bucket: Bucket
    recent: deque[Position] = field(default_factory=lambda: deque(maxlen=_SAMPLE))
    asked: float = 0.0
    """Units, refused ones included, since it was last looked at for splitting."""
    seconds: int = 0
    """Since then."""


class Store:
    """One table or one index.

    Args:
        partitions: it begins with so many, with equal ranges of hashes.
        limit: units a second of a partition.
        quota: units a second of the whole.
        saved_seconds: of unused capacity, at most; 0: none is kept.
        splits: whether hot partitions are split.
    """

    def __init__(
        self,
        name: str,
        *,
        partitions: int,
        limit: float = quotas.PARTITION_WRITES.value,
        quota: float = quotas.TABLE_WRITES.value,
        saved_seconds: float = quotas.BURST_SECONDS.value,
        splits: bool = True,
    ) -> None:
        self.name = name
        self._limit = limit
        self._saved_seconds = saved_seconds
        self._splits = splits
        self._quota = Bucket(quota, saved_seconds)
        width = 2**_HASH_BITS // partitions
        self._starts: list[Position] = [(n * width, "") for n in range(partitions)]
        self._partitions = [self._new() for _ in range(partitions)]
        self.throttled_by_key: Counter[str] = Counter()
        self.throttled_by_quota = 0
        self.splits = 0

    def __len__(self) -> int:
        return len(self._partitions)

    def partition_of(self, partition_key: str, sort_key: str) -> Partition:
        return self._at((hash_of(partition_key), sort_key))

    def has_room(self, partition_key: str, sort_key: str, units: float) -> bool:
        """Whether it takes so many units now. If not, the refusal is counted."""
        position = hash_of(partition_key), sort_key
        partition = self._at(position)
        partition.recent.append(position)
        partition.asked += units
        if partition.bucket.units < units:
            self.throttled_by_key[partition_key] += 1
            return False
        if self._quota.units < units:
            self.throttled_by_quota += 1
            return False
        return True

    def take(self, partition_key: str, sort_key: str, units: float) -> None:
        self.partition_of(partition_key, sort_key).bucket.units -= units
        self._quota.units -= units

    def tick(self) -> None:
        """A second is over."""
        self._quota.refill()
        for partition in self._partitions:
            partition.bucket.refill()
            partition.seconds += 1
        if self._splits:
            for number in reversed(range(len(self._partitions))):
                if self._partitions[number].seconds >= HEAT_SECONDS:
                    self._look_at(number)

    # --- inside -----------------------------------------------------------------------------

    def _new(self) -> Partition:
        return Partition(Bucket(self._limit, self._saved_seconds))

    def _at(self, position: Position) -> Partition:
        return self._partitions[bisect_right(self._starts, position) - 1]

    def _look_at(self, number: int) -> None:
        partition = self._partitions[number]
        is_hot = partition.asked >= HEAT * self._limit * partition.seconds
        partition.asked, partition.seconds = 0.0, 0
        if is_hot:
            self._split(number, _middle(sorted(partition.recent)))

    def _split(self, number: int, middle: Position) -> None:
        partition = self._partitions[number]
        if middle <= min(partition.recent) or middle <= self._starts[number]:
            return  # one item: it cannot be parted
        self._starts.insert(number + 1, middle)
        self._partitions[number : number + 1] = halves = [self._new(), self._new()]
        for half in halves:
            half.bucket.units = partition.bucket.units
        self.splits += 1


def _middle(asked_for: list[Position]) -> Position:
    """Where the second half begins: of several partition keys the beginning of one, else a sort
    key."""
    half = len(asked_for) // 2
    begins = [n for n in range(1, len(asked_for)) if asked_for[n][0] != asked_for[n - 1][0]]
    if begins:
        return asked_for[min(begins, key=lambda n: abs(n - half))][0], ""
    return asked_for[half]


def hash_of(partition_key: str) -> int:
    found = _hashes.get(partition_key)
    if found is None:
        digest = hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()
        found = int.from_bytes(digest[: _HASH_BITS // 8])
        if "#" in partition_key:  # keys of indexes: few, and asked for again and again
            _hashes[partition_key] = found
    return found


_hashes: dict[str, int] = {}
