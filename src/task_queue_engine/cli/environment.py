"""Variables that look like settings and are none."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator

from dotenv import dotenv_values

from task_queue_engine.config import EnvironmentSettings

logger = logging.getLogger("task_queue_engine.cli")

_PREFIX = "TQE_"

# Read by the package's own tests.
_NO_SETTINGS = {"TQE_TEST_LONG", "TQE_TEST_PIP", "TQE_TEST_SERVERS"}


def warn_of_unknown_variables() -> None:
    """A line for each TQE_* variable, of the environment or of `.env`, that nothing reads: most
    likely misspelt, and without effect."""
    found = dict.fromkeys(os.environ, "")
    found |= {name: " in .env" for name in dotenv_values(".env") if name not in found}
    suspects = [name for name in found if name.upper().startswith(_PREFIX)]
    if set(suspects) <= (known := _known()):
        return
    # Only now: it loads the handlers that come with the package. An app's own settings are loaded.
    import task_queue_engine.handlers.assembly  # noqa: F401  # `_known` finds the settings it defines

    known = _known()
    for name in suspects:
        if name not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1)
            logger.warning(
                "%s%s is not a setting and has no effect%s",
                name,
                found[name],
                f"; did you mean {near[0]}?" if near else "",
            )


def _known() -> set[str]:
    return _NO_SETTINGS | set(_variables(EnvironmentSettings))


def _variables(settings: type[EnvironmentSettings]) -> Iterator[str]:
    yield from map(settings.variable_of, settings.model_fields)
    for each in settings.__subclasses__():
        yield from _variables(each)
