"""The keys file: what is in it, what is wrong with it, and that changes are seen."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from quart_trio.testing import TrioClient
from trio.testing import MockClock

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.http import create_app
from task_queue_engine.http.auth import LOOK_EVERY
from task_queue_engine.http.key_file import MAX_BYTES, read_key_file
from task_queue_engine.http.principal import Role
from tests.http.conftest import make_settings
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys
from tests.http.test_tasks import body_of

GOOD = f'[keys.a]\nroles = ["read"]\nsha256 = "{"0" * 64}"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "is not UTF-8"),
        (b"[keys.a", "is not TOML (at "),
        (b"", "has no keys in it"),
        (b"# nothing yet\n", "has no keys in it"),
        (b"[key.a]\n", "has [keys.NAME] tables and nothing else"),
        (b"keys = 1\n", "has [keys.NAME] tables and nothing else"),
        (b"[keys]\na = 1\n", "keys.a must be a table"),
        (b'[keys."a b"]\n', "a key's name is 1 to 64"),
        (b'[keys.a]\nroles = ["read"]\n', "keys.a.sha256: must be the 64 hexadecimal digits"),
        (GOOD.replace("0" * 64, "tqe_a-secret").encode(), "keys.a.sha256: must be the 64"),
        (GOOD.replace('["read"]', '"read"').encode(), "keys.a.roles: must be a list"),
        (GOOD.replace('["read"]', "[]").encode(), "keys.a.roles: must be a list"),
        (GOOD.replace('["read"]', '["root"]').encode(), "keys.a.roles: must be of submit, read"),
        (f"{GOOD}types = []\n".encode(), "keys.a.types: must be a list"),
        (
            f"{GOOD}types = ['x']\n".replace('"read"', '"admin"').encode(),
            "keys.a.types: admin is for all types",
        ),
        (f"{GOOD}expires = '2030-01-01'\n".encode(), "keys.a.expires: must be a date"),
        (f"{GOOD}expires = 2030-01-01T00:00:00\n".encode(), "keys.a.expires: must be a date"),
        (f"{GOOD}rate_limit = -1\n".encode(), "keys.a.rate_limit: must be requests a second"),
        (f"{GOOD}rate_limit = true\n".encode(), "keys.a.rate_limit: must be requests a second"),
        (f"{GOOD}type = ['x']\n".encode(), "keys.a: 'type' is none of roles, types"),
        (f"{GOOD}{GOOD}".encode(), "is not TOML"),
        (f"{GOOD}{GOOD.replace('.a]', '.b]')}".encode(), "keys.b.sha256 is that of keys.a"),
        (b"#" * (MAX_BYTES + 1), "has more than"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b"a = " + b"1" * 5000, "is not TOML"),
        (f"{GOOD}rate_limit = nan\n".encode(), "keys.a.rate_limit: must be requests a second"),
        (f"{GOOD}expires = 2030-02-31\n".encode(), "is not TOML (at line 4"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(
    keys: Keys, engine: FakeEngine, content: bytes, said: str
) -> None:
    keys.path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        keys.app(engine)
    message = str(raised.value)
    assert message.startswith(f"TQE_KEYS_FILE: {keys.path}")
    assert said in message
    assert "\n" not in message
    assert "a-secret" not in message


@pytest.mark.parametrize("path", ["nowhere.toml", ".", "a\0b", "x" * 300])
def test_a_file_that_is_not_there(engine: FakeEngine, tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"TQE_KEYS_FILE: .* cannot be read: "):
        create_app(engine, make_settings(keys_file=str(tmp_path / path)))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A reader that hangs in it would keep the server from ever reading its keys again."""
    os.mkfifo(tmp_path / "keys.toml")
    with pytest.raises(ConfigurationError, match="is not a file"):
        read_key_file(str(tmp_path / "keys.toml"))


