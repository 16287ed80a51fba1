"""Credentials that expire, and sources of them that fail, hang or lie."""

from __future__ import annotations

import datetime
import threading

import botocore.credentials
import pytest
import trio
import trio.testing
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials

from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.credentials import CredentialSource
from task_queue_engine.backends.aws.wire.errors import CredentialsUnusable
from task_queue_engine.backends.aws.wire.sigv4 import Credentials
from task_queue_engine.errors import BackendRefused
from tests.backends.aws.wire.opened_client import opened, put

_START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
_HOUR = 3600.0


class Role:
    """A source of temporary credentials: good for an hour, then for another."""

    def __init__(self, life: float = _HOUR) -> None:
        self.now = _START
        self.life = life
        self.asked = 0
        self.fails: Exception | None = None
        self.gate: threading.Event | None = None

    def load(self) -> RefreshableCredentials:
        data = self._renew()
        return RefreshableCredentials(
            data["access_key"],
            data["secret_key"],
            data["token"],
            _START + datetime.timedelta(seconds=self.life),
            self._renew,
            "role",
            time_fetcher=lambda: self.now,
        )

    def _renew(self) -> dict[str, str]:
        self.asked += 1
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.fails is not None:
            raise self.fails
        return {
            "access_key": f"AKID{self.asked}",
            "secret_key": "secret",
            "token": "token",
            "expiry_time": (self.now + datetime.timedelta(seconds=self.life)).isoformat(),
        }

    def pass_time(self, clock: trio.testing.MockClock, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)
        clock.jump(seconds)


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture
async def source(role: Role, virtual_clock) -> CredentialSource:
    it = CredentialSource(role.load)
    await it.start()
    return it


async def _key(source: CredentialSource) -> str:
    return (source.peek() or await source.get()).access_key


async def _add_key(source: CredentialSource, keys: list[str]) -> None:
    keys.append(await _key(source))


async def test_good_ones_are_not_renewed(role, source, virtual_clock):
    for _ in range(10):
        role.pass_time(virtual_clock, 250)
        assert await _key(source) == "AKID1"
    assert role.asked == 1


async def test_renewed_a_quarter_of_an_hour_before_they_expire(role, source, virtual_clock):
    role.pass_time(virtual_clock, _HOUR - 14 * 60)
    assert await _key(source) == "AKID2"
    role.pass_time(virtual_clock, 60)
    assert await _key(source) == "AKID2"
    role.pass_time(virtual_clock, _HOUR - 14 * 60)
    assert await _key(source) == "AKID3"


async def test_looked_at_once_a_second_at_most(role, source, virtual_clock):
    await source.get()
    assert source.peek() is not None
    virtual_clock.jump(0.9)
    assert source.peek() is not None
    virtual_clock.jump(0.2)
    assert source.peek() is None


async def test_a_source_that_fails_while_there_is_time(role, source, virtual_clock):
    role.fails = OSError("the metadata service is down")
    role.pass_time(virtual_clock, _HOUR - 14 * 60)
    assert await _key(source) == "AKID1"
    assert role.asked == 2
    role.pass_time(virtual_clock, 5)
    assert await _key(source) == "AKID1"
    assert role.asked == 2  # only every half a minute
    role.pass_time(virtual_clock, 12 * 60)  # botocore by itself would refuse by now
    assert await _key(source) == "AKID1"
    role.fails = None
    role.pass_time(virtual_clock, 30)
    assert await _key(source) == "AKID4"


async def test_a_source_that_hangs_while_there_is_time(role, source, virtual_clock):
    role.gate = threading.Event()
    role.pass_time(virtual_clock, _HOUR - 14 * 60)
    keys = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_add_key, source, keys)
        await trio.testing.wait_all_tasks_blocked()
        virtual_clock.jump(1.9)
        await trio.testing.wait_all_tasks_blocked()
        assert keys == []
        virtual_clock.jump(0.1)
    assert keys == ["AKID1"]
    role.gate.set()
    while role.asked < 2 or (await _key(source)) == "AKID1":
        role.pass_time(virtual_clock, 31)
        assert role.now < _START + datetime.timedelta(seconds=_HOUR)
        await trio.to_thread.run_sync(threading.Event().wait, 0.01)
    assert role.asked == 2  # what the abandoned thread brought was taken


