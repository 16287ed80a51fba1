"""The conformance suite on this repository's backends."""

from task_queue_engine.testing.conformance import *  # noqa: F403  # as its users import it
