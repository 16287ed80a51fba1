"""What the environment says about the way to a server: used, or refused by its name."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
import trio

from task_queue_engine.client import AsyncClient
from task_queue_engine.errors import BackendUnavailable, ConfigurationError

NO_TASK = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://localhost:1080"),
        ("all_proxy", "socks5h://localhost:1080"),
        ("HTTP_PROXY", "socks4://localhost:1080"),
        ("HTTP_PROXY", "http://[::1"),
        ("HTTP_PROXY", "http://proxy:port"),
        ("http_proxy", "http://"),
        ("HTTP_PROXY", "://"),
        ("HTTP_PROXY", "ftp://proxy:21"),
        ("HTTP_PROXY", "http://user:secret@:80"),
        ("HTTP_PROXY", "http://pro\x00xy"),
    ],
)
def test_a_proxy_that_cannot_be_one(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    if "\x00" not in value:
        monkeypatch.setenv(variable, value)
    else:
        monkeypatch.setattr("task_queue_engine.proxies.getproxies", lambda: {"http": value})
    with pytest.raises(ConfigurationError) as caught:
        AsyncClient("http://example.com")
    assert caught.value.variable == variable
    assert "secret" not in str(caught.value)
    AsyncClient("http://[::1]:8080")  # none is on the way to this machine


@pytest.mark.parametrize("no_proxy", ["::1", "[::1]", "localhost,::1,fe80::/10", "[::1", "a b"])
def test_no_proxy_may_hold_anything(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    AsyncClient("http://example.com")
    AsyncClient("https://example.com")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_proxy_is_used(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    asked: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some(65_536)))
        await stream.send_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        monkeypatch.setenv(variable, f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        async with AsyncClient("http://tasks.example:8080", retries=0) as client:
            with pytest.raises(BackendUnavailable, match="503"):
                await client.get(NO_TASK)
        nursery.cancel_scope.cancel()
    assert asked[0].startswith(f"GET http://tasks.example:8080/tasks/{NO_TASK} ".encode())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("what", ["missing", "wrong kind", "nonsense"])
def test_certificates_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, what: str
) -> None:
    path = tmp_path / "certificates"
    if what == "nonsense":
        path.write_text("nonsense")
    elif what == "wrong kind" and variable == "SSL_CERT_FILE":
        path.mkdir()
    elif what == "wrong kind":
        path.touch()
    monkeypatch.setenv(variable, str(path))
    for url in ("https://example.com", "https://localhost"):
        with pytest.raises(ConfigurationError) as caught:
            AsyncClient(url)
        assert caught.value.variable == variable
        assert str(path) in str(caught.value)
    AsyncClient("http://example.com")  # has no use for it


def test_certificates_that_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    AsyncClient("https://example.com")
    monkeypatch.delenv("SSL_CERT_DIR")
    AsyncClient("https://example.com", transport=httpx.MockTransport(lambda _: httpx.Response(204)))
    AsyncClient("https://example.com")