async def test_others_go_on_with_the_old_ones_meanwhile(role, source, virtual_clock):
    role.gate = threading.Event()
    role.pass_time(virtual_clock, _HOUR - 14 * 60)
    keys = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_add_key, source, keys)
        await trio.testing.wait_all_tasks_blocked()
        assert await _key(source) == "AKID1"
        assert keys == []
        role.gate.set()
    assert keys == ["AKID2"]
    assert await _key(source) == "AKID2"


async def test_expired_ones_are_not_used(role, source, virtual_clock):
    role.fails = OSError("the metadata service is down")
    role.pass_time(virtual_clock, _HOUR + 1)
    with pytest.raises(CredentialsUnusable, match=r"cannot renew.*metadata service is down"):
        await _key(source)
    role.fails = None
    virtual_clock.jump(1)
    assert await _key(source) == "AKID3"


async def test_many_calls_ask_a_dead_source_once(role, source, virtual_clock):
    role.fails = OSError("down")
    role.pass_time(virtual_clock, _HOUR + 1)
    failed = []

    async def ask() -> None:
        with pytest.raises(CredentialsUnusable):
            await source.get()
        failed.append(1)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(failed) == 20
    assert role.asked == 2


async def test_waiting_for_credentials_counts_towards_the_timeout(server, virtual_clock):
    role = Role()
    role.load = lambda: RefreshableCredentials(  # expired from the start, renewing hangs
        "AKID", "secret", None, _START, role._renew, "role", time_fetcher=lambda: role.now
    )
    role.now = _START - datetime.timedelta(hours=1)
    async with opened(server.url, load_credentials=role.load) as client:
        role.gate = threading.Event()
        role.pass_time(virtual_clock, 2 * _HOUR)
        virtual_clock.rate = 100
        with pytest.raises(CredentialsUnusable, match="within 5 s"):
            await put(client, timeout=5)
        role.gate.set()
    assert server.requests == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (ReadOnlyCredentials("AKID\n", "secret", None), "character"),
        (ReadOnlyCredentials("AKID", "secret", "tok\r\nX-Evil: 1"), "character"),
        (ReadOnlyCredentials("AKID\u00e9", "secret", None), "character"),
        (ReadOnlyCredentials("", "secret", None), "incomplete"),
        (ReadOnlyCredentials("AKID", None, None), "incomplete"),
    ],
)
async def test_what_cannot_be_credentials(virtual_clock, broken, said):
    class Fixed:
        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            return broken

    with pytest.raises(BackendRefused, match=said):
        await CredentialSource(Fixed).start()


async def test_none_at_all(monkeypatch, virtual_clock):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    client = AwsClient(endpoints={"sqs": "http://x", "dynamodb": "http://x"})
    with pytest.raises(BackendRefused, match="no AWS credentials found"):
        async with client.open():
            pass


async def test_half_of_them(monkeypatch, virtual_clock):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    client = AwsClient(endpoints={"sqs": "http://x", "dynamodb": "http://x"})
    with pytest.raises(BackendRefused, match="AWS_SECRET_ACCESS_KEY"):
        async with client.open():
            pass


async def test_static_ones(virtual_clock):
    source = CredentialSource(lambda: botocore.credentials.Credentials("AKID", "secret", "token"))
    await source.start()
    assert await source.get() == Credentials("AKID", "secret", "token")
    assert source.peek() is not None


async def test_a_session_token_is_sent_and_signed(server, virtual_clock, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a/token+=")
    async with opened(server.url, virtual_clock, by_itself=True) as client:
        await put(client)
    (request,) = server.requests
    assert request.headers["x-amz-security-token"] == "a/token+="
    assert "x-amz-security-token" in request.headers["authorization"]