@pytest.mark.parametrize(
    ("mode", "said"), [(0o600, ""), (0o640, ""), (0o644, "read by every"), (0o666, "written by")]
)
def test_who_may_read_it(
    keys: Keys, engine: FakeEngine, mode: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys.add("reader", Role.READ)
    keys.path.chmod(mode)
    keys.app(engine)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == bool(said)
    assert all(said in warning for warning in warnings)


def test_a_new_file_is_for_its_user_alone(keys: Keys) -> None:
    keys.add("reader", Role.READ)
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_what_people_wrote_into_it_stays(keys: Keys) -> None:
    before = "# whose keys these are\n" + GOOD.rstrip()
    keys.path.write_text(before)
    keys.add("b", Role.SUBMIT, types=('a "quoted"\\type\n',), expires=date(2030, 1, 31))
    assert keys.path.read_text().startswith(before)
    found = {key.principal.name: key for key in read_key_file(str(keys.path)).keys.values()}
    assert found.keys() == {"a", "b"}
    assert found["b"].principal.types == {'a "quoted"\\type\n'}
    assert found["b"].expires_at == datetime(2030, 1, 31, tzinfo=UTC)
    with pytest.raises(ConfigurationError, match="has a key with the name 'b' already"):
        keys.add("b", Role.READ)
    inline = f'keys = {{ a = {{ roles = ["read"], sha256 = "{"0" * 64}" }} }}\n'
    keys.path.write_text(inline)
    with pytest.raises(ConfigurationError, match="is not TOML"):
        keys.add("b", Role.READ)
    assert keys.path.read_text() == inline


class TestReload:
    async def statuses(self, keys: Keys, client: TrioClient) -> dict[str, int]:
        return {
            name: (await client.get("/tasks", headers=keys.headers(name))).status_code
            for name in keys.secrets
        }

    async def test_a_change_is_seen_without_a_restart(
        self, keys: Keys, engine: FakeEngine, mock_clock: MockClock
    ) -> None:
        keys.add("first", Role.READ)
        client = keys.client(engine)
        assert await self.statuses(keys, client) == {"first": 200}
        keys.add("second", Role.READ)
        # At most once a second.
        assert await self.statuses(keys, client) == {"first": 200, "second": 401}
        mock_clock.jump(LOOK_EVERY)
        assert await self.statuses(keys, client) == {"first": 200, "second": 200}
        # Taken out, by an editor that replaces the file.
        entries = keys.path.read_text().split("\n\n")
        new = keys.path.with_suffix(".new")
        new.write_text(entries[1])
        new.replace(keys.path)
        mock_clock.jump(LOOK_EVERY)
        assert await self.statuses(keys, client) == {"first": 401, "second": 200}

    async def test_it_is_looked_at_when_requests_come_and_once_a_second(
        self,
        keys: Keys,
        engine: FakeEngine,
        mock_clock: MockClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        looks = 0
        real = os.stat

        def counted(path: Any, *args: Any, **options: Any) -> os.stat_result:
            nonlocal looks
            looks += str(path) == str(keys.path)
            return real(path, *args, **options)

        monkeypatch.setattr(os, "stat", counted)
        headers = keys.add("reader", Role.READ)
        client = keys.client(engine)
        for _ in range(20):
            await client.get("/tasks", headers=headers)
        assert looks == 1
        mock_clock.jump(3600)
        assert looks == 1
        # One looks and the others wait: none passes with an hour old key.
        keys.path.write_text(GOOD)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(self.is_refused, client, headers)
        assert looks == 2

    async def is_refused(self, client: TrioClient, headers: dict[str, str]) -> None:
        assert (await client.get("/tasks", headers=headers)).status_code == 401

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.write_text("[keys.x"),
            lambda path: path.write_text(""),
            lambda path: path.unlink(),
        ],
        ids=["broken", "empty", "gone"],
    )
    async def test_a_broken_file_keeps_the_keys_and_says_so(
        self,
        keys: Keys,
        engine: FakeEngine,
        mock_clock: MockClock,
        caplog: pytest.LogCaptureFixture,
        spoil: Callable[[Path], None],
    ) -> None:
        keys.add("reader", Role.READ)
        client = keys.client(engine)
        assert "notes" not in await body_of(await client.get("/ready"))
        good = keys.path.read_text()
        spoil(keys.path)
        for _ in range(5):
            mock_clock.jump(LOOK_EVERY)
            assert await self.statuses(keys, client) == {"reader": 200}
        (error,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert error.startswith("TQE_KEYS_FILE: ")
        assert error.endswith("the 1 keys known before stay in force")
        response = await client.get("/ready")  # fit to serve all the same
        (note,) = (await body_of(response))["notes"]
        assert note.startswith("TQE_KEYS_FILE cannot be used since ")
        assert str(keys.path) not in note
        keys.path.write_text(good)
        mock_clock.jump(LOOK_EVERY)
        assert "notes" not in await body_of(await client.get("/ready"))
        assert await self.statuses(keys, client) == {"reader": 200}
