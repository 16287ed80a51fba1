"""HTTP proxies between us and AWS: HTTPS_PROXY and NO_PROXY, as botocore understands them.

Only for https endpoints, through CONNECT (RFC 9110, section 9.3.6). A plain http endpoint is a
local server, which no proxy has to be asked for.
"""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote

import trio

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.proxies import proxy_for

_URL = re.compile(
    r"(http://)?((?P<user>[^@/]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(:(?P<port>[0-9]{1,5}))?/?"
)
# Bytes: a few lines of headers.
_MAX_ANSWER = 16 * 1024


@dataclass(frozen=True, slots=True)
class Proxy:
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of Proxy-Authorization."""


class ProxyRefused(OSError):
    """The proxy does not connect us."""


def find_proxy(host: str, port: int) -> Proxy | None:
    """The proxy that HTTPS_PROXY names, unless NO_PROXY lists `host`.

    Raises:
        ConfigurationError: naming HTTPS_PROXY.
    """
    setting = proxy_for(host, port, "https")
    if setting is None:
        return None
    parts = _URL.fullmatch(setting.url)
    number = int(parts["port"] or 80) if parts else 0
    if parts is None or not 0 < number < 2**16:
        raise ConfigurationError(
            "must be http://[user:password@]host:port", variable=setting.variable
        )
    authorization = None
    if parts["user"]:
        authorization = "Basic " + b64encode(unquote(parts["user"]).encode()).decode()
    return Proxy(parts["host"].strip("[]"), number, authorization)


async def tunnel(sock: socket.socket, proxy: Proxy, target: str) -> None:
    """Have the proxy at the other end of `sock` connect us to `target`, "host:port".

    Raises:
        OSError: ProxyRefused among them.
    """
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.send("\r\n".join([*lines, "", ""]).encode())  # new, so there is room for all of it
    answer = b""
    while b"\r\n\r\n" not in answer:
        await trio.lowlevel.wait_readable(sock)
        # The other side of the tunnel says nothing before we do: this cannot take its first words.
        data = sock.recv(4096)
        answer += data
        if not data or len(answer) > _MAX_ANSWER:
            raise ProxyRefused("the proxy's answer is not one to CONNECT")
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if not re.match(r"HTTP/1\.[01] 2", status):
        raise ProxyRefused(f"the proxy answered {status:.100}")
