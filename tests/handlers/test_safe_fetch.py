from __future__ import annotations

import pickle
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network

import pytest
import trustme

from task_queue_engine.clock import ManualClock
from task_queue_engine.handlers.fetch.address_policy import AddressPolicy
from task_queue_engine.handlers.fetch.safe_fetch import (
    FetchFailed,
    FetchPolicy,
    FetchRefused,
    check_url,
    fetch,
)
from tests.handlers.local_web import Internet, LocalWeb, answer, local_web

PUBLIC = FetchPolicy(max_bytes=10_000, connect_timeout=2, read_timeout=2, total_timeout=10)
"""As for users: nothing private."""

LOCAL = FetchPolicy(
    max_bytes=10_000,
    addresses=AddressPolicy(allow_networks=(ip_network("127.0.0.1/32"),)),
    connect_timeout=2,
    read_timeout=2,
    total_timeout=10,
)


# --- what is fetched ------------------------------------------------------------------------


def test_a_public_host_is_fetched(web: LocalWeb, internet: Internet) -> None:
    web.page("/cat.png?size=1", b"a cat")
    internet.host("cats.example", "93.184.215.14", web)
    body = fetch("http://cats.example/cat.png?size=1", PUBLIC, resolve=internet.resolve)
    assert body == b"a cat"
    assert internet.attempts == [("93.184.215.14", 80)]
    assert web.headers["Host"] == "cats.example"
    assert web.headers["Accept-Encoding"] == "identity"


def test_an_allowed_private_network_is_fetched_from(web: LocalWeb, internet: Internet) -> None:
    assert fetch(web.page("/a", b"inside"), LOCAL) == b"inside"


def test_the_next_address_is_tried_where_one_does_not_answer(
    web: LocalWeb, internet: Internet
) -> None:
    web.page("/", b"second")
    internet.host("cats.example", "93.184.215.14", web)
    internet.names["cats.example"] = [["93.184.215.13", "93.184.215.14"]]
    assert fetch("http://cats.example/", PUBLIC, resolve=internet.resolve) == b"second"
    assert internet.attempts == [("93.184.215.13", 80), ("93.184.215.14", 80)]


def test_proxies_of_the_environment_are_ignored(
    web: LocalWeb, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch(web.page("/a", b"direct"), LOCAL) == b"direct"


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd00:ec2::254]/",
        # Spellings only the resolver knows how to read.
        "http://2130706433/",
        "http://0x7f.1/",
        "http://017700000001/",
        "http://127.1/",
    ],
)
def test_private_addresses_are_refused_before_any_connection(url: str, internet: Internet) -> None:
    with pytest.raises(FetchRefused, match="no connection is made to"):
        fetch(url, PUBLIC)
    assert internet.attempts == []


def test_a_name_for_a_private_address_is_refused_without_saying_which(internet: Internet) -> None:
    internet.names["cats.example"] = [["10.20.30.40"]]
    with pytest.raises(FetchRefused) as caught:
        fetch("http://cats.example/", PUBLIC, resolve=internet.resolve)
    assert str(caught.value) == "no connection is made to cats.example: it is a private address"
    assert internet.attempts == []


def test_one_private_address_among_public_ones_refuses_the_name(
    web: LocalWeb, internet: Internet
) -> None:
    internet.host("cats.example", "93.184.215.14", web)
    internet.names["cats.example"] = [["93.184.215.14", "127.0.0.1"]]
    with pytest.raises(FetchRefused, match="loopback"):
        fetch("http://cats.example/", PUBLIC, resolve=internet.resolve)
    assert internet.attempts == []


def test_rebinding_between_check_and_connection_gains_nothing(
    web: LocalWeb, internet: Internet
) -> None:
    web.page("/", b"public")
    internet.host("rebind.example", "93.184.215.14", web)
    internet.names["rebind.example"] = [["93.184.215.14"], ["127.0.0.1"]]
    assert fetch("http://rebind.example/", PUBLIC, resolve=internet.resolve) == b"public"
    # Looked up once; the connection went to the answer that was checked.
    assert internet.lookups == ["rebind.example"]
    assert internet.attempts == [("93.184.215.14", 80)]


def test_rebinding_between_redirects_is_refused(web: LocalWeb, internet: Internet) -> None:
    web.redirect("/", "/again")
    internet.host("rebind.example", "93.184.215.14", web)
    internet.names["rebind.example"] = [["93.184.215.14"], ["127.0.0.1"]]
    with pytest.raises(FetchRefused, match=r"rebind\.example: it is a loopback address"):
        fetch("http://rebind.example/", PUBLIC, resolve=internet.resolve)
    assert internet.attempts == [("93.184.215.14", 80)]


