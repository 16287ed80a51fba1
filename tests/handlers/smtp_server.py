"""A real SMTP server on the loopback, in a thread of its own (aiosmtpd runs on asyncio)."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Script:
    """What the server says where it is not to say yes."""

    greeting: str | None = None
    """Sent instead of a conversation; the connection is then closed. "" closes at once."""
    mail: str | None = None
    recipients: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    hang_up_after_data: bool = False


@dataclass
class Mail:
    sender: str
    recipients: list[str]
    options: list[str]
    content: bytes
    over_tls: bool
    login: str | None

    @property
    def message(self) -> EmailMessage:
        parsed = email.message_from_bytes(self.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


@dataclass
class Server:
    port: int
    script: Script
    mails: list[Mail] = field(default_factory=list)
    conversations: int = 0

    # Names and signatures are aiosmtpd's.
    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, name: str, responses: list[str]
    ) -> list[str]:
        session.host_name = name
        self.conversations += 1
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, sender: str, options: list[str]
    ) -> str:
        if self.script.mail is not None:
            return self.script.mail
        envelope.mail_from = sender
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, to: str, options: list[str]
    ) -> str:
        if to in self.script.recipients:
            return self.script.recipients[to]
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.script.data is not None:
            return self.script.data
        content = envelope.original_content
        assert content is not None
        assert envelope.mail_from is not None
        login = session.auth_data.login.decode() if session.auth_data else None
        self.mails.append(
            Mail(
                sender=envelope.mail_from,
                recipients=list(envelope.rcpt_tos),
                options=list(envelope.mail_options),
                content=content,
                over_tls=server.transport.get_extra_info("sslcontext") is not None,
                login=login,
            )
        )
        if self.script.hang_up_after_data:
            server.transport.abort()
        return "250 OK queued as 4711"


def _authenticate(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
) -> AuthResult:
    good = isinstance(data, LoginPassword) and data.password == b"correct horse"
    return AuthResult(success=good, handled=False, auth_data=data if good else None)


@contextmanager
def smtp_server(
    script: Script | None = None,
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    auth: bool = False,
    smtputf8: bool = False,
) -> Iterator[Server]:
    """Serve on an ephemeral port of 127.0.0.1 until the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(port=listener.getsockname()[1], script=script or Script())
    ready = threading.Event()
    stop: list[Any] = []

    def protocol() -> asyncio.Protocol:
        if server.script.greeting is not None:
            return _Curt(server.script.greeting)
        return SMTP(
            server,
            hostname="mail.test",
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=_authenticate if auth else None,
            # aiosmtpd does not see implicit TLS, which is around it.
            auth_required=auth and tls is None,
            auth_require_tls=tls is None,
            enable_SMTPUTF8=smtputf8,
        )

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        listening = await loop.create_server(protocol, sock=listener, ssl=tls)
        async with listening:
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="smtp server")
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        stop[0]()
        thread.join(10)
        assert not thread.is_alive()


class _Curt(asyncio.Protocol):
    """Says one thing and hangs up."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._greeting:
            transport.write(f"{self._greeting}\r\n".encode())
        transport.close()
