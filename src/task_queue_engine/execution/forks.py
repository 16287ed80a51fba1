"""What a handler forks (multiprocessing's Pool, above all) is terminated by signals as any other
program is: it must not inherit what the engine's own process does at a signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

_in_children: Mapping[signal.Signals, Any] = {}
_forking = threading.local()


def set_signals_in_forks(handlers: Mapping[signal.Signals, Any]) -> None:
    """What these signals do in forked children from now on; empty: what they do here."""
    global _in_children
    _in_children = dict(handlers)


def _before() -> None:
    if _in_children:
        # Or a signal that comes in the child's first moment is taken the parent's way, and lost.
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _in_children)


def _in_parent() -> None:
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    if _in_children:
        signal.set_wakeup_fd(-1)  # the parent's event loop is not the child's to wake
    for number, handler in _in_children.items():
        # None: set by something that is not Python, which cannot be set again from here.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _in_parent()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
