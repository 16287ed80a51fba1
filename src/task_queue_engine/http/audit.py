"""The audit log: a line for each change that was asked for, on whose behalf, and what came of it.

Its logger is `task_queue_engine.audit`, so that it can be sent elsewhere. A line's members are its
`extra` too, for JSON. What comes from clients (ids, types, paths) is percent-encoded: one change is
one line, its parts are what they seem, and no terminal obeys it.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import quote

logger = logging.getLogger("task_queue_engine.audit")

# Ids in one line. Log collectors cut lines at 16 KB, and an id is 36 characters.
_IDS = 100
# Characters of what is a client's own text: those of a type's name, or an id with room to spare.
_LONGEST = 128
# What needs no quoting. No space is in it, nor what separates the parts of a line.
_PLAIN = "/:.@+-_~%"
_PLAIN_TEXT = re.compile(rf"[A-Za-z0-9{re.escape(_PLAIN)}]{{0,{_LONGEST}}}")


class Change:
    """What one request changes, gathered on its way."""

    __slots__ = ("action", "details", "path", "task_ids", "task_types")

    def __init__(self) -> None:
        self.action: str | None = None
        """None: nothing to write a line about."""
        self.path = ""
        self.task_ids: list[str] = []
        self.task_types: set[str] = set()
        self.details: dict[str, int] = {}


def write(
    change: Change,
    *,
    key: str,
    address: str,
    status: int | None,
    request_id: str,
) -> None:
    """The line, or some where there are very many ids.

    Args:
        key: the principal's name.
        status: of the answer; None: it never began.
    """
    if change.action is None or not logger.isEnabledFor(logging.INFO):
        return
    types = sorted(map(_inert, change.task_types))
    path = _inert(change.path)
    outcome = "unanswered" if status is None else "done" if status < 400 else "refused"
    about = "".join(f" {name}={count}" for name, count in change.details.items())
    for start in range(0, max(1, len(change.task_ids)), _IDS):
        ids = [*map(_inert, change.task_ids[start : start + _IDS])]
        message = (
            f"{change.action} {outcome} ({'-' if status is None else status}) key={key} "
            f"address={address} task={','.join(ids) or '-'} type={','.join(types) or '-'}{about} "
            f"path={path} request={request_id}"
        )
        extra: dict[str, Any] = {
            "action": change.action,
            "outcome": outcome,
            "status": status,
            "key": key,
            "address": address,
            "path": path,
            "task_ids": ids,
            "task_types": types,
            "request_id": request_id,
            **change.details,
        }
        # Not logger.info, which walks the stack to say that it was called here.
        logger.handle(
            logger.makeRecord(
                logger.name, logging.INFO, __file__, 0, message, (), None, "write", extra
            )
        )


def _inert(text: str) -> str:
    if _PLAIN_TEXT.fullmatch(text):
        return text
    return quote(text[:_LONGEST], safe=_PLAIN, errors="backslashreplace")
