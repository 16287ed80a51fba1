"""`tqe top` in a terminal: a pseudo-terminal, and the real program in it."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cli.runner import TIMEOUT, Shop, tqe

COLOUR = re.compile(rb"\x1b\[(?:[0-9]+;)*3[0-7]m")
RAISES = """
from task_queue_engine.cli.top.terminal import full_screen
import logging, sys
logging.basicConfig(stream=sys.stderr)
with full_screen() as terminal:
    logging.getLogger().warning("said meanwhile")
    sys.stdout.flush()
    print("is up", flush=True)
    {}
"""
# A size that changes in the moment before anything is drawn.
RESIZED = """
import fcntl, struct, sys, termios
import trio
from task_queue_engine.cli.commands import top

class Top:
    async def begin(self):
        pass

    async def run(self, display, keys):
        fcntl.ioctl(sys.stdin, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
        key = await keys.receive()
        print(key, display.size(), flush=True)

trio.run(top._show, Top())
"""


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, slave: int) -> None:
        self.process = process
        self.out = b""
        self._master, self._slave = master, slave
        self.before = termios.tcgetattr(slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, lines: int, columns: int) -> None:
        _set_size(self._slave, lines, columns)
        self.process.send_signal(signal.SIGWINCH)

    def wait_for(self, text: bytes) -> None:
        """In what is written from now on."""
        start, deadline = len(self.out), time.monotonic() + TIMEOUT
        while text not in self.out[start:]:
            said = f"did not write {text!r}: {self.out!r}"
            assert time.monotonic() < deadline, said
            assert self._read() or self.process.poll() is None, said

    def end(self) -> int:
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"did not end: {self.out!r}"
            self._read()
        while select.select([self._master], [], [], 0)[0]:
            self.out += os.read(self._master, 65536)
        return self.process.returncode

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._slave) == self.before

    def _read(self) -> bool:
        """Whether there was anything: what it wrote is waited for, but not for long."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        self.out += os.read(self._master, 65536)
        return True


def _set_size(terminal: int, lines: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def program(path: Path, arguments: Sequence[str], **environment: str) -> Iterator[Terminal]:
    master, slave = os.openpty()
    _set_size(slave, 30, 120)
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        # setsid --ctty: what is typed as Ctrl-C becomes a signal to it
        ["setsid", "--ctty", sys.executable, *arguments],
        cwd=path,
        env=kept | {"TERM": "xterm", "LANG": "C.UTF-8"} | environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    try:
        yield Terminal(process, master, slave)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def test_keys_and_sizes_and_q_leaves_the_terminal_as_it_was(shop: Shop) -> None:
    task_id = shop.submit("echo", '"hello"')
    with program(shop.path, ["-m", "task_queue_engine", "top", "--interval", "0.5"]) as terminal:
        terminal.wait_for(b"q quit")
        assert b"1 wait" in terminal.out
        assert COLOUR.search(terminal.out)
        assert not terminal.is_as_before
        terminal.resize(10, 60)
        terminal.wait_for(b"q quit")
        terminal.type(b"fecho")
        terminal.wait_for(b"only types with: ")
        terminal.type(b"\x1b")
        terminal.wait_for(b"q quit")
        terminal.type(b"c")
        terminal.wait_for(b"select a task")
        terminal.type(b"q")
        assert terminal.end() == 0
        assert terminal.is_as_before
        assert terminal.out.count(b"\x1b[?1049h") == 1  # the other screen, and back
        assert b"\x1b[?1049l" in terminal.out
    assert tqe("status", task_id, "--json").json["status"] == "PENDING"


def test_a_size_that_changes_before_the_first_frame_is_seen(tmp_path: Path) -> None:
    with program(tmp_path, ["-c", RESIZED]) as terminal:
        terminal.wait_for(b"resize (60, 10)")
        assert terminal.end() == 0
        assert terminal.is_as_before


def test_ctrl_c_leaves_the_terminal_as_it_was(shop: Shop) -> None:
    shop.submit("echo", "1")
    with program(shop.path, ["-m", "task_queue_engine", "top"], NO_COLOR="1") as terminal:
        terminal.wait_for(b"q quit")
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert terminal.is_as_before
        assert not COLOUR.search(terminal.out)
        assert terminal.out.rstrip().endswith(b"tqe: interrupted")
        assert b"\x1b[?1049l" in terminal.out


def test_so_does_an_exception_and_what_was_logged_comes_after(tmp_path: Path) -> None:
    with program(tmp_path, ["-c", RAISES.format("1 / 0")]) as terminal:
        assert terminal.end() == 1
        assert terminal.is_as_before
        back = terminal.out.rindex(b"\x1b[?1049l")
        assert terminal.out.index(b"said meanwhile") > back
        assert terminal.out.index(b"ZeroDivisionError") > back


def test_a_terminal_that_is_not_known(tmp_path: Path) -> None:
    with program(tmp_path, ["-c", RAISES.format("")], TERM="no-such-terminal") as terminal:
        assert terminal.end() == 1
        assert b"TERM: 'no-such-terminal' is no terminal that is known here" in terminal.out
        assert terminal.is_as_before


def test_where_there_is_no_terminal_it_is_printed_once(shop: Shop) -> None:
    shop.submit("echo", "1")
    text = tqe("top", "--interval", "0.5")
    assert (text.code, text.err) == (0, "")
    assert "Queue default: 1 wait" in text.out
    assert "\x1b" not in text.out
    seen: dict[str, Any] = tqe("top", "--interval", "0.5", "--json").json
    assert (seen["waiting"], seen["pending_tasks"], seen["workers"]) == (1, 1, [])
    assert seen["rates"]["arriving"] == 0


def test_an_address_that_was_mistyped_is_said_at_once(tmp_path: Path) -> None:
    ran = tqe("top", "--url", "http://127.0.0.1:1")
    assert ran.code == 5
    assert "cannot be reached" in ran.error
    assert tqe("top", "--interval", "0").code == 2
