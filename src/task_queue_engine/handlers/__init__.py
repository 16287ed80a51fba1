"""The task types that come with the package: `email`, `image-resize` and `data-export`.

`registry` holds them, and is the default application of the command line (`--app`).
"""

from __future__ import annotations

import logging

from task_queue_engine.handlers import data_export, send_email
from task_queue_engine.handlers.settings import check_settings
from task_queue_engine.registry import TaskRegistry

__all__ = ["check_settings", "registry"]

logger = logging.getLogger(__name__)


def _assemble() -> TaskRegistry:
    assembled = TaskRegistry()
    assembled.include(send_email.tasks)
    assembled.include(data_export.tasks)
    try:
        from task_queue_engine.handlers import image_resize
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "PIL":
            raise  # a defect in the module, not a missing extra
        logger.info(
            "image-resize is not registered, since Pillow is not installed: "
            "pip install 'task-queue-engine[images]'"
        )
    else:
        assembled.include(image_resize.tasks)
    return assembled


registry = _assemble()