def test_other_ports_of_public_hosts_are_refused(internet: Internet) -> None:
    internet.names["mail.example"] = [["93.184.215.14"]]
    with pytest.raises(FetchRefused, match="it is port 25, and only 80, 443 may be used"):
        fetch("http://mail.example:25/", PUBLIC, resolve=internet.resolve)
    assert internet.attempts == []


# --- redirects ------------------------------------------------------------------------------


def test_redirects_are_followed(web: LocalWeb, internet: Internet) -> None:
    web.redirect("/1", "/2")
    web.redirect("/2", web.url("/3"))
    web.page("/3", b"found")
    assert fetch(web.url("/1"), LOCAL) == b"found"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2/",
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "http://[::1]/",
        "//10.0.0.1/x",
    ],
)
def test_redirects_to_private_addresses_are_refused(
    target: str, web: LocalWeb, internet: Internet
) -> None:
    with pytest.raises(FetchRefused, match="no connection is made to"):
        fetch(web.redirect("/", target), LOCAL)
    assert internet.attempts == [("127.0.0.1", web.port)]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("file:///etc/passwd", "must start with http"),
        ("ftp://example.com/x", "must start with http"),
        ("gopher://127.0.0.1:25/", "must start with http"),
        ("http://user:secret@example.com/", "credentials"),
        ("http://exa mple/", "no name and no address"),
        ("http://127.0.0.1:99999/", "a port that is none"),
        ("http://[::1", "bad redirect"),
    ],
)
def test_odd_redirects_are_refused(
    target: str, complaint: str, web: LocalWeb, internet: Internet
) -> None:
    with pytest.raises(FetchRefused, match=complaint):
        fetch(web.redirect("/", target), LOCAL)
    assert internet.attempts == [("127.0.0.1", web.port)]


def test_a_redirect_loop_ends(web: LocalWeb, internet: Internet) -> None:
    with pytest.raises(FetchRefused, match="more than 5 redirects"):
        fetch(web.redirect("/", "/"), LOCAL)
    assert len(web.requests) == 6


def test_the_body_of_a_redirect_is_not_read(web: LocalWeb, internet: Internet) -> None:
    hung_up = threading.Event()

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/here")
        request.send_header("Connection", "close")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x" * 65536)
        except OSError:
            hung_up.set()

    web.pages["/"] = endless
    web.page("/here", b"found")
    assert fetch(web.url("/"), LOCAL) == b"found"
    assert hung_up.wait(20)


# --- size -----------------------------------------------------------------------------------


def test_a_body_of_exactly_the_limit_is_taken(web: LocalWeb, internet: Internet) -> None:
    assert len(fetch(web.page("/", b"x" * 10_000), LOCAL)) == 10_000


def test_an_announced_body_over_the_limit_is_not_read(web: LocalWeb, internet: Internet) -> None:
    web.pages["/"] = answer(200, b"", Content_Length=str(10**15))
    with pytest.raises(FetchRefused, match="more than the limit of 10000 bytes"):
        fetch(web.url("/"), LOCAL)


def test_a_chunked_body_over_the_limit_is_cut_off(web: LocalWeb, internet: Internet) -> None:
    hung_up = threading.Event()

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")
        except OSError:
            hung_up.set()

    web.pages["/"] = endless
    with pytest.raises(FetchRefused, match="more than the limit of 10000 bytes"):
        fetch(web.url("/"), LOCAL)
    assert hung_up.wait(20)


def test_a_compressed_body_is_refused(web: LocalWeb, internet: Internet) -> None:
    url = web.page("/", b"whatever", Content_Encoding="gzip")
    with pytest.raises(FetchRefused, match="compressed"):
        fetch(url, LOCAL)


# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 451])
def test_these_answers_are_final(status: int, web: LocalWeb, internet: Internet) -> None:
    with pytest.raises(FetchRefused, match=f"127.0.0.1 answered {status}"):
        fetch(web.status("/", status), LOCAL)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_these_answers_pass(status: int, web: LocalWeb, internet: Internet) -> None:
    with pytest.raises(FetchFailed, match=f"127.0.0.1 answered {status}") as caught:
        fetch(web.status("/", status), LOCAL)
    assert caught.value.retry_after is None


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("99999999999999999999", 3600.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), 3600.0),
        ("soon", None),
        ("-5", None),
        ("1" * 5000, None),
    ],
)
def test_the_server_says_when_to_come_back(
    header: str, seconds: float | None, web: LocalWeb, internet: Internet
) -> None:
    url = web.status("/", 429, Retry_After=header)
    with pytest.raises(FetchFailed) as caught:
        fetch(url, LOCAL, clock=ManualClock(NOW))
    assert caught.value.retry_after == seconds


def test_no_connection_is_a_passing_failure(internet: Internet) -> None:
    internet.names["down.example"] = [["93.184.215.14"]]
    with pytest.raises(FetchFailed, match=r"down\.example: .*refused"):
        fetch("http://down.example/", PUBLIC, resolve=internet.resolve)


