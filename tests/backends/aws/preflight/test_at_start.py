"""What is wrong at the start is said in one line that names what to mend, and gets its exit code:
2 where the operator has to mend it, 5 where it may pass by itself."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import threading
import time
from typing import Any

import pytest
import trio
import trustme
from botocore.exceptions import (
    ConnectTimeoutError,
    CredentialRetrievalError,
    MetadataRetrievalError,
)
from trio.testing import MockClock

from task_queue_engine import Engine, TaskRegistry
from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.aws.preflight import checks
from task_queue_engine.backends.aws.wire import retry
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.cli.failures import exit_code_of
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendRefused, TaskQueueError
from tests.backends.aws.fake_aws import (
    Reply,
    Started,
    but,
    dynamodb_error,
    healthy,
    sqs_error,
    start,
    statements_answered,
    variables,
)
from tests.backends.aws.sqs.conformance import MemoryAwsStore
from tests.backends.aws.sqs.queues import URLS
from tests.backends.aws.wire.canned import CLOSE, HANG, Answer, Request, answer, error, serving
from tests.sizes import LONG

pytestmark = pytest.mark.usefixtures("bare_environment")

KEYS = "credentials of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
NOT_MATCHING = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)
INVALID_TOKEN = "The security token included in the request is invalid."
EXPIRED = "The security token included in the request is expired"


async def refusal(monkeypatch: Any, reply: Reply, **options: Any) -> tuple[str, int]:
    """What is said, and the exit code, where the trouble lasts."""
    monkeypatch.setattr(checks, "PATIENCE", 0.4)
    changed = options.pop("changed", {})
    async with serving() as server:
        server.default = reply
        raised = await start(monkeypatch, variables(server.url, **changed), **options)
    return str(raised), exit_code_of(raised)


async def test_in_good_health_it_starts(monkeypatch: Any) -> None:
    """Else nothing here shows anything."""
    async with serving() as server:
        server.default = healthy
        assert isinstance(await start(monkeypatch, variables(server.url), runs_tasks=True), Started)


# --- credentials ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "reply", "said"),
    [
        ("GetQueueAttributes", sqs_error("InvalidClientTokenId", INVALID_TOKEN, 403), KEYS),
        ("GetQueueAttributes", sqs_error("SignatureDoesNotMatch", NOT_MATCHING, 403), KEYS),
        ("GetItem", dynamodb_error("UnrecognizedClientException", INVALID_TOKEN), KEYS),
        ("GetItem", dynamodb_error("InvalidSignatureException", NOT_MATCHING), KEYS),
        ("GetQueueAttributes", sqs_error("ExpiredToken", EXPIRED, 403), "have expired, renew them"),
        ("GetItem", dynamodb_error("ExpiredTokenException", EXPIRED), "have expired, renew them"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_credentials_that_are_refused(
    operation: str, reply: Answer, said: str, monkeypatch: Any
) -> None:
    line, code = await refusal(monkeypatch, but({operation: reply}))
    assert KEYS in line
    assert said in line
    assert code == 2


async def test_a_wrong_secret(monkeypatch: Any) -> None:
    line, code = await refusal(monkeypatch, healthy, changed={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert line.startswith(f"AWS does not accept the {KEYS}: ")
    assert code == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "se\ncret"}, f"{KEYS} contain a character"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE: "),
        ({"AWS_REGION": "eu central"}, "AWS_REGION: "),
        ({"AWS_ENDPOINT_URL": "localhost:9324"}, "AWS_ENDPOINT_URL: must be http(s)://host"),
        ({"AWS_ENDPOINT_URL_SQS": "ftp://h"}, "AWS_ENDPOINT_URL_SQS: must be http(s)://host"),
        ({"AWS_ENDPOINT_URL_SQS": "http://u:pw@h"}, "AWS_ENDPOINT_URL_SQS: must be http(s)://host"),
    ],
    ids=str,
)
async def test_what_is_wrong_in_the_environment(
    changed: dict[str, str], said: str, monkeypatch: Any
) -> None:
    line, code = await refusal(monkeypatch, healthy, changed=changed)
    assert said in line
    assert "pw@" not in line
    assert code == 2


# --- permissions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "denied"),
    [
        ("SendMessageBatch", ["sqs:SendMessage on the queue"]),
        ("ReceiveMessage", ["sqs:ReceiveMessage on the queue"]),
        ("DeleteMessageBatch", ["sqs:DeleteMessage on the dead-letter queue"]),
        ("ChangeMessageVisibilityBatch", ["sqs:ChangeMessageVisibility on the queue"]),
        ("GetQueueAttributes", ["GetQueueAttributes"]),
        ("GetItem", ["GetItem"]),
        ("Query", ["Query"]),
        ("BatchGetItem", ["dynamodb:BatchGetItem on the table"]),
        ("UpdateItem", ["dynamodb:UpdateItem on the table"]),
        (
            "BatchExecuteStatement",
            ["dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate", "dynamodb:PartiQLDelete"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_permission_that_is_missing(
    operation: str, denied: list[str], monkeypatch: Any
) -> None:
    reply = error("AccessDeniedException", "User: someone is not authorized", status=400)
    line, code = await refusal(monkeypatch, but({operation: reply}), runs_tasks=True)
    assert line.startswith("no permission")
    assert all(action in line for action in denied)
    assert "tqe doctor" in line
    assert "someone is not authorized" in line
    assert code == 2


async def test_an_engine_that_runs_tasks_asks_for_what_that_takes(monkeypatch: Any) -> None:
    async with serving() as server:
        server.default = but({"ReceiveMessage": error("AccessDeniedException")})
        for name, value in variables(server.url).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(BackendRefused, match="sqs:ReceiveMessage on the queue"):
            with trio.fail_after(20):
                await Engine(TaskRegistry()).run()


async def test_statements_that_are_denied_one_by_one(monkeypatch: Any) -> None:
    reply = but({"BatchExecuteStatement": statements_answered("AccessDenied", "not authorized")})
    line, code = await refusal(monkeypatch, reply, runs_tasks=True)
    assert "dynamodb:PartiQLUpdate on the table" in line
    assert code == 2


@pytest.mark.parametrize("operation", ["ReceiveMessage", "BatchExecuteStatement"])
async def test_who_runs_no_tasks_may_have_been_given_less(operation: str, monkeypatch: Any) -> None:
    async with serving() as server:
        server.default = but({operation: error("AccessDeniedException")})
        assert isinstance(await start(monkeypatch, variables(server.url)), Started)


# --- what is not there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "reply", "said"),
    [
        ("GetQueueAttributes", sqs_error("QueueDoesNotExist"), "SQS_QUEUE_URL: there is no queue"),
        ("GetItem", dynamodb_error("ResourceNotFoundException"), "DYNAMODB_TABLE: there is no"),
        ("GetItem", dynamodb_error("ValidationException", "schema"), "with the key id"),
        (
            "Query",
            dynamodb_error("ValidationException", "index"),
            "DYNAMODB_TABLE: table tasks has",
        ),
    ],
    ids=["queue", "table", "key", "index"],
)
async def test_what_is_missing(operation: str, reply: Answer, said: str, monkeypatch: Any) -> None:
    line, code = await refusal(monkeypatch, but({operation: reply}))
    assert said in line
    assert "tqe provision" in line
    assert code == 2


@pytest.mark.parametrize(
    "reply",
    [
        statements_answered("", ""),
        answer({"Responses": [{"TableName": "tasks"}]}),
        answer(status=404, body=b"<html>Not Found</html>"),
        error("UnknownOperationException"),
    ],
    ids=["nothing said", "conditions ignored", "404", "no PartiQL"],
)
async def test_a_server_that_would_lose_tasks(reply: Answer, monkeypatch: Any) -> None:
    line, code = await refusal(monkeypatch, but({"BatchExecuteStatement": reply}))
    assert line.startswith("TQE_DYNAMODB_WRITES: is batch, but what answers at http://127.0.0.1:")
    assert "set TQE_DYNAMODB_WRITES=single" in line
    assert code == 2


async def test_single_writes_ask_for_no_statements(monkeypatch: Any) -> None:
    async with serving() as server:
        server.default = but({"BatchExecuteStatement": error("UnknownOperationException")})
        environment = variables(server.url, TQE_DYNAMODB_WRITES="single")
        assert isinstance(await start(monkeypatch, environment, runs_tasks=True), Started)


# --- endpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        answer(body=b"<html>It works!</html>"),
        answer(status=404, body=b"<html>Not Found</html>"),
        answer(status=302, location="https://example.com/", body=b""),
        answer({"hello": "world"}),
        answer(status=204, body=b""),
        Answer(b"220 mail.example.com ESMTP\r\n", then="hang"),
        error("InvalidAction", "The action or operation requested is invalid."),
    ],
    ids=["page", "404", "redirect", "other API", "nothing", "not HTTP", "other service"],
)
async def test_what_answers_is_not_aws(reply: Answer, monkeypatch: Any) -> None:
    line, code = await refusal(monkeypatch, reply)
    assert "is not SQS (AWS_ENDPOINT_URL)" in line
    assert code == 2


async def test_one_service_where_the_other_is(monkeypatch: Any) -> None:
    async with serving() as sqs, serving() as dynamodb:
        sqs.default = healthy
        dynamodb.default = error("InvalidAction")
        environment = variables(sqs.url, AWS_ENDPOINT_URL_DYNAMODB=dynamodb.url)
        raised = await start(monkeypatch, environment)
    assert "is not DynamoDB (AWS_ENDPOINT_URL_DYNAMODB)" in str(raised)


async def test_a_server_that_closes(monkeypatch: Any) -> None:
    line, code = await refusal(monkeypatch, CLOSE)
    assert "cannot reach SQS at http://127.0.0.1:" in line
    assert "(AWS_ENDPOINT_URL)" in line
    assert code == 2


async def test_a_server_that_never_answers(monkeypatch: Any) -> None:
    assert checks.TIMEOUT <= 10, "the operator waits for this"
    monkeypatch.setattr(checks, "TIMEOUT", 0.3)
    line, code = await refusal(monkeypatch, HANG)
    assert "(AWS_ENDPOINT_URL): no answer within 0.3 s" in line
    assert code == 2


async def test_a_port_where_nothing_listens(monkeypatch: Any) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        raised = await start(monkeypatch, variables(url))
    assert f"cannot reach SQS at {url} (AWS_ENDPOINT_URL): " in str(raised)
    assert exit_code_of(raised) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_tls_that_does_not_fit(scheme: str, monkeypatch: Any) -> None:
    """Plain text to a TLS port, and TLS to a server with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}"

    async def handle(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context, server_side=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        raised = await start(monkeypatch, variables(url))
        nursery.cancel_scope.cancel()
    assert f"cannot reach SQS at {url} (AWS_ENDPOINT_URL): " in str(raised)
    assert exit_code_of(raised) == 2


# --- AWS itself -----------------------------------------------------------------------------

AWS = "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks"
ON_AWS = {
    "AWS_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "AKID",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "SQS_QUEUE_URL": AWS,
    "SQS_DLQ_URL": f"{AWS}-dlq",
    "DYNAMODB_TABLE": "tasks",
}


class _Resolver(trio.abc.HostnameResolver):
    """Whatever is asked for: this error, or an address without a server."""

    def __init__(self, error: int | None) -> None:
        self._error = error

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
        if self._error is not None:
            raise socket.gaierror(self._error, "as a test wants it")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("resolution", "code"),
    [(socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 5), (None, 5)],
    ids=["no such region", "no resolver", "connection refused"],
)
async def test_aws_out_of_reach(resolution: int | None, code: int, monkeypatch: Any) -> None:
    """AWS's address is no setting: unless there is no such host, the network is in trouble, and a
    supervisor that starts the engine again does the right thing."""
    monkeypatch.setattr(checks, "PATIENCE", 0.4)
    trio.socket.set_custom_hostname_resolver(_Resolver(resolution))
    raised = await start(monkeypatch, ON_AWS)
    line = str(raised)
    assert "cannot reach SQS at https://sqs.eu-central-1.amazonaws.com (AWS_REGION): " in line
    assert exit_code_of(raised) == code


