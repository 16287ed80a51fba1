"""Binding the port, before anything else is started."""

from __future__ import annotations

import errno
import os
import socket
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError

BACKLOG = 1024
"""Connections the kernel keeps for us until they are accepted (it may cap this: somaxconn)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Where the server really listens."""

    host: str
    """The first address, e.g. ``127.0.0.1``."""
    port: int
    """The real one, where PORT was 0."""

    @property
    def url(self) -> str:
        """For the operator and for clients on this machine: ``http://127.0.0.1:8080``."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


async def open_listeners(
    settings: Settings, *, only_monitoring: bool = False
) -> list[trio.SocketListener]:
    """Listening sockets on every address of `TQE_HOST`, at `PORT` (0: one the system picks).

    Args:
        only_monitoring: at `TQE_WORKER_PORT`.

    Clients can connect from now on; they are answered as soon as `serve_http` runs.

    Raises:
        ConfigurationError: naming the port's variable (in use, not allowed), TQE_HOST (unknown, not
            of this machine), or TQE_API_KEYS (no keys, and the host is not loopback).
    """
    variable, port = "PORT", settings.port
    if only_monitoring and settings.worker_port is not None:
        variable, port = "TQE_WORKER_PORT", settings.worker_port
    addresses = await _resolve(settings.host, port)
    exposed = [address for _, address in addresses if not ip_address(_bare(address)).is_loopback]
    if exposed and not settings.asks_for_keys and not settings.allow_public_without_keys:
        raise ConfigurationError(
            f"set at least one API key, or TQE_KEYS_FILE, to listen on {_bare(exposed[0])}, "
            "which other machines may reach; or set TQE_ALLOW_PUBLIC_WITHOUT_KEYS=true where "
            "something else keeps them out",
            variable="TQE_API_KEYS",
        )
    listeners: list[trio.SocketListener] = []
    wanted = port
    unsupported: OSError | None = None
    try:
        for family, address in addresses:
            try:
                listener = await _listen(family, (address[0], port, *address[2:]))
            except OSError as error:
                if len(addresses) > 1 and error.errno in _NO_SUCH_FAMILY:
                    unsupported = error  # `localhost` has an IPv6 address even where IPv6 is off
                    continue
                raise _configuration_error(error, settings.host, wanted, variable) from None
            listeners.append(listener)
            _listening.add(listener.socket)
            port = listener.socket.getsockname()[1]
        if unsupported is not None and not listeners:
            raise _configuration_error(unsupported, settings.host, wanted, variable)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def adopt_listeners(descriptors: Sequence[int]) -> list[trio.SocketListener]:
    """Listening sockets that this process was given at its start; others may accept from the same
    ones. The kernel gives each connection to one of them, and keeps it while all are busy."""
    listeners = []
    for descriptor in descriptors:
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))
        _listening.add(sock)
        listeners.append(trio.SocketListener(sock))
    return listeners


# A child that a handler forks must not keep the port, should this process be killed.
_listening: weakref.WeakSet[trio.socket.SocketType] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for listening in list(_listening):
        descriptor = listening.fileno()
        if descriptor != -1:
            # Not closed: the number might come to stand for another file under the socket's hands,
            # and closing it trio's way would touch the event loop, which is still the parent's.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, descriptor, inheritable=False)
            os.close(nowhere)


os.register_at_fork(after_in_child=_let_go_in_child)


def bound(listeners: Sequence[trio.SocketListener]) -> Bound:
    """Where these listen."""
    host, port, *_ = listeners[0].socket.getsockname()
    return Bound(host=host, port=port)


_Address = tuple[str, int] | tuple[str, int, int, int]
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


async def _resolve(host: str, port: int) -> list[tuple[int, _Address]]:
    try:
        found = await trio.socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise ConfigurationError(
            f"{host!r} is not a host name or address", variable="TQE_HOST"
        ) from None
    return [
        (family, (str(address[0]), *address[1:]))
        for family, _, _, _, address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]


def _bare(address: _Address) -> str:
    return address[0].partition("%")[0]


async def _listen(family: int, address: _Address) -> trio.SocketListener:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        # Lets a restart bind while connections of the last run are in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(address)
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except BaseException:
        sock.close()
        raise


def _configuration_error(error: OSError, host: str, port: int, variable: str) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"{port} on {host} is in use by another program; stop it or choose another port",
            variable=variable,
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"this user may not listen on {port}; ports below 1024 need a privilege",
            variable=variable,
        )
    return ConfigurationError(
        f"cannot listen on {host}: {error.strerror or error}", variable="TQE_HOST"
    )
