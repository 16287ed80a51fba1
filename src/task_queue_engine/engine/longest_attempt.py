"""How long an attempt may take where the queue holds a message for so long and no longer (SQS: 12
hours). What would outlive that is refused; it would lose its lease and count as crashed."""

from __future__ import annotations

from task_queue_engine.actors.lease_keeper import RENEW_BELOW
from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError, RegistryError
from task_queue_engine.registry import TaskRegistry

# Seconds of the hold that an attempt cannot have: what comes between receive and start, cleanup
# after a timeout, and recording.
_RESERVE = 60.0


def longest_timeout(max_hold: float, visibility: float) -> float:
    """In seconds.

    Args:
        max_hold: how long the queue holds a message in all, from its receive; may be infinite.
        visibility: of a lease. One is renewed only while it would end within `max_hold`, and need
            not be renewed before a third of it is over.
    """
    return max(max_hold - visibility, (1 - RENEW_BELOW) * visibility) - _RESERVE


def check_timeouts(registry: TaskRegistry, settings: Settings, longest: float) -> None:
    """Raises RegistryError for a type's own timeout, ConfigurationError for the default of those
    that have none."""
    for definition in registry:
        if (definition.timeout or settings.task_timeout) <= longest:
            continue
        if definition.timeout is None:
            raise ConfigurationError(
                f"{settings.task_timeout:g} s is {too_long(longest)}", variable="TQE_TASK_TIMEOUT"
            )
        raise RegistryError(
            f"task type {definition.name!r}: its timeout of {definition.timeout:g} s is "
            f"{too_long(longest)}"
        )


def too_long(longest: float) -> str:
    return (
        f"longer than this queue lets an attempt last: at most {longest:.0f} s, with "
        "TQE_VISIBILITY_TIMEOUT as it is"
    )
