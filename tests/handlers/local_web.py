"""A web server on 127.0.0.1 and a pretended internet in front of it, for tests of fetching."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Page = Callable[[BaseHTTPRequestHandler], None]

connect_for_real = socket.create_connection


class LocalWeb:
    """Pages by path; `requests` has the paths asked for, `headers` those of the last request."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.port: int = server.server_address[1]
        self.origin = f"{scheme}://127.0.0.1:{self.port}"
        self.pages: dict[str, Page] = {}
        self.requests: list[str] = []
        self.headers: dict[str, str] = {}

    def url(self, path: str) -> str:
        return self.origin + path

    def page(self, path: str, body: bytes, **headers: str) -> str:
        self.pages[path] = answer(200, body, **headers)
        return self.url(path)

    def status(self, path: str, status: int, **headers: str) -> str:
        self.pages[path] = answer(status, b"", **headers)
        return self.url(path)

    def redirect(self, path: str, to: str) -> str:
        return self.status(path, 302, Location=to)


def answer(status: int, body: bytes, **headers: str) -> Page:
    def page(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return page


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is what many of these tests are about."""


@contextmanager
def local_web(tls: ssl.SSLContext | None = None) -> Iterator[LocalWeb]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            web.requests.append(self.path)
            web.headers = dict(self.headers)
            web.pages.get(self.path, answer(404, b""))(self)

        def log_message(self, *args: Any) -> None:
            pass

    server = _QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    web = LocalWeb(server, "http" if tls is None else "https")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class Internet:
    """Hosts with public addresses, all of them played by servers on 127.0.0.1.

    `names` answers name lookups, a list of addresses for each lookup in turn (the last one stays).
    `routes` says where a connection to an address really goes; others, 127.0.0.1 apart, are not
    reachable, and `attempts` has them all.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.routes: dict[tuple[str, int], int] = {}
        self.lookups: list[str] = []
        self.attempts: list[tuple[str, int]] = []

    def host(self, name: str, address: str, web: LocalWeb, port: int = 80) -> None:
        self.names[name] = [[address]]
        self.routes[address, port] = web.port

    def resolve(self, name: str, port: int) -> list[str]:
        self.lookups.append(name)
        if name not in self.names:
            if name.replace(".", "").isdigit() or ":" in name:
                return [name]
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self.names[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def connect(self, address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
        self.attempts.append(address)
        if address in self.routes:
            address = ("127.0.0.1", self.routes[address])
        elif address[0] != "127.0.0.1":
            raise ConnectionRefusedError(111, "Connection refused")
        return connect_for_real(address, *args, **options)