async def test_a_proxy_that_is_not_there(monkeypatch: Any) -> None:
    raised = await start(monkeypatch, ON_AWS | {"HTTPS_PROXY": "http://127.0.0.1:1"})
    assert "through the proxy 127.0.0.1:1 (HTTPS_PROXY)" in str(raised)
    assert exit_code_of(raised) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_REGION": "us-east-1"}, "AWS_REGION: is us-east-1, but SQS_QUEUE_URL is a queue in"),
        (
            {"SQS_DLQ_URL": AWS.replace("eu-central-1", "eu-west-1") + "-dlq"},
            "AWS_REGION: is eu-central-1, but SQS_DLQ_URL is a queue in eu-west-1",
        ),
    ],
    ids=["both", "one"],
)
async def test_another_region(changed: dict[str, str], said: str, monkeypatch: Any) -> None:
    raised = await start(monkeypatch, ON_AWS | changed)
    assert said in str(raised)
    assert exit_code_of(raised) == 2


async def test_an_endpoint_in_another_region(monkeypatch: Any) -> None:
    reply = sqs_error(
        "SignatureDoesNotMatch", "Credential should be scoped to a valid region.", 403
    )
    line, code = await refusal(monkeypatch, reply)
    assert line.startswith("AWS_REGION is not the region of the endpoint (AWS_ENDPOINT_URL)")
    assert code == 2


