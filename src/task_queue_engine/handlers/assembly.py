"""All task types in one registry, and a look at their settings."""

from __future__ import annotations

import logging

from task_queue_engine.handlers.email import handler as email_handler
from task_queue_engine.handlers.email.settings import EmailSettings
from task_queue_engine.handlers.export import handler as export_handler
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.image.settings import ImageSettings
from task_queue_engine.registry import TaskRegistry

logger = logging.getLogger(__name__)


def _assemble() -> TaskRegistry:
    assembled = TaskRegistry()
    assembled.include(email_handler.tasks)
    assembled.include(export_handler.tasks)
    try:
        from task_queue_engine.handlers.image import handler as image_handler
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "PIL":
            raise  # a defect in the module, not a missing extra
        logger.info(
            "image-resize is not registered, since Pillow is not installed: install this package "
            "with its extra 'images'"
        )
    else:
        assembled.include(image_handler.tasks)
    return assembled


def check_settings() -> None:
    """Look early at what the handlers read when they run, so that a program can refuse to start.

    Raises ConfigurationError when a variable of these task types is wrong.
    """
    EmailSettings()
    ExportSettings()
    ImageSettings()


registry = _assemble()
