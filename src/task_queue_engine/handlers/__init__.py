"""The task types that come with the package: `email`, `image-resize` and `data-export`.

`registry` holds them, and is the default application of the command line (`--app`). It is put
together when it is first asked for: a process that runs one task type should not pay for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from task_queue_engine.handlers.assembly import check_settings, registry

__all__ = ["check_settings", "registry"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from task_queue_engine.handlers import assembly

    return getattr(assembly, name)