# --- trouble that passes --------------------------------------------------------------------


STATEMENT_IN_TROUBLE = statements_answered("InternalServerError", "by a test")
PASSING = {
    "500": dynamodb_error("InternalServerError", status=500),
    "gateway": answer(status=502, body=b"<html>Bad Gateway</html>"),
    "cut": CLOSE,
}
# Those of a start with all checks, batch writes included, in their order: what a restart meets.
REQUESTS_AT_START = 22


class _WrongFor:
    """In good health, but for `number` requests from the `first` one on."""

    def __init__(self, reply: Answer, first: int, number: int) -> None:
        self.reply = reply
        self.wrong = range(first, first + number)
        self.operations: list[str] = []

    def __call__(self, request: Request) -> Answer:
        self.operations.append(request.operation)
        return self.reply if len(self.operations) - 1 in self.wrong else healthy(request)


async def start_with(reply: Reply, monkeypatch: Any) -> TaskQueueError:
    async with serving() as server:
        server.default = reply
        return await start(monkeypatch, variables(server.url), runs_tasks=True)


async def test_the_number_of_requests_at_the_start(monkeypatch: Any, mock_clock: MockClock) -> None:
    """Else the next test leaves some out. Time stands still: what the counters' repair asks now and
    then, and what is asked again where an answer is late, is not of it."""
    seen = _WrongFor(CLOSE, 0, 0)
    assert isinstance(await start_with(seen, monkeypatch), Started)
    assert len(seen.operations) == REQUESTS_AT_START


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (kind, first)
        for first in range(REQUESTS_AT_START)
        for kind in (("500", "cut") if LONG else ("500",) if first % 2 else ("cut",))
    ],
)
async def test_one_request_of_the_start_goes_wrong(kind: str, first: int, monkeypatch: Any) -> None:
    """Once: the client's own retries see to it."""
    reply = _WrongFor(PASSING[kind], first, 1)
    assert isinstance(await start_with(reply, monkeypatch), Started)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 8, 19, 21])
