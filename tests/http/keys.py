"""A keys file for tests, and apps that read it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import trio
from quart_trio import QuartTrio
from quart_trio.testing import TrioClient

from task_queue_engine.config import Settings
from task_queue_engine.http import create_app
from task_queue_engine.http.auth import LOOK_EVERY
from task_queue_engine.http.key_file import add_to_file, make_key
from task_queue_engine.http.principal import Role
from tests.http.fakes import FakeEngine
from tests.http.wire import Server, get

JSON = {"Content-Type": "application/json"}


class Keys:
    """A keys file and the keys that are in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}

    def add(
        self, name: str, *roles: Role, types: tuple[str, ...] = (), expires: date | None = None
    ) -> dict[str, str]:
        """Returns the headers for it."""
        made = make_key(name, roles=roles, types=types, expires=expires)
        add_to_file(str(self.path), name, made.entry)
        self.secrets[name] = made.key
        return self.headers(name)

    async def are_read_by(self, server: Server) -> None:
        """Wait until the server knows what is in the file now. A clock that jumps may pass over the
        time that it allows for reading."""
        key = self.add("newest", Role.READ)["Authorization"]
        while True:
            wire = await server.connect()
            await wire.send(get("/tasks", Authorization=key))
            if (await wire.answer()).status == 200:
                return
            await trio.sleep(LOOK_EVERY)

    def headers(self, name: str) -> dict[str, str]:
        return JSON | {"Authorization": f"Bearer {self.secrets[name]}"}

    def app(self, engine: FakeEngine, **settings: Any) -> QuartTrio:
        given = {"host": "127.0.0.1", "port": 0, "keys_file": str(self.path), **settings}
        return create_app(engine, Settings(_env_file=None, **given))

    def client(self, engine: FakeEngine, **settings: Any) -> TrioClient:
        return self.app(engine, **settings).test_client()  # type: ignore[return-value] # as conftest
