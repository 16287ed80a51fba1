"""Which version claimed a task, kept so that no older process's claim passes for it.

A process that knows nothing of it leaves there what it finds; so it names the worker too.
"""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=64)  # a few processes claim: once for each
def claimed_by(version: str | None, worker: str | None) -> str | None:
    """What is stored."""
    return None if version is None or worker is None else f"{version} {worker}"


def version_of(stored: str | None, worker: str | None) -> str | None:
    """The version of the `worker` that started the latest attempt; None: it did not say."""
    version, _, claimant = (stored or "").partition(" ")
    return version if worker is not None and claimant == worker else None
