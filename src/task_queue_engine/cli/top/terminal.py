"""The terminal, by curses: it has the screen for itself, and gives it back as it was."""

from __future__ import annotations

import curses
import logging
import os
import signal
import sys
import termios
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

from task_queue_engine.cli.cells import clip
from task_queue_engine.cli.top.lines import Line, Style
from task_queue_engine.engine.loggers import NAME
from task_queue_engine.errors import ConfigurationError

SIGNALS = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP)

_KEYS: dict[int | str, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "page_up",
    curses.KEY_NPAGE: "page_down",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    "\n": "enter",
    "\r": "enter",
    "\x1b": "escape",
    "\x08": "backspace",
    "\x7f": "backspace",
    "\x0c": "resize",  # Ctrl-L: whatever another program has written over it goes
}
# Milliseconds in which the rest of an arrow key follows its escape character: curses blocks for so
# long after the escape key itself. Its own default is a second.
_ESCAPE_DELAY = 25
# Log lines that are kept for when the screen is given back: the last ones say most.
_HELD_LINES = 100
# A terminal that has gone is always readable, and has no keys.
_MOST_EMPTY_READS = 20
_AFTER_AN_EMPTY_READ = 0.05


class Terminal:
    """A Display, and the keys that are pressed."""

    def __init__(self, window: curses.window) -> None:
        self._window = window
        self._styles = _styles()

    def size(self) -> tuple[int, int]:
        height, width = self._window.getmaxyx()
        return width, height

    def draw(self, lines: Sequence[Line]) -> None:
        width, height = self.size()
        encoding = self._window.encoding
        self._window.erase()
        for number, line in enumerate(lines[:height]):
            text = clip(line.text, width).encode(encoding, "replace").decode(encoding)
            # Raised for the last cell of all, after it is written: the cursor has no place to go.
            with suppress(curses.error):
                self._window.addstr(number, 0, text, self._styles[line.style])
        # Blocks where the terminal does: there is nothing else for this program to do.
        self._window.refresh()

    async def read(self, keys: trio.MemorySendChannel[str], signals: AsyncIterator[int]) -> None:
        """Send each key: a character, or a name as in `_KEYS`; "resize" for a new size too. SIGTERM
        and a terminal that has gone end the keys.

        Args:
            signals: of `SIGNALS`, received since before there was a screen: a size that changes
                while the first is drawn is not told a second time.
        """
        with keys:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_signals, keys, signals, nursery.cancel_scope)
                await self._read_keys(keys)
                nursery.cancel_scope.cancel()

    async def _read_keys(self, keys: trio.MemorySendChannel[str]) -> None:
        empty = 0
        while empty < _MOST_EMPTY_READS:
            await trio.lowlevel.wait_readable(sys.stdin.fileno())
            empty += 1
            while (key := self._next_key()) is not None:
                empty = 0
                await self._send(keys, key)
            if empty:
                await trio.sleep(_AFTER_AN_EMPTY_READ)

    async def _read_signals(
        self,
        keys: trio.MemorySendChannel[str],
        signals: AsyncIterator[int],
        ends: trio.CancelScope,
    ) -> None:
        async for number in signals:
            if number != signal.SIGWINCH:
                ends.cancel()
                return
            await self._send(keys, "resize")

    async def _send(self, keys: trio.MemorySendChannel[str], key: str) -> None:
        if key == "resize":
            size = os.get_terminal_size(sys.stdout.fileno())
            with suppress(curses.error):  # a size of 0, of a terminal that does not know its own
                # Not resizeterm, which sends itself a key for it.
                curses.resize_term(max(1, size.lines), max(1, size.columns))
            self._window.clear()
        await keys.send(key)

    def _next_key(self) -> str | None:
        try:
            key = self._window.get_wch()
        except curses.error:
            return None
        return _KEYS.get(key, key if isinstance(key, str) else "")


@contextmanager
def full_screen() -> Iterator[Terminal]:
    """The terminal of this process, as it was at the end, whatever ends it.

    Raises:
        ConfigurationError: TERM names no terminal that is known here.
    """
    attributes = termios.tcgetattr(sys.stdin)
    curses.set_escdelay(_ESCAPE_DELAY)
    try:
        window = curses.initscr()
    except curses.error:
        raise ConfigurationError(
            f"{os.environ.get('TERM', '')!r} is no terminal that is known here: try "
            "xterm-256color, or tqe top --once",
            variable="TERM",
        ) from None
    logs = _HeldLogs()
    try:
        curses.noecho()
        curses.cbreak()
        with suppress(curses.error):
            curses.curs_set(0)
        window.keypad(True)
        window.nodelay(True)
        yield Terminal(window)
    finally:
        window.keypad(False)
        curses.endwin()
        # And what was typed ahead is not for the shell.
        termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, attributes)
        logs.release()


class _HeldLogs:
    """What is logged meanwhile comes afterwards: it would be written across the screen."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque(maxlen=_HELD_LINES)
        self._handlers = {
            handler
            for name in (None, NAME)
            for handler in logging.getLogger(name).handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr
        }
        for handler in self._handlers:
            handler.setStream(self)

    def write(self, text: str) -> None:
        self._texts.append(text)

    def flush(self) -> None:
        """There is nothing to flush."""

    def release(self) -> None:
        for handler in self._handlers:
            handler.setStream(sys.stderr)
        sys.stderr.write("".join(self._texts))
        sys.stderr.flush()


def _styles() -> dict[Style, int]:
    styles = {
        Style.PLAIN: curses.A_NORMAL,
        Style.TITLE: curses.A_BOLD,
        Style.HEADER: curses.A_DIM,
        Style.BAD: curses.A_BOLD,
        Style.SELECTED: curses.A_REVERSE,
    }
    # https://no-color.org: set, to whatever but nothing. Bold and reverse are no colours.
    if not os.environ.get("NO_COLOR"):
        with suppress(curses.error):
            curses.start_color()
            curses.use_default_colors()
            curses.init_pair(1, curses.COLOR_RED, -1)
            curses.init_pair(2, curses.COLOR_CYAN, -1)
            styles[Style.BAD] = curses.color_pair(1)
            styles[Style.HEADER] = curses.color_pair(2)
    return styles
