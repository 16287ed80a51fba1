"""Real SMTP conversations: what the server says, and what becomes of the task."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers import registry
from task_queue_engine.handlers.email.handler import EmailReceipt, send_email
from task_queue_engine.handlers.email.smtp import Refusal
from task_queue_engine.retry import Discard, Retry
from tests.handlers.contexts import SyncContext
from tests.handlers.smtp_server import Script, Server, smtp_server


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def trusted(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    with authority.cert_pem.tempfile(str(tmp_path)) as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        yield


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SMTP_FROM", "Queue <queue@example.org>")
    monkeypatch.setenv("SMTP_SECURITY", "none")
    monkeypatch.setenv("SMTP_TIMEOUT", "10")
    # The name said in EHLO; looking it up may ask the network.
    monkeypatch.setattr(socket, "getfqdn", lambda name="": "client.test")


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Any:
    def send(
        server: Server, data: Any = "user@example.com", context: SyncContext | None = None
    ) -> EmailReceipt:
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        return send_email(registry.get("email").convert_payload(data), context or SyncContext())

    return send


def test_a_mail_arrives(send: Any) -> None:
    context = SyncContext()
    with smtp_server() as server:
        receipt = send(
            server,
            {
                "to": "Ada <ada@example.com>",
                "cc": "c@example.com",
                "bcc": ["secret@example.com", "ada@example.com"],
                "subject": "Hello",
                "text": "One\n.\nThree",
            },
            context,
        )
    assert receipt == EmailReceipt(
        message_id=f"<{context.task_id}@example.org>",
        transport="smtp",
        accepted=["ada@example.com", "c@example.com", "secret@example.com"],
        response="250 OK queued as 4711",
    )
    (mail,) = server.mails
    assert mail.sender == "queue@example.org"
    assert mail.recipients == receipt.accepted
    assert mail.message["Subject"] == "Hello"
    assert mail.message["Message-ID"] == receipt.message_id
    assert mail.message.get_content() == "One\r\n.\r\nThree\r\n"
    assert b"secret" not in mail.content


def test_every_attempt_has_the_same_message_id(send: Any) -> None:
    first = SyncContext()
    with smtp_server(Script(hang_up_after_data=True)) as server:
        # The server took it, but its answer was lost: it is sent again, and can be told apart.
        with pytest.raises(Retry):
            send(server, context=first)
        server.script.hang_up_after_data = False
        send(server, context=SyncContext(task_id=first.task_id, attempt=2))
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 1
    assert len(server.mails) == 2


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (Script(greeting="554 no service here"), Discard),
        (Script(greeting="421 too busy"), Retry),
        (Script(greeting=""), Retry),
        (Script(greeting="what?"), Retry),
        (Script(mail="550 sender unknown"), Discard),
        (Script(mail="451 try later"), Retry),
        (Script(recipients={"user@example.com": "550 no such user"}), Discard),
        (Script(recipients={"user@example.com": "450 greylisted"}), Retry),
        (Script(recipients={"user@example.com": "421 closing"}), Retry),
        (Script(data="554 spam"), Discard),
        (Script(data="452 disk full"), Retry),
        (Script(hang_up_after_data=True), Retry),
    ],
    ids=repr,
)
def test_permanent_errors_discard_and_temporary_ones_retry(
    send: Any, script: Script, outcome: type[Exception]
) -> None:
    with smtp_server(script) as server, pytest.raises(outcome) as ended:
        send(server)
    said = [script.greeting, script.mail, script.data, *script.recipients.values()]
    for words in filter(None, said):
        if words != "what?":
            assert words[:3] in str(ended.value)
            assert words[4:] in str(ended.value)


def test_a_retry_leaves_the_waiting_to_the_backoff(send: Any) -> None:
    with smtp_server(Script(data="452 full")) as server, pytest.raises(Retry) as ended:
        send(server)
    assert ended.value.delay is None


def test_one_recipient_refused_for_good_does_not_keep_the_mail_from_the_others(send: Any) -> None:
    script = Script(recipients={"gone@example.com": "550 no such user"})
    with smtp_server(script) as server:
        receipt = send(server, {"to": ["gone@example.com", "here@example.com"]})
    assert receipt.accepted == ["here@example.com"]
    assert receipt.refused == [
        Refusal(address="gone@example.com", code=550, message="no such user")
    ]
    assert server.mails[0].recipients == ["here@example.com"]


def test_one_recipient_refused_for_now_holds_the_mail_back_so_that_nobody_gets_it_twice(
    send: Any,
) -> None:
    script = Script(recipients={"grey@example.com": "450 greylisted"})
    data = {"to": ["here@example.com", "grey@example.com"]}
    with smtp_server(script) as server:
        with pytest.raises(Retry, match=r"grey@example\.com: 450 greylisted"):
            send(server, data, SyncContext(attempt=1, max_attempts=3))
        assert server.mails == []
        script.recipients.clear()
        receipt = send(server, data, SyncContext(attempt=2, max_attempts=3))
    assert receipt.accepted == data["to"]
    assert len(server.mails) == 1


def test_the_last_attempt_sends_to_whom_it_can(send: Any) -> None:
    script = Script(recipients={"grey@example.com": "450 greylisted"})
    with smtp_server(script) as server:
        receipt = send(
            server,
            {"to": ["here@example.com", "grey@example.com"]},
            # Interrupted attempts count as starts, not as failures.
            SyncContext(attempt=9, retry_count=2, max_attempts=3),
        )
    assert receipt.accepted == ["here@example.com"]
    assert [refusal.code for refusal in receipt.refused] == [450]


def test_an_interrupted_attempt_does_not_make_the_next_one_the_last(send: Any) -> None:
    script = Script(recipients={"grey@example.com": "450 greylisted"})
    data = {"to": ["here@example.com", "grey@example.com"]}
    with smtp_server(script) as server, pytest.raises(Retry):
        send(server, data, SyncContext(attempt=9, retry_count=0, max_attempts=3))
    assert server.mails == []


def test_a_server_that_closes_is_not_a_refused_recipient(send: Any) -> None:
    script = Script(recipients={"late@example.com": "421 shutting down"})
    data = {"to": ["here@example.com", "late@example.com"]}
    with smtp_server(script) as server, pytest.raises(Retry, match="421 shutting down"):
        send(server, data, SyncContext(retry_count=4, max_attempts=5))
    assert server.mails == []


def test_all_refused_for_now_is_retried_to_the_end(send: Any) -> None:
    script = Script(recipients={"grey@example.com": "450 greylisted"})
    with smtp_server(script) as server, pytest.raises(Retry):
        send(server, "grey@example.com", SyncContext(retry_count=4, max_attempts=5))


def test_a_refusal_is_stored_as_one_clean_line(send: Any) -> None:
    script = Script(recipients={"gone@example.com": "550-no\x07\tsuch\r\n550 user"})
    with smtp_server(script) as server:
        receipt = send(server, {"to": ["gone@example.com", "here@example.com"]})
    assert receipt.refused[0].message == "no such user"


# --- network ----------------------------------------------------------------------------------


def test_no_server_is_a_retry(send: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Retry, match=f"127.0.0.1:{port}"):
        send(Server(port=port, script=Script()))


@pytest.mark.parametrize("security", ["none", "tls"])
def test_a_silent_server_is_a_retry_after_the_timeout(
    send: Any, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", security)
    monkeypatch.setenv("SMTP_TIMEOUT", "0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(port=listener.getsockname()[1], script=Script())
        # Resets the connection, so that the test ends also where the timeout does not.
        hang_up = threading.Timer(10, listener.close)
        hang_up.start()
        with pytest.raises(Retry, match="timed out"):
            send(server)
        hang_up.cancel()
        hang_up.join()


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_cancelled_attempt_stops_before_the_mail_is_sent(send: Any, step: int) -> None:
    left = [step]

    def stop() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    with smtp_server() as server, pytest.raises(Stopped):
        send(server, context=SyncContext(stop=stop))
    assert server.conversations == 1
    assert server.mails == []


# --- TLS and login ----------------------------------------------------------------------------


@pytest.mark.usefixtures("trusted")
def test_starttls_and_login(
    send: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", "starttls")
    monkeypatch.setenv("SMTP_USERNAME", "ada")
    monkeypatch.setenv("SMTP_PASSWORD", "correct horse")
    with smtp_server(starttls=server_tls, auth=True) as server:
        send(server)
    assert server.mails[0].over_tls
    assert server.mails[0].login == "ada"


@pytest.mark.usefixtures("trusted")
def test_implicit_tls(
    send: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", "tls")
    monkeypatch.setenv("SMTP_USERNAME", "ada")
    monkeypatch.setenv("SMTP_PASSWORD", "correct horse")
    with smtp_server(tls=server_tls, auth=True) as server:
        send(server)
    assert server.mails[0].over_tls
    assert server.mails[0].login == "ada"


@pytest.mark.usefixtures("trusted")
def test_a_refused_login_discards_and_keeps_the_password_to_itself(
    send: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", "starttls")
    monkeypatch.setenv("SMTP_USERNAME", "ada")
    monkeypatch.setenv("SMTP_PASSWORD", "wrong horse")
    with (
        smtp_server(starttls=server_tls, auth=True) as server,
        pytest.raises(Discard, match="535") as ended,
    ):
        send(server)
    assert "wrong horse" not in str(ended.value)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_unknown_authority_is_refused(
    send: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", security)
    context = {security: server_tls}
    with smtp_server(**context) as server, pytest.raises(Discard, match="certificate"):
        send(server)
    assert server.mails == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_name_is_refused(
    send: Any, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", "starttls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mail.example.com").configure_cert(context)
    with smtp_server(starttls=context) as server, pytest.raises(Discard, match="certificate"):
        send(server)


def test_a_server_without_starttls_gets_no_mail_in_the_clear(
    send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", "starttls")
    with smtp_server() as server, pytest.raises(Discard, match="STARTTLS"):
        send(server)
    assert server.mails == []


# --- internationalised addresses --------------------------------------------------------------


def test_an_internationalised_domain_goes_to_any_server(send: Any) -> None:
    with smtp_server(smtputf8=False) as server:
        receipt = send(server, "user@exämple.de")
    assert receipt.accepted == server.mails[0].recipients == ["user@xn--exmple-cua.de"]
    assert server.mails[0].content.isascii()


def test_an_internationalised_mailbox_needs_a_server_that_knows_smtputf8(send: Any) -> None:
    with smtp_server(smtputf8=False) as server, pytest.raises(Discard, match="SMTPUTF8"):
        send(server, "jörg@example.com")
    with smtp_server(smtputf8=True) as server:
        receipt = send(server, "jörg@example.com")
    assert receipt.accepted == server.mails[0].recipients == ["jörg@example.com"]
    assert server.mails[0].message["To"] == "jörg@example.com"


# --- configuration ----------------------------------------------------------------------------


def test_a_wrong_variable_fails_the_task_at_once(
    send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", "ssl")
    with pytest.raises(ConfigurationError, match="SMTP_SECURITY"):
        send(Server(port=1, script=Script()))
    assert registry.get("email").error_rules == {ConfigurationError: None}
