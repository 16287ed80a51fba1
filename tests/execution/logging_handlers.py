"""Handlers that log, for worker processes."""

from __future__ import annotations

import logging
import logging.config
import multiprocessing
import os
import threading
import time
from typing import Any

logger = logging.getLogger("shop.mails")


def says(payload: Any) -> None:
    logger.debug("looking")
    logger.info("sending to %s", payload)
    try:
        raise ValueError("no such address")
    except ValueError:
        logger.exception("not sent", extra={"address": payload})


def says_from_a_thread(payload: Any) -> None:
    thread = threading.Thread(target=lambda: logger.info("from a thread"))
    thread.start()
    thread.join()


def says_and_hangs(payload: Any) -> None:
    logger.info("before it hangs")
    time.sleep(3600)


def says_and_dies(payload: Any) -> None:
    logger.info("the last words")
    os._exit(3)


def _in_fork(payload: Any) -> None:
    logger.info("from a fork")
    logger.error("trouble in a fork")


def says_from_a_fork(payload: Any) -> None:
    fork = multiprocessing.get_context("fork").Process(target=_in_fork, args=(payload,))
    fork.start()
    fork.join()


def says_by_its_own_logging(payload: Any) -> None:
    """As where the module of the handler sets up logging when it is imported."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "shop %(levelname)s %(message)s"}},
            "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "plain"}},
            "root": {"level": "INFO", "handlers": ["err"]},
        }
    )
    logger.info("by my own")


def says_after_its_end(payload: Any) -> int:
    """From a thread that it leaves behind."""

    def later() -> None:
        time.sleep(0.5)
        logger.info("after the end")

    threading.Thread(target=later).start()
    return os.getpid()