async def test_trouble_that_outlasts_a_requests_retries(first: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(checks, "_FIRST_WAIT", 0.02)
    reply = _WrongFor(PASSING["500"], first, 12)
    assert isinstance(await start_with(reply, monkeypatch), Started)


@pytest.mark.parametrize("code", ["InternalServerError", "ThrottlingError", "TransactionConflict"])
async def test_a_statement_that_fails_for_once(code: str, monkeypatch: Any) -> None:
    """Inside a 200: what the client's retries do not see."""
    left = [statements_answered(code, "by a test")] * 5  # the permissions ask three times

    def statement(request: Request) -> Answer:
        return left.pop() if left else healthy(request)

    reply = but({"BatchExecuteStatement": statement})
    assert isinstance(await start_with(reply, monkeypatch), Started)
    assert not left


@pytest.mark.parametrize(
    "reply",
    [STATEMENT_IN_TROUBLE, PASSING["500"], PASSING["gateway"], CLOSE],
    ids=["statement", "500", "gateway", "closed"],
)
async def test_statements_in_lasting_trouble(reply: Answer, monkeypatch: Any) -> None:
    """Told as what it is: nothing here says that conditions are not carried out."""
    line, code = await refusal(monkeypatch, but({"BatchExecuteStatement": reply}))
    assert code == 5
    assert "TQE_DYNAMODB_WRITES" not in line


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ConnectTimeoutError(endpoint_url="http://169.254.170.2"), 5),
        (MetadataRetrievalError(error_msg="503"), 5),
        (CredentialRetrievalError(provider="container-role", error_msg="no answer"), 5),
        (CredentialRetrievalError(provider="custom-process", error_msg="exit 1"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_credentials_whose_source_is_in_trouble(
    failure: Exception, code: int, monkeypatch: Any
) -> None:
    asked = 0
    again = threading.Event()

    def load() -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            again.set()
        raise failure

    async def open_backend() -> None:
        client = AwsClient(
            region="us-east-1",
            endpoints={"sqs": server.url, "dynamodb": server.url},
            load_credentials=load,
        )
        backend = AwsBackend(
            client=client, urls=URLS, store=MemoryAwsStore(ManualClock()), queue_name="default"
        )
        async with backend.open():
            pass

    async with serving() as server:
        with monkeypatch.context() as impatient:
            impatient.setattr(checks, "PATIENCE", 0)
            with pytest.raises(TaskQueueError) as caught:
                await open_backend()
        assert exit_code_of(caught.value) == code
        asked = 0
        if code == 2:
            with pytest.raises(TaskQueueError):
                await open_backend()
            assert asked == 1
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_backend)
                assert await trio.to_thread.run_sync(again.wait, 30)
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "reply",
    [
        but({"GetQueueAttributes": sqs_error("RequestThrottled")}),
        but({"GetQueueAttributes": sqs_error("ServiceUnavailable", status=503)}),
        but({"GetItem": dynamodb_error("InternalServerError", status=500)}),
        but({"Query": dynamodb_error("ThrottlingException")}),
        answer(status=502, body=b"<html>Bad Gateway</html>"),
    ],
    ids=["throttled", "503", "500", "throttled table", "gateway"],
)
async def test_a_service_in_trouble(reply: Reply, monkeypatch: Any) -> None:
    monkeypatch.setattr(retry, "_THROTTLED_BASE", 0.01)  # of the pauses between tries
    _, code = await refusal(monkeypatch, reply)
    assert code == 5


# --- the clock ------------------------------------------------------------------------------


async def test_a_clock_that_is_wrong_is_put_up_with_and_told(
    monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """SigV4 allows five minutes to either side."""

    def reply(request: Request) -> Answer:
        theirs = time.time() + 1200
        if abs(request.signed_for - theirs) < 300:
            return healthy(request)
        date = email.utils.formatdate(theirs, usegmt=True)
        said = "Signature expired: 20300101T000000Z is now earlier than 20300101T001500Z"
        return sqs_error("InvalidSignatureException", said, 403, date=date)

    async with serving() as server:
        server.default = reply
        assert isinstance(await start(monkeypatch, variables(server.url)), Started)
    (warning,) = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    said = re.search(r"this machine's clock is (\d+) s behind AWS's", warning)
    assert said
    # Their answer is on its way for a while on a busy machine.
    assert 1170 < int(said[1]) <= 1201


async def test_a_clock_that_nobody_can_correct(monkeypatch: Any) -> None:
    said = "Signature expired: 20300101T000000Z is now earlier than 20300101T001500Z"
    line, code = await refusal(monkeypatch, sqs_error("InvalidSignatureException", said, 403))
    assert line.startswith("this machine's clock is wrong: ")
    assert code == 2
