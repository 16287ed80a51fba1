"""Streams of events that a page's script listens to by its session: they end with it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine.http import session
from task_queue_engine.http.auth import Authenticator
from task_queue_engine.http.event_stream import HEARTBEAT
from task_queue_engine.http.principal import Role
from task_queue_engine.http.session import COOKIE
from tests.http.conftest import Serve, make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys
from tests.http.test_events import follow

SECRET = "s" * 32


@pytest.mark.parametrize("how", ["it is old", "no key", "another key"])
async def test_a_session_that_ends_ends_its_streams(
    engine: FakeEngine,
    keys: Keys,
    serve: Serve,
    socket_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    keys.add("reader", Role.READ)
    settings = {"keys_file": str(keys.path), "session_secret": SECRET}
    known = Authenticator(make_settings(**settings))
    cookie = known.signer.begin(known.key_of(keys.secrets["reader"].encode()))
    async with serve(**settings) as server:
        source = await follow(server, "/events", Cookie=f"{COOKIE}={cookie}")
        assert (await source.block()).startswith(":")
        for _ in range(3):
            assert await source.block() == ":"
        if how == "it is old":
            now = session.time.time()
            monkeypatch.setattr(session.time, "time", lambda: now + session.LASTS + 2)
        else:
            keys.path.write_text("")
            keys.add("reader" if how == "another key" else "another", Role.READ)
            await keys.are_read_by(server)
        with trio.fail_after(10 * HEARTBEAT):
            await source.rest()