def test_an_unknown_name_is_a_passing_failure(internet: Internet) -> None:
    with pytest.raises(FetchFailed, match=r"nobody\.example: the name lookup failed"):
        fetch("http://nobody.example/", PUBLIC, resolve=internet.resolve)


def test_a_name_no_resolver_takes_is_refused(internet: Internet) -> None:
    with pytest.raises(FetchRefused, match="not a host name"):
        fetch(f"http://{'a' * 64}.example/", PUBLIC)


def test_a_body_cut_short_is_a_passing_failure(web: LocalWeb, internet: Internet) -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        answer(200, b"half", Content_Length="8")(request)
        request.close_connection = True

    web.pages["/"] = cut
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1: "):
        fetch(web.url("/"), LOCAL)


def test_silence_times_out(web: LocalWeb, internet: Internet) -> None:
    over = threading.Event()
    web.pages["/"] = lambda request: over.wait(5) and None
    policy = FetchPolicy(max_bytes=10, addresses=LOCAL.addresses, read_timeout=0.05)
    try:
        with pytest.raises(FetchFailed, match="timed out waiting for data"):
            fetch(web.url("/"), policy)
    finally:
        over.set()


@pytest.mark.parametrize("where", ["head", "body"])
def test_dripping_does_not_get_round_the_total_time(
    where: str, web: LocalWeb, internet: Internet
) -> None:
    over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n")
        request.wfile.write(b"\r\n" if where == "body" else b"X-Slow: ")
        while not over.wait(0.01):
            request.wfile.write(b"x")

    web.pages["/"] = drip
    policy = FetchPolicy(
        max_bytes=10_000, addresses=LOCAL.addresses, read_timeout=5, total_timeout=0.2
    )
    try:
        with pytest.raises(FetchFailed, match=r"in total|timed out"):
            fetch(web.url("/"), policy)
    finally:
        over.set()


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _contexts(authority: trustme.CA, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def test_tls_is_about_the_host_name_though_the_address_is_connected_to(
    authority: trustme.CA, internet: Internet
) -> None:
    server, client = _contexts(authority, "cats.example")
    asked_for: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    with local_web(server) as web:
        web.page("/", b"secret cat")
        internet.host("cats.example", "93.184.215.14", web, port=443)
        body = fetch("https://cats.example/", PUBLIC, resolve=internet.resolve, ssl_context=client)
    assert body == b"secret cat"
    assert asked_for == ["cats.example"]
    assert internet.attempts == [("93.184.215.14", 443)]


def test_a_certificate_for_another_name_is_not_accepted(
    authority: trustme.CA, internet: Internet
) -> None:
    server, client = _contexts(authority, "dogs.example")
    with local_web(server) as web:
        web.page("/", b"not a cat")
        internet.host("cats.example", "93.184.215.14", web, port=443)
        with pytest.raises(FetchFailed, match=r"(?i)certificate"):
            fetch("https://cats.example/", PUBLIC, resolve=internet.resolve, ssl_context=client)
        assert web.requests == []


def test_an_unknown_authority_is_not_accepted(authority: trustme.CA, internet: Internet) -> None:
    server, _ = _contexts(authority, "cats.example")
    with local_web(server) as web:
        internet.host("cats.example", "93.184.215.14", web, port=443)
        with pytest.raises(FetchFailed, match=r"(?i)certificate"):
            fetch("https://cats.example/", PUBLIC, resolve=internet.resolve)


# --- URLs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://example.com/", "must start with http:// or https://"),
        ("//example.com/", "must start with http:// or https://"),
        ("cat.png", "must start with http:// or https://"),
        ("http:///cat.png", "has no host"),
        ("http://user@example.com/", "credentials"),
        ("http://user:password@example.com/", "credentials"),
        ("http://exa mple.com/", "no name and no address"),
        ("http://a%0d%0ab/", "no name and no address"),
        ("http://[fe80::1%25eth0]/", "no name and no address"),
        ("http://0177.0.0.1/", "is not a URL"),
        ("http://exa\nmple.com/", "is not a URL"),
        ("http://example.com:99999/", "a port that is none"),
        ("http://example.com:0/", "a port that is none"),
        ("http://example.com/" + "x" * 8000, "longer than 8000"),
    ],
)
def test_urls_that_cannot_be_fetched_are_told_apart_without_a_network(
    url: str, complaint: str, internet: Internet
) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_url(url)
    with pytest.raises(FetchRefused, match=complaint):
        fetch(url, PUBLIC)


def test_errors_cross_the_border_of_a_process_whole() -> None:
    failed = pickle.loads(pickle.dumps(FetchFailed("busy", retry_after=3.0)))
    assert (str(failed), failed.retry_after) == ("busy", 3.0)
    assert str(pickle.loads(pickle.dumps(FetchRefused("gone")))) == "gone"
