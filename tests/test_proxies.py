"""HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

import os

import pytest

from task_queue_engine.proxies import ProxySetting, proxy_for


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:80", "::1", True),
        ("[::1]:81", "::1", False),
        ("localhost,::1", "::1", True),
        ("2001:db8::/32", "2001:db8::7", True),
        ("2001:db8::/32", "2001:db9::7", False),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("10.0.0.0/8, 192.0.2.1", "10.1.2.3", True),
        ("10.0.0.0/8 192.0.2.1", "192.0.2.1", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0", "10.0.0.1", False),
        ("example.com", "example.com", True),
        ("example.com", "a.EXAMPLE.com", True),
        (".example.com", "a.example.com", True),
        ("*.example.com", "a.example.com", True),
        ("example.com", "notexample.com", False),
        ("example.com:80", "example.com", True),
        ("example.com:8080", "example.com", False),
        ("*", "example.com", True),
        ("", "example.com", False),
        # What means nothing means nothing.
        ("[::1,:::,:80,.,/,10.0.0.0/99,http://x", "example.com", False),
        ("[::1,:::,:80,.,/,10.0.0.0/99", "192.0.2.1", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, direct: bool) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(host, 80, "http", "all") is None) is direct


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"HTTP_PROXY": "a"}, ProxySetting("a", "HTTP_PROXY")),
        ({"http_proxy": "b", "HTTP_PROXY": "a"}, ProxySetting("b", "http_proxy")),
        ({"ALL_PROXY": "c"}, ProxySetting("c", "ALL_PROXY")),
        ({"all_proxy": "c", "HTTP_PROXY": "a"}, ProxySetting("a", "HTTP_PROXY")),
        ({"HTTPS_PROXY": "d"}, None),
    ],
)
def test_which_variable_it_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: ProxySetting | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("example.com", 80, "http", "all") == found
