"""How many connections fit into the files a process may open (RLIMIT_NOFILE)."""

from __future__ import annotations

import logging
import resource

from task_queue_engine.config import Settings

# Interpreter, event loop, log, listeners; SQLite's two connections with three files each, or the
# connections to AWS.
_OURS = 100
# Files and sockets of a handler while it runs, and of a worker process.
_A_HANDLER = 8
_A_PROCESS = 3

logger = logging.getLogger("task_queue_engine.http")


def raise_open_files_limit() -> None:
    """Set the soft limit of this process to the hard one, where the system allows it.

    The soft one is low (1024 mostly) for the sake of programs that use select(); a server with
    handlers in it needs more. For programs that are a server, not for libraries in another's.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # some systems have a lower limit that they do not tell
            logger.debug("the limit for open files stays at %d", soft)


def fitting_connections(settings: Settings, reserve: int) -> int:
    """`TQE_MAX_CONNECTIONS`, or as many as fit beside what the engine and its handlers open.

    `reserve` connections come on top. At least a quarter of all files go to connections.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections
    if limit == resource.RLIM_INFINITY:
        return wanted
    others = _OURS + _A_HANDLER * settings.worker_count + _A_PROCESS * settings.processes + reserve
    room = max(limit - others, limit // 4)
    if wanted <= room:
        return wanted
    logger.warning(
        "TQE_MAX_CONNECTIONS: %d do not fit into the %d files this process may open "
        "(ulimit -n); at most %d are kept",
        wanted,
        limit,
        room,
    )
    return room
