"""How a client gets to its server: the proxy and the certificates that the environment names.

httpx reads the same variables, but raises whatever comes to hand where one of them is wrong, or
holds what it does not know: an import error for SOCKS, "invalid port" for an address in NO_PROXY.
"""

from __future__ import annotations

import importlib.util
import os
import ssl
from pathlib import Path
from typing import Any

import httpx

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.proxies import ProxySetting, proxy_for

_DEFAULT_PORTS = {"http": 80, "https": 443}
# As many as a server takes as it comes (TQE_MAX_CONNECTIONS): each wait for a task holds one, and
# httpx's own hundred would let a submission wait behind a hundred of them.
_MOST_CONNECTIONS = 1000
# Without a request on them; as httpx has it.
_KEPT_CONNECTIONS = 20
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def http_options(
    base: httpx.URL,
    *,
    headers: dict[str, str],
    transport: httpx.AsyncBaseTransport | httpx.BaseTransport | None,
) -> dict[str, Any]:
    """The arguments of an `httpx.Client` or `httpx.AsyncClient` for this server.

    Raises:
        ConfigurationError: naming the variable.
    """
    options: dict[str, Any] = {"base_url": base, "headers": headers, "trust_env": False}
    if transport is not None:
        return options | {"transport": transport}
    proxy = _proxy(base)
    uses_tls = "https" in (base.scheme, proxy.url.scheme if proxy is not None else "http")
    return options | {
        "proxy": proxy,
        # Without TLS there is nothing to verify, and no file to read for it: this trusts none.
        "verify": _certificates() if uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        "limits": httpx.Limits(
            max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_KEPT_CONNECTIONS
        ),
    }


def _proxy(base: httpx.URL) -> httpx.Proxy | None:
    # A proxy from the environment is not on the way to this machine itself.
    if base.host in _LOOPBACK:
        return None
    port = base.port or _DEFAULT_PORTS[base.scheme]
    setting = proxy_for(base.host, port, base.scheme, "all")
    return None if setting is None else _parse_proxy(setting)


def _parse_proxy(setting: ProxySetting) -> httpx.Proxy:
    url = setting.url if "://" in setting.url else f"http://{setting.url}"
    try:
        proxy = httpx.Proxy(url, ssl_context=_certificates() if url.startswith("https") else None)
    except (httpx.InvalidURL, ValueError):
        proxy = None
    if proxy is None or not proxy.url.host:
        # Not what it is: there may be a password in it.
        raise ConfigurationError(
            "must be like http://[user:password@]host:port", variable=setting.variable
        )
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(
            "a SOCKS proxy needs the package socksio (pip install 'httpx[socks]'); "
            "a server that needs no proxy belongs in NO_PROXY",
            variable=setting.variable,
        )
    return proxy


def _certificates() -> ssl.SSLContext:
    """Trusts SSL_CERT_FILE, SSL_CERT_DIR, or else the list that comes with certifi."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and folder:
        # OpenSSL takes a folder that is not there for an empty one.
        if not Path(folder).is_dir() or not os.access(folder, os.R_OK | os.X_OK):
            raise ConfigurationError(
                f"{folder} is not a folder that can be read", variable="SSL_CERT_DIR"
            )
        return ssl.create_default_context(capath=folder)
    if not file:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"cannot read certificates from {file}: {reason}", variable="SSL_CERT_FILE"
        ) from None
