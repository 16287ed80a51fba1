"""tqe tail, and events from several processes at one address."""

from __future__ import annotations

import json
import signal

from task_queue_engine import EndEvent, GapEvent, StateEvent, TaskStatus
from task_queue_engine.client import Client
from tests.cli.runner import TIMEOUT, Shop, tqe

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\nsecond"


def test_a_task_is_followed_from_another_process(shop: Shop) -> None:
    """One server of two processes, for all that needs one."""
    with shop.serve("serve", "--processes", "2") as server:
        url = server.url
        gate = shop.submit("gate", '"gate-1"')

        # Over the file, until the end.
        with shop.command("tail", gate, "--json") as tail:
            assert tail.stdout is not None
            kinds: list[str] = []
            for line in tail.stdout:
                event = json.loads(line)
                kinds.append(event.get("status", event["event"]))
                if kinds[-1] == "PROCESSING":
                    (shop.path / "gate-1.open").touch()
            assert tail.wait(TIMEOUT) == 0
        assert kinds[-3:] == ["PROCESSING", "COMPLETED", "COMPLETED"]
        assert event["event"] == "end"

        # Over HTTP: what was logged and failed, with all in it inert.
        says = shop.submit("says", json.dumps(HOSTILE))
        ran = tqe("tail", says, "--url", url)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.replace("\n", "").isprintable()
        assert ran.out.count("INFO    shop: \\x1b]0;owned\\x07\\x1b[2J\\u202e") == 2
        assert ran.out.count("\n  second\n") == 2
        assert "COMPLETED" in ran.out

        failed = shop.submit("fail", '"no stock"')
        for way in ((), ("--url", url)):
            ran = tqe("tail", failed, *way)
            assert ran.code == 1
            assert "FAILED" in ran.out
            assert "no stock" in ran.error
        missing = "00000000-0000-7000-8000-000000000000"
        assert {tqe("tail", missing, *way).code for way in ((), ("--url", url))} == {
            tqe("status", missing).code
        }

        # Whichever process a client comes back to: it goes on, or is told that it cannot.
        for _ in range(6):
            waiting = shop.submit("echo", "1", "--delay", "3600")
            with Client(url) as client:
                first = next(client.events(waiting))
            assert isinstance(first, StateEvent)
            assert first.status is TaskStatus.PENDING
            assert tqe("cancel", waiting).code == 0
            with Client(url) as client:
                *before, state, end = client.events(waiting, after=first.id)
            assert all(isinstance(event, GapEvent) for event in before)
            assert isinstance(state, StateEvent)
            assert isinstance(end, EndEvent)
            assert (state.status, end.status) == (TaskStatus.CANCELLED, TaskStatus.CANCELLED)

        # Ctrl-C, which is no error to be explained.
        gate = shop.submit("gate", '"gate-2"')
        with shop.command("tail", gate, "--url", url) as tail:
            assert tail.stdout is not None
            assert gate not in tail.stdout.readline()
            tail.send_signal(signal.SIGINT)
            out, err = tail.communicate(timeout=TIMEOUT)
            assert tail.returncode == 130
            assert "Traceback" not in err + out
            assert "Warning" not in err
        server.signal()
        assert server.wait() == 0
